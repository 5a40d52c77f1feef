# SPDX-License-Identifier: Apache-2.0
"""What comes from the relay, as notifications: bytes in, notifications out, no sockets.

One stream goes on over many connections. Everything that decides what its reader gets to see is
in this file, so that readers with threads and readers with asyncio see the same, and neither
needs a socket to be tested:

- A connection is *asking* until the relay has answered the filter request, and what came before
  the answer is not the reader's. After that it is *flowing*.
- When a connection ends, the record that it tore is void. If it was flowing, a gap of unknown
  size is owed, and comes first when the next one flows.
- Records that the relay makes are recognised by where they name their publisher. Nearly all
  chunks have none, and are not looked at any closer.
"""

import io
from collections.abc import Callable, Iterable, Iterator

from notif_relay import records
from notif_relay.errors import BadFilter, RelayError, RelayUnavailable
from notif_relay.notification import Gap, Notification, any_from_relay, is_from_relay

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
        lines = self._lines(data)
        if self.flowing and not any_from_relay(lines):
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
            notification = Notification(line)
            kind = notification.event_type if is_from_relay(line) else ""
            if not self.flowing:
                if kind == records.ERROR:
                    raise self._refusal(str(notification.payload))
                if kind == records.SUBSCRIBED:
                    self.flowing = True
                    if self._gap_owed:
                        self._gap_owed = False
                        found.append(Gap(records.gap(None, "relay_restarted")))
            elif kind == records.GAP:
                gap = Gap(line)
                if found and gap.reason == "relay_restarted" and _is_torn(found[-1]):
                    found.pop()
                found.append(gap)
            else:
                found.append(notification)
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


def _is_torn(notification: Notification) -> bool:
    """Whether it is what a relay that was killed left of a record, ended by the next relay."""
    try:
        notification.payload  # noqa: B018 (asked for, it is decoded)
    except ValueError:
        return True
    return False
