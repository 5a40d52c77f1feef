# SPDX-License-Identifier: Apache-2.0
"""Turns the bytes that the relay sends into notifications; uses no sockets.

The subscribers with threads and with asyncio share this code, so that both yield the same
notifications. One stream continues over many connections:

- A connection *flows* after the relay has answered the filter request. Records before the answer
  are discarded.
- When a connection ends, its partial record is discarded. If the connection flowed, the next one
  that flows starts with a gap of unknown size.
- A record that cannot be decoded, or that only resembles one of the relay's, is yielded like any
  other. It never ends the stream and never replaces another record.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator

from notif_relay import records
from notif_relay.errors import BadFilter, RelayError, RelayUnavailable, UnreadableRecord
from notif_relay.notification import Gap, Notification, decode

OnGap = Callable[[Gap], object]


class Stream:
    """The notifications of one subscriber.

    Args:
        path: path of the public socket, for error messages.
        on_gap: called with each gap at its position in the stream; the gap is then not yielded.
            None: gaps are yielded.
    """

    def __init__(self, path: str, on_gap: OnGap | None) -> None:
        self.flowing = False
        """Whether the relay has applied the filter of the current connection."""
        self._path = path
        self._on_gap = on_gap
        self._partial: list[bytes] = []
        """The incomplete last record, in pieces: a long record arrives in many reads."""
        self._gap_pending = False

    def receive(self, data: bytes) -> Iterator[Notification]:
        """Return the notifications that ``data`` completes.

        Args:
            data: at least one byte, as read from the socket.

        Returns:
            An iterator, which calls ``on_gap`` when it reaches a gap. If ``on_gap`` raises an
            exception, the iterator can be used again and continues after the gap.

        Raises:
            BadFilter: the relay refused the filter.
            RelayUnavailable: the relay has reached its maximum number of subscribers.
        """
        continued = bool(self._partial)
        lines = self._lines(data)
        if self.flowing and not _may_contain_gap(lines, data, continued):
            return map(Notification, lines)
        if self._on_gap is None:
            return iter(self._notifications(lines))
        return filter(self._is_yielded, self._notifications(lines))

    def end(self) -> None:
        """Note the end of the connection; iterators of ``receive`` remain valid."""
        self._gap_pending |= self.flowing
        self.flowing = False
        self._partial.clear()

    def _lines(self, data: bytes) -> list[bytes]:
        lines = io.BytesIO(data).readlines()  # the fastest method that splits only at \n
        if self._partial:
            self._partial.append(lines[0])
            if not lines[0].endswith(b"\n"):
                return []
            lines[0] = b"".join(self._partial)
            self._partial.clear()
        if not lines[-1].endswith(b"\n"):
            self._partial.append(lines.pop())
        return lines

    def _notifications(self, lines: Iterable[bytes]) -> list[Notification]:
        found: list[Notification] = []
        for line in lines:
            event_type = records.own_event_type(line)
            if not self.flowing:
                if event_type == records.ERROR:
                    raise self._error(Notification(line).payload)
                if event_type == records.SUBSCRIBED:
                    self.flowing = True
                    if self._gap_pending:
                        self._gap_pending = False
                        found.append(Gap(records.gap(None, "relay_restarted")))
            elif event_type == records.GAP:
                gap = Gap(line)
                if found and gap.reason == "relay_restarted" and _is_truncated(found[-1].raw):
                    found.pop()
                found.append(gap)
            else:
                found.append(Notification(line))
        return found

    def _is_yielded(self, notification: Notification) -> bool:
        if self._on_gap is None or not isinstance(notification, Gap):
            return True
        self._on_gap(notification)
        return False

    def _error(self, message: str) -> RelayError:
        if message.startswith(records.TOO_MANY_SUBSCRIBERS):
            return RelayUnavailable(self._path, message)
        return BadFilter(message)


def _may_contain_gap(lines: list[bytes], data: bytes, continued: bool) -> bool:
    """Return whether one of the lines may be a gap record, so that each has to be examined.

    Most lines are longer than a gap record, so that most data is not searched.

    Args:
        lines: the lines.
        data: the bytes that completed the lines.
        continued: whether the first line started before ``data``.
    """
    if not lines or min(map(len, lines)) > records.MAX_GAP_SIZE:
        return False
    return records.may_be_reserved(data) or (continued and records.may_be_reserved(lines[0]))


def _is_truncated(record: bytes) -> bool:
    """Return whether a relay was killed while it sent the record; the next relay ended the line."""
    try:
        decode(record)
    except UnreadableRecord as error:
        return isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError)
    return False
