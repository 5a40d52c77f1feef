# SPDX-License-Identifier: Apache-2.0
"""Converts a record to the messages that a service would have sent to RabbitMQ.

The driver ``messagingv2`` sends a notification once for each topic. The topic and the priority
are the routing key. The body is an envelope around the notification as text, in which the keys of
the request context start with ``_context_``.

A local producer chooses the content of a record, so a message must not pass for anything but a
notification. The queues of remote procedure calls are named ``topic`` and ``topic.server``;
therefore only the priorities of notifications are allowed as the last part of a routing key. At
the top level of a notification, names with an underscore are instructions to oslo.messaging
(``_reply_q``) or to the relay (``_topic``), so those of the record are omitted.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kombu import compression, serialization
from oslo_messaging._drivers import amqp as driver_format
from oslo_messaging._drivers import common as driver_envelope

from notif_relay.errors import UnreadableRecord
from notif_relay.messaging.envelope import unseal
from notif_relayd_bridge.brokers.template import LOWER_PRIORITIES

MAX_TOPICS = 16
"""Maximum number of topics that one record can name; a message is sent to each."""

MAX_ROUTING_KEY = 255
"""Maximum size of a routing key in bytes: a short string of AMQP."""

_EMPTY = "{}"

# What the driver sends for an empty notification. Building each envelope from it takes a third of
# the time that the driver's functions would take.
_TYPE, _ENCODING, _ENVELOPE = serialization.dumps(driver_envelope.serialize_msg({}), "json")
_BEFORE, _AFTER = _ENVELOPE.split(json.dumps(_EMPTY))


class UnsendableRecordError(Exception):
    """The record cannot be sent; the message states why."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a message is sent."""

    routing_key: str
    """Also the name of the queue."""
    from_record: bool
    """Whether the record names the topic, rather than the configuration."""


@dataclass(frozen=True, slots=True)
class Body:
    """The content of a message."""

    data: bytes
    content_type: str
    content_encoding: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Contents:
    """A record that can be sent."""

    addresses: list[Address]
    _fields: dict[str, Any]
    _context: dict[str, Any]

    def body(self, method: str | None) -> Body:
        """Return the content of a message; it differs from any other in one field, a unique id.

        Args:
            method: the compression, one that kombu knows; None for none.

        Raises:
            UnsendableRecordError: the record cannot be encoded.
        """
        message = {**self._fields, driver_format.UNIQUE_ID: uuid.uuid4().hex}
        driver_format.pack_context(message, self._context)
        try:
            text = json.dumps(json.dumps(message))
        except (ValueError, RecursionError) as error:
            raise UnsendableRecordError("the record cannot be encoded") from error
        data = f"{_BEFORE}{text}{_AFTER}".encode(_ENCODING)
        headers = {}
        if method:
            data, headers["compression"] = compression.compress(data, method)
        return Body(data, _TYPE, _ENCODING, headers)


def contents(record: bytes, default_topic: str) -> Contents:
    """Return what to send for a record, and where.

    Args:
        record: the JSON object.
        default_topic: the topic of records that name none.

    Raises:
        UnsendableRecordError: the record is not a notification that a service could have sent.
    """
    try:
        envelope = unseal(record)
    except (UnreadableRecord, ValueError) as error:
        raise UnsendableRecordError("the record cannot be decoded") from error
    if envelope.priority not in LOWER_PRIORITIES:
        raise UnsendableRecordError("its priority is none of a notification")
    if len(envelope.topics) > MAX_TOPICS:
        raise UnsendableRecordError(f"it has more than {MAX_TOPICS} topics")
    return Contents(
        _addresses(sorted(envelope.topics), default_topic, envelope.priority),
        {name: value for name, value in envelope.message.items() if not name.startswith("_")},
        envelope.context,
    )


def _addresses(topics: Sequence[str], default_topic: str, priority: str) -> list[Address]:
    found = [Address(f"{topic}.{priority}", True) for topic in topics]
    if not all(_is_valid(each.routing_key) for each in found):
        raise UnsendableRecordError("its topic is invalid")
    return found or [Address(f"{default_topic}.{priority}", False)]


def _is_valid(routing_key: str) -> bool:
    # Lone surrogates are not printable.
    return routing_key.isprintable() and len(routing_key.encode()) <= MAX_ROUTING_KEY
