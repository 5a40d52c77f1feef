# SPDX-License-Identifier: Apache-2.0
"""The streams that a group reads one after the other."""

from __future__ import annotations

from collections.abc import Callable

from notif_relayd.fanout.ring import Ring
from notif_relayd.fanout.subscriber import Stream


class Segment:
    """A part of the sequence that the group reads: the records of one stream up to a position.

    When members with other filters join, the group goes on in another stream as soon as it has read
    what is left of the present one.

    Args:
        number: the number of the segment; a later segment has a greater one.
        stream: the stream.
        oldest: returns the sequence number of the oldest record in the segment with this number
            that is not finished and not handed out, if any.
    """

    __slots__ = ("_oldest", "next_seq", "number", "stop_seq", "stream")

    def __init__(self, number: int, stream: Stream, oldest: Callable[[int], int | None]) -> None:
        self.number = number
        self.stream = stream
        self.next_seq = stream.ring.next_seq
        """Sequence number of the first record that is not handed out and does not wait."""
        self.stop_seq: int | None = None
        """Sequence number after the last record of the segment; `None` for the last segment."""
        self._oldest = oldest
        stream.ring.add_place(self)

    @property
    def ring(self) -> Ring:
        """The ring of the stream."""
        return self.stream.ring

    @property
    def end(self) -> int:
        """Sequence number after the last record, as of now."""
        return self.ring.next_seq if self.stop_seq is None else self.stop_seq

    @property
    def lost(self) -> int:
        """Number of records at the position that were evicted."""
        return max(0, min(self.ring.first_seq, self.end) - self.next_seq)

    @property
    def position(self) -> int:
        """Sequence number of the oldest record that the ring has to keep."""
        oldest = self._oldest(self.number)
        return self.next_seq if oldest is None else min(oldest, self.next_seq)
