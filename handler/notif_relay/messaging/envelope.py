# SPDX-License-Identifier: Apache-2.0
"""Conversion between oslo.messaging's notifications and records.

The six fields of the notification remain at the top level, where all other subscribers expect
them. Data that only oslo.messaging uses follows under two more keys, which are omitted if empty:

- ``_topic``: the topic, without the priority that oslo.messaging appends to it; a list for a
  notifier with several topics. Records for the topic ``notifications`` do not have it, so that they
  are those of the log driver, which does not write topics;
- ``_context``: the request context, an object. Only the transport sends it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from notif_relay.notification import decode

TOPIC = "_topic"
CONTEXT = "_context"

DEFAULT_TOPIC = "notifications"
"""The topic of notifiers whose configuration names none, and of records without a topic."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A notification with its topic and context."""

    message: dict[str, Any]
    """The fields of the notification."""
    priority: str
    """In lower case, like the names of endpoint methods."""
    topics: frozenset[str]
    """The topics without the priority; empty if the record names none."""
    context: dict[str, Any]
    """The request context; empty if there is none."""


def topic_field(topics: Sequence[str]) -> dict[str, Any]:
    """Return the field of the record for a notification with these topics; none by default."""
    if not topics or list(topics) == [DEFAULT_TOPIC]:
        return {}
    return {TOPIC: topics[0] if len(topics) == 1 else list(topics)}


def seal(topic: str, context: Any, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the record for a notification.

    Args:
        topic: the topic, followed by a full stop and the priority.
        context: a mapping, or an object with a method ``to_dict``.
        message: the fields of the notification.
    """
    fields = dict(message)
    priority = message["priority"]
    if isinstance(priority, str):  # the producer rejects any other
        topic = topic.removesuffix("." + priority.lower())
    fields.update(topic_field([topic]))
    if context:
        fields[CONTEXT] = context if isinstance(context, Mapping) else context.to_dict()
    return fields


def unseal(record: bytes) -> Envelope:
    """Return the content of a record.

    Raises:
        ValueError: the record has no priority, which the relay does not let through.
        UnreadableRecord: Python cannot decode the record.
    """
    fields = decode(record)
    if not isinstance(fields.get("priority"), str):
        raise ValueError("the record has no priority")
    # Any producer may set these two, so their types are not guaranteed.
    topic, context = fields.pop(TOPIC, None), fields.pop(CONTEXT, None)
    return Envelope(
        message=fields,
        priority=fields["priority"].lower(),
        topics=_topics(topic),
        context=context if isinstance(context, dict) else {},
    )


def _topics(value: object) -> frozenset[str]:
    values = value if isinstance(value, list) else [value]
    return frozenset(each for each in values if isinstance(each, str))
