# SPDX-License-Identifier: Apache-2.0
"""The streams that a group reads one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence

from notif_relayd.fanout.chunk import Chunk
from notif_relayd.fanout.groups.errors import GroupError
from notif_relayd.fanout.groups.run import Run
from notif_relayd.fanout.saved_state import SegmentState
from notif_relayd.fanout.subscriber import Stream

MAX_SEGMENTS = 16
"""Maximum number of streams from which a group has yet to hand out or finish records."""


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

    __slots__ = ("_oldest", "next_seq", "number", "ring", "stop_seq", "stream")

    def __init__(self, number: int, stream: Stream, oldest: Callable[[int], int | None]) -> None:
        self.number = number
        self.stream = stream
        self.ring = stream.ring
        self.next_seq = stream.ring.next_seq
        """Sequence number of the first record that is not handed out and does not wait."""
        self.stop_seq: int | None = None
        """Sequence number after the last record of the segment; `None` for the last segment."""
        self._oldest = oldest
        stream.ring.add_place(self)

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

    @property
    def oldest_chunk(self) -> Chunk | None:
        """The oldest chunk that contains records which are not finished; `None` without any."""
        first = max(self.position, self.ring.first_seq)
        return self.ring.find(first) if first < self.end else None


class Segments:
    """The segments of a group, in the order in which it reads them.

    `follow` or `restore` must be called first.

    Args:
        oldest: returns the sequence number of the oldest record in the segment with this number
            that is not finished and that the group has read, if any.
        is_finished: returns whether there is no such record; this takes less time.
    """

    def __init__(
        self, oldest: Callable[[int], int | None], is_finished: Callable[[int], bool]
    ) -> None:
        self._oldest = oldest
        self._is_finished = is_finished
        self._segments: deque[Segment] = deque()

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def save(self, streams: Mapping[Stream, int]) -> list[SegmentState]:
        """Return the state.

        Args:
            streams: the index of each stream in the saved state.
        """
        return [
            SegmentState(each.number, streams[each.stream], each.next_seq, each.stop_seq)
            for each in self
        ]

    def restore(self, saved: Sequence[SegmentState], streams: Mapping[int, Stream]) -> None:
        """Take a saved state, which `handover.state` has checked.

        Args:
            saved: what `save` returned.
            streams: the streams by their index in the saved state.
        """
        for each in saved:
            segment = Segment(each.number, streams[each.stream], self._oldest)
            segment.next_seq, segment.stop_seq = each.next_seq, each.stop_seq
            self._segments.append(segment)

    @property
    def first(self) -> Segment:
        """The segment that the group reads now."""
        return self._segments[0]

    @property
    def last(self) -> Segment:
        """The segment without an end."""
        return self._segments[-1]

    @property
    def at_end(self) -> bool:
        """Whether the group has read everything."""
        first = self._segments[0]
        return len(self._segments) == 1 and first.next_seq == first.ring.next_seq

    @property
    def lag(self) -> int:
        """Number of records in the rings that the group has not read."""
        return sum(each.end - each.next_seq - each.lost for each in self)

    @property
    def streams(self) -> list[Stream]:
        """The streams of all segments."""
        return [each.stream for each in self]

    def of(self, run: Run) -> Segment:
        """Return the segment of a run."""
        return self._segments[run.segment - self._segments[0].number]

    def lost_of(self, run: Run) -> int:
        """Return how many records of a run were evicted: the first ones."""
        return min(max(0, self.of(run).ring.first_seq - run.first), run.length)

    def follow(self, stream: Stream) -> None:
        """Begin at the end of a stream, after what the present one has now, if there is one.

        Raises:
            GroupError: the group has yet to read parts of too many streams.
        """
        if len(self._segments) >= MAX_SEGMENTS:
            raise GroupError(
                f"The filters of the members of this group have changed {MAX_SEGMENTS} times, and "
                "records from before are not finished; join when they are."
            )
        number = 1
        if self._segments:
            self.last.stop_seq = self.last.ring.next_seq
            number = self.last.number + 1
        self._segments.append(Segment(number, stream, self._oldest))

    def forget_finished(self) -> list[Stream]:
        """Leave the streams of which everything is finished; return them."""
        left = []
        while self.first.next_seq == self.first.stop_seq:
            if not self._is_finished(self.first.number):
                break
            first = self._segments.popleft()
            first.ring.remove_place(first)
            left.append(first.stream)
        return left

    def keep(self) -> None:
        """Let the rings keep the records from the positions on."""
        for each in self:
            each.ring.add_place(each)

    def release(self) -> None:
        """Do not let the rings keep records."""
        for each in self:
            each.ring.remove_place(each)
