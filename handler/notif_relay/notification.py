# SPDX-License-Identifier: Apache-2.0
"""What a subscriber gets: one record, decoded as far as it is asked for.

A subscriber reads many records and looks at few, so a notification is its bytes until a field is
wanted. One field decides which ones are looked at: ``event_type`` of a record that the log driver
wrote is found without decoding the JSON, which would cost twenty times as much. This file owns
what is known of that shape; nothing here knows of sockets.

A gap is a notification as well, as it is a record in the stream: who only prints what comes needs
no second case for it, and who cares asks ``isinstance(notification, Gap)``.
"""

import datetime as dt
import functools
import json
import re
from typing import Any

from notif_relay import records
from notif_relay.errors import UnreadableRecord
from notif_relay.records import BACKSLASH

_ID_END = len('{"message_id": "') + len("00000000-0000-0000-0000-000000000000")

_NAME = b'"event_type"'

_LONGEST_HEAD = 1024
"""Bytes; a record whose payload begins later than that is decoded as a whole."""

_REMEMBERED = 1024
"""Heads whose event type is remembered: one for each publisher with each of its event types."""

_head = re.compile(
    rb'", "publisher_id": "[^"\\]*", "event_type": "([^"\\]*)", "priority": "[^"\\]*", "payload": '
).fullmatch


@functools.lru_cache(_REMEMBERED)
def _event_type(head: bytes) -> str | None:
    """The event type in what stands between a message id and the payload, if it has this shape."""
    match = _head(head)
    return None if match is None else match[1].decode()


def decode(record: bytes) -> dict[str, Any]:
    """The fields of a record; of a name that is given twice the last value.

    Raises:
        UnreadableRecord: it is not a JSON object, or it is nested too deep for Python.
    """
    try:
        try:
            fields = json.loads(record)
        except json.JSONDecodeError:
            raise
        except ValueError:  # most likely an integer of more digits than Python converts
            fields = json.loads(record, parse_int=records.number)
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(len(record), error) from error
    if not isinstance(fields, dict):
        raise UnreadableRecord(len(record), "it is not a JSON object")
    return fields


class Notification:
    """One notification, as it came.

    Fields are decoded when first asked for, and not checked beyond what the relay has checked:
    it relays only JSON objects with ``event_type`` and ``priority``. If a field is given twice,
    which no JSON writer does, the last one counts, as it does for the relay.

    A record may be valid JSON and still be nested too deep for Python (about 900 levels). Then
    ``payload`` raises ``UnreadableRecord``, and all other fields are empty. An integer with more
    digits than Python converts (4300) is a float.
    """

    __slots__ = ("_decoded", "raw")

    _decoded: dict[str, Any]

    raw: bytes
    """The record byte for byte, the newline at its end included."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @property
    def event_type(self) -> str:
        """What has happened, like ``compute.instance.create.end``."""
        raw = self.raw
        # No other brace so far: what is found is a field of the record itself and not of its
        # payload. A quote, comma, quote and name in a row stand only behind the end of a value,
        # so the bytes up to _ID_END need not be looked at.
        payload = raw.find(b"{", 1, _LONGEST_HEAD)
        if payload > 0:
            found = _event_type(raw[_ID_END:payload])
            if (
                found is not None
                # No other one follows, in whatever spelling: the last one would count.
                and raw.find(_NAME, payload) < 0
                and (BACKSLASH not in raw or not records.has_escaped_letters(raw))
            ):
                return found
        return self._text("event_type")

    @property
    def priority(self) -> str:
        """``INFO``, ``ERROR`` and so on, as the service wrote it."""
        return self._text("priority")

    @property
    def publisher_id(self) -> str:
        """Which service on which host; empty if it does not say."""
        return self._text("publisher_id")

    @property
    def message_id(self) -> str:
        """A UUID, as a string; empty if the service gave none."""
        return self._text("message_id")

    @property
    def payload(self) -> Any:
        """What the service tells, mostly a dictionary.

        Raises:
            UnreadableRecord: Python cannot decode the record.
        """
        return self._fields().get("payload")

    @property
    def timestamp(self) -> dt.datetime | None:
        """When it was emitted, in UTC; None if the service gave no date and time.

        The log driver writes ``2026-01-31 12:00:00.123456`` and means UTC. Other forms of
        ISO 8601 are read as far as Python's ``datetime.fromisoformat`` does, and ``Z``.
        """
        text = self._text("timestamp")
        if text.endswith(("Z", "z")):  # Python 3.10 does not know it
            text = text[:-1] + "+00:00"
        try:
            moment = dt.datetime.fromisoformat(text)
            if moment.tzinfo is None:
                return moment.replace(tzinfo=dt.timezone.utc)
            return moment.astimezone(dt.timezone.utc)
        except (ValueError, OverflowError):
            return None

    def __repr__(self) -> str:
        """Shows what it is about, not what may be a megabyte."""
        return f"<{type(self).__name__} {self.event_type}, {len(self.raw)} bytes>"

    def _fields(self) -> dict[str, Any]:
        try:
            return self._decoded
        except AttributeError:
            self._decoded = decode(self.raw)
            return self._decoded

    def _text(self, name: str) -> str:
        try:
            value = self._fields().get(name)
        except UnreadableRecord:
            return ""
        return value if isinstance(value, str) else ""


class Gap(Notification):
    """Says that notifications are missing at this point of the stream.

    Only a well-formed gap record becomes one; any other is a plain ``Notification``.
    """

    __slots__ = ()

    @property
    def dropped(self) -> int | None:
        """How many, None if nobody can know."""
        dropped: int | None = self.payload["dropped"]
        return dropped

    @property
    def reason(self) -> str:
        """``slow_subscriber``, ``producer_congested`` or ``relay_restarted``."""
        return str(self.payload["reason"])

    def __repr__(self) -> str:
        """Shows what there is to know of it."""
        return f"<{type(self).__name__} dropped={self.dropped} reason={self.reason}>"
