# SPDX-License-Identifier: Apache-2.0
"""What a notifier hands over, as a record; and a record, as what a listener's endpoints are given.

The six fields of the notification stay where every other subscriber looks for them. What only
oslo.messaging knows of stands behind them, under two more keys, each left out where there is
nothing to say:

- ``_topic``: the topic, without the priority that oslo.messaging appends to it;
- ``_context``: the request context, an object.

Records of the log driver, and of ``driver = unix``, have neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from notif_relay.notification import decode

TOPIC = "_topic"
CONTEXT = "_context"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A notification with what oslo.messaging carries along with it."""

    message: dict[str, Any]
    """The notification's fields."""
    priority: str
    """In lower case, as the methods of endpoints are named."""
    topic: str | None
    """Without the priority; None if the notification is for listeners of every topic."""
    context: dict[str, Any]


def seal(topic: str, context: Any, message: Mapping[str, Any]) -> dict[str, Any]:
    """The record's fields for a notification on ``topic``, which ends with the priority.

    ``context`` is a mapping, or an object that can make one of itself, as with every transport.
    """
    fields = dict(message)
    fields[TOPIC] = topic.removesuffix("." + message["priority"].lower())
    if context:
        fields[CONTEXT] = context if isinstance(context, Mapping) else context.to_dict()
    return fields


def unseal(record: bytes) -> Envelope:
    """What a record carries.

    Raises:
        ValueError: the relay does not let such a record through, or it is an ``UnreadableRecord``.
    """
    fields = decode(record)
    if not isinstance(fields.get("priority"), str):
        raise ValueError("it is no notification")
    # Anyone may produce records, so these two are no promise.
    topic, context = fields.pop(TOPIC, None), fields.pop(CONTEXT, None)
    return Envelope(
        message=fields,
        priority=fields["priority"].lower(),
        topic=topic if isinstance(topic, str) else None,
        context=context if isinstance(context, dict) else {},
    )
