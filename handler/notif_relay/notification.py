# SPDX-License-Identifier: Apache-2.0
"""Notifications as subscribers read them: records that are decoded on demand.

Subscribers read many records and use few of them, so a notification holds the bytes of the record
until a field is read. ``event_type`` usually decides which notifications are used. In records
that the log driver wrote, it is found without decoding the JSON, which would take 20 times as
long.

``Gap`` derives from ``Notification``, because a gap record is part of the stream. Programs that
only print notifications need no special case for gaps.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from collections.abc import Callable
from typing import Any, ClassVar

from notif_relay import records
from notif_relay.errors import UnreadableRecord
from notif_relay.escaping import printable
from notif_relay.records import BACKSLASH

_ID_END = len('{"message_id": "') + len("00000000-0000-0000-0000-000000000000")
"""Offset of the end of the message id in a record of the log driver."""

_NAME = b'"event_type"'

_MAX_HEAD_SIZE = 1024
"""Bytes before the payload; a record in which it starts later is decoded completely."""

_MAX_CACHED_HEADS = 1024
"""Cache size; a head is one combination of publisher, event type and priority."""

_match_head = re.compile(
    rb'", "publisher_id": "[^"\\]*", "event_type": "([^"\\]*)", "priority": "[^"\\]*", "payload": '
).fullmatch


@functools.lru_cache(_MAX_CACHED_HEADS)
def _event_type(head: bytes) -> str | None:
    """Return the event type in the bytes between the message id and the payload.

    Return None if they do not have the format of the log driver.
    """
    match = _match_head(head)
    return None if match is None else match[1].decode()


def head(record: bytes) -> bytes | None:
    """Return the bytes with publisher, event type and priority, in the format of the log driver.

    Records with equal heads have the same publisher, event type and priority, unless a record has
    duplicate names: this function ignores the values after the payload.

    Returns:
        None if the record may have another format; `is_head` tells whether it has.
    """
    payload = record.find(b"{", 1, _MAX_HEAD_SIZE)
    return record[_ID_END:payload] if payload > 0 else None


def is_head(found: bytes) -> bool:
    """Return whether a result of `head` has the format of the log driver."""
    return _match_head(found) is not None


def decode(record: bytes) -> dict[str, Any]:
    """Return the fields of a record; for duplicate names, the last value.

    Raises:
        UnreadableRecord: the record is not a JSON object, or is nested too deeply for Python.
    """
    try:
        try:
            fields = json.loads(record)
        except json.JSONDecodeError:
            raise
        except ValueError:  # most likely an integer with more digits than Python converts
            fields = json.loads(record, parse_int=records.parse_integer)
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(len(record), error) from error
    if not isinstance(fields, dict):
        raise UnreadableRecord(len(record), "not a JSON object")
    return fields


class Notification:
    """One notification, as the service sent it.

    Fields are decoded on first access. The relay guarantees only that a record is a JSON object
    with ``event_type`` and ``priority``. For a field with duplicate names, which JSON writers do
    not produce, the last value is used, as in the relay.

    A valid record can be nested too deeply for Python (about 900 levels). Then ``payload`` raises
    ``UnreadableRecord``, and the other fields are empty, except ``event_type`` where it can be
    found without decoding. Integers with more digits than Python converts (4300) become floats.

    A notification can be pickled and passed to another process, which cannot finish it.

    Args:
        raw: the record, including its newline.
    """

    __slots__ = ("_decoded", "_finish", "_number", "raw")

    _decoded: dict[str, Any]
    _finish: Callable[[int], None]
    _number: int

    raw: bytes
    """The record byte for byte, including its newline."""

    redelivered: ClassVar[bool] = False
    """Whether another member of the group got this notification before and may have handled it.

    True for ``Redelivered`` only.
    """

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __reduce__(self) -> tuple[type[Notification], tuple[bytes]]:
        """Pickle the record only: another process cannot finish the notification."""
        return type(self), (self.raw,)

    def __copy__(self) -> Notification:
        """Return the notification itself, which never changes."""
        return self

    def __deepcopy__(self, _memo: object) -> Notification:
        """Return the notification itself, which never changes."""
        return self

    def attach(self, finish: Callable[[int], None], number: int) -> None:
        """Let ``done`` call ``finish(number)``."""
        self._finish = finish
        self._number = number

    def done(self) -> None:
        """Note that this notification is finished: the relay need not send it to another member.

        Any thread may call this, for notifications in any order. The relay is told in batches. A
        further call does nothing, and neither does a call after the connection has ended: the relay
        then sends the notification again. Without a ``window``, there is nothing to finish. A
        ``Gap`` is finished like any other notification.

        Raises:
            WrongProcess: this is a child process of the one that subscribed.
        """
        try:
            finish = self._finish
        except AttributeError:
            return
        finish(self._number)

    @property
    def event_type(self) -> str:
        """The type of the event, for example ``compute.instance.create.end``."""
        raw = self.raw
        # No other brace precedes this one, so the fields before it belong to the record itself
        # and not to its payload. The sequence of quote, comma, quote and name occurs only after
        # the end of a value, so the bytes before _ID_END need no check.
        payload = raw.find(b"{", 1, _MAX_HEAD_SIZE)
        if payload > 0:
            found = _event_type(raw[_ID_END:payload])
            if (
                found is not None
                # No duplicate follows, in any spelling: the last value would be used.
                and raw.find(_NAME, payload) < 0
                and (BACKSLASH not in raw or not records.has_escaped_letters(raw))
            ):
                return found
        return self._text("event_type")

    @property
    def priority(self) -> str:
        """The priority as the service wrote it, for example ``INFO`` or ``ERROR``."""
        return self._text("priority")

    @property
    def publisher_id(self) -> str:
        """The service and its host; empty if the record does not name them."""
        return self._text("publisher_id")

    @property
    def message_id(self) -> str:
        """A UUID as a string; empty if the record has none."""
        return self._text("message_id")

    @property
    def payload(self) -> Any:
        """The content of the notification, usually a dictionary; None if the record has none.

        Raises:
            UnreadableRecord: Python cannot decode the record.
        """
        return self._fields().get("payload")

    @property
    def timestamp(self) -> dt.datetime | None:
        """The time of the notification in UTC; None if the record has no date and time.

        The log driver writes UTC without a time zone, as in ``2026-01-31 12:00:00.123456``.
        Other forms of ISO 8601 are read if ``datetime.fromisoformat`` accepts them, and with ``Z``
        for UTC.
        """
        text = self._text("timestamp")
        if text.endswith(("Z", "z")):  # Python 3.10 does not accept it
            text = text[:-1] + "+00:00"
        try:
            moment = dt.datetime.fromisoformat(text)
            if moment.tzinfo is None:
                return moment.replace(tzinfo=dt.timezone.utc)
            return moment.astimezone(dt.timezone.utc)
        except (ValueError, OverflowError):
            return None

    def __repr__(self) -> str:
        """Show the event type, shortened and printable, and the size."""
        return f"<{type(self).__name__} {printable(self.event_type)}, {len(self.raw)} bytes>"

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
    """Marks a position in the stream at which notifications are missing.

    Only well-formed gap records become a ``Gap``; others are plain ``Notification`` objects.
    """

    __slots__ = ()

    @property
    def dropped(self) -> int | None:
        """Number of missing notifications; None if it is unknown."""
        dropped: int | None = self.payload["dropped"]
        return dropped

    @property
    def reason(self) -> str:
        """``slow_subscriber``, ``producer_congested``, ``relay_restarted``, or another word."""
        return str(self.payload["reason"])

    def __repr__(self) -> str:
        """Show the number of missing notifications and the reason."""
        return f"<{type(self).__name__} dropped={self.dropped} reason={printable(self.reason)}>"


class Redelivered(Notification):
    """A notification that was sent to another member of the group, which did not finish it.

    That member may have handled it, completely or in part.
    """

    __slots__ = ()

    redelivered: ClassVar[bool] = True
