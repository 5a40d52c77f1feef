# SPDX-License-Identifier: Apache-2.0
"""What comes from the relay, as notifications: bytes in, notifications out, no sockets.

One stream goes on over many connections. Everything that decides what its reader gets to see is
in this file, so that readers with threads and readers with asyncio see the same, and neither
needs a socket to be tested:

- A connection is *asking* until the relay has answered the filter request, and what came before
  the answer is not the reader's. After that it is *flowing*.
- When a connection ends, the record that it tore is void. If it was flowing, a gap of unknown
  size is owed, and comes first when the next one flows.
- Records that the relay makes are recognised by what they say, as are the gap records of
  producers. Nearly all chunks have none, and are not looked at any closer.
- A record that cannot be read, or only looks like one of the relay's, is a notification like any
  other: it never ends the stream, and never takes the place of another one.
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
        path: of the public socket, for messages.
        on_gap: gets the gaps, each in its place, instead of the reader.
    """

    def __init__(self, path: str, on_gap: OnGap | None) -> None:
        self.flowing = False
        """Whether the filter is in force."""
        self._path = path
        self._on_gap = on_gap
        self._torn: list[bytes] = []
        """The record that is not complete yet, in pieces: a long one comes in many."""
        self._gap_owed = False

    def receive(self, data: bytes) -> Iterator[Notification]:
        """Take what the relay sent, at least one byte, and give what is in it for the reader.

        Raises:
            BadFilter: the relay cannot use the filter.
            RelayUnavailable: the relay does not let one more subscriber in.
        """
        continued = bool(self._torn)
        lines = self._lines(data)
        if self.flowing and not _may_hold_gap(lines, data, continued):
            return map(Notification, lines)
        if self._on_gap is None:
            return iter(self._sorted_out(lines))
        # Told when the reader gets there. A callback that raises leaves the rest to be read.
        return filter(self._is_no_gap, self._sorted_out(lines))

    def end(self) -> None:
        """The connection has ended; what was given may still be read."""
        self._gap_owed |= self.flowing
        self.flowing = False
        self._torn.clear()

    def _lines(self, data: bytes) -> list[bytes]:
        lines = io.BytesIO(data).readlines()  # the quickest there is that ends a line at \n only
        if self._torn:
            self._torn.append(lines[0])
            if not lines[0].endswith(b"\n"):
                return []
            lines[0] = b"".join(self._torn)
            self._torn.clear()
        if not lines[-1].endswith(b"\n"):
            self._torn.append(lines.pop())
        return lines

    def _sorted_out(self, lines: Iterable[bytes]) -> list[Notification]:
        found: list[Notification] = []
        for line in lines:
            event_type = records.own_event_type(line)
            if not self.flowing:
                if event_type == records.ERROR:
                    raise self._refusal(Notification(line).payload)
                if event_type == records.SUBSCRIBED:
                    self.flowing = True
                    if self._gap_owed:
                        self._gap_owed = False
                        found.append(Gap(records.gap(None, "relay_restarted")))
            elif event_type == records.GAP:
                gap = Gap(line)
                if found and gap.reason == "relay_restarted" and _is_torn(found[-1].raw):
                    found.pop()
                found.append(gap)
            else:
                found.append(Notification(line))
        return found

    def _is_no_gap(self, notification: Notification) -> bool:
        if self._on_gap is None or not isinstance(notification, Gap):
            return True
        self._on_gap(notification)
        return False

    def _refusal(self, sentence: str) -> RelayError:
        if sentence.startswith(records.FULL):
            return RelayUnavailable(self._path, sentence)
        return BadFilter(sentence)


def _may_hold_gap(lines: list[bytes], data: bytes, continued: bool) -> bool:
    """Whether to look at each line. Most are too long for a gap record, so that few are searched.

    Args:
        lines: the lines.
        data: the bytes that completed them.
        continued: whether the first line began before ``data``.
    """
    if not lines or min(map(len, lines)) > records.MAX_GAP_SIZE:
        return False
    return records.may_be_reserved(data) or (continued and records.may_be_reserved(lines[0]))


def _is_torn(record: bytes) -> bool:
    """Whether it is what a relay that was killed left of a record, ended by the next relay."""
    try:
        decode(record)
    except UnreadableRecord as error:
        return isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError)
    return False
