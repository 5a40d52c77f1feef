# SPDX-License-Identifier: Apache-2.0
"""Converts a message of a broker to a record.

Bridges send records as they are. The drivers of oslo.messaging put a notification as text into an
envelope. Its record is that of oslo.messaging's transport ``unix``: with the topic and the request
context in fields of their own, and with secrets masked.
"""

from __future__ import annotations

from typing import Any

from notif_relay.errors import UnreadableRecord
from notif_relay.messaging.envelope import CONTEXT, seal
from notif_relay.messaging.serialization import dump
from notif_relay.notification import decode
from notif_relayd_bridge.brokers.source import MAX_MESSAGE_SIZE

VERSION = "oslo.version"
MESSAGE = "oslo.message"

_QUOTED = f'"{MESSAGE}"'.encode()


class UnreadableMessageError(Exception):
    """The message is no notification; the text states why."""


def to_record(message: bytes | None, topic: str) -> bytes:
    """Return the record of a message; without an envelope, it is the message itself.

    Only an envelope is decoded, so the result is not necessarily a valid record.

    Args:
        message: the content.
        topic: the topic that the message was sent to, with the priority.

    Raises:
        UnreadableMessageError: the message has no content, is too large, or has an envelope that
            contains no notification.
    """
    if not message:
        raise UnreadableMessageError("it is empty")
    if len(message) > MAX_MESSAGE_SIZE:
        raise UnreadableMessageError(f"it is larger than {MAX_MESSAGE_SIZE} bytes")
    if _QUOTED not in message:
        return message
    outer = _decode(message)
    if not (VERSION in outer and MESSAGE in outer):
        return message  # The text is a part of the payload.
    notification = content(outer)
    context = notification.get(CONTEXT)  # As the driver for Kafka has it.
    return to_json(notification, context if isinstance(context, dict) else {}, topic)


def to_json(notification: dict[str, Any], context: dict[str, Any], topic: str) -> bytes:
    """Return the record of a notification of oslo.messaging.

    Args:
        notification: its fields; those that begin with an underscore are omitted.
        context: the request context.
        topic: the topic that it was sent to, with the priority.

    Raises:
        UnreadableMessageError: it is no notification, or cannot be encoded.
    """
    if not all(isinstance(notification.get(name), str) for name in ("event_type", "priority")):
        raise UnreadableMessageError("it has no event_type or no priority")
    fields = {name: value for name, value in notification.items() if not name.startswith("_")}
    try:
        text = dump(seal(topic, {}, fields))
        if context:
            # On its own: it almost always contains names of secrets, for which `dump` would search
            # the payload as well. That would take three times as long.
            text = f'{text[:-1]}, "{CONTEXT}": {dump(context)}}}'
        return text.encode()
    except (ValueError, RecursionError) as error:
        raise UnreadableMessageError("it cannot be written as JSON") from error


def content(outer: dict[str, Any]) -> dict[str, Any]:
    """Return the notification in an envelope, with the fields of its context.

    Args:
        outer: the object with the keys `VERSION` and `MESSAGE`.

    Raises:
        UnreadableMessageError: the envelope contains no notification.
    """
    version, text = outer[VERSION], outer[MESSAGE]
    if not (isinstance(version, str) and version.partition(".")[0] == "2"):
        raise UnreadableMessageError("it has another version of the envelope than 2")
    if not isinstance(text, str):
        raise UnreadableMessageError("its envelope contains no text")
    return _decode(text.encode(errors="surrogatepass"))


def _decode(data: bytes) -> dict[str, Any]:
    try:
        return decode(data)
    except UnreadableRecord as error:
        raise UnreadableMessageError("it has an envelope and is not JSON") from error
