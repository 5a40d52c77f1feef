# SPDX-License-Identifier: Apache-2.0
"""The bounded log of recent records, and the places of slow subscribers in it.

All subscribers share one ring, so that memory is one number however many of them there are. The
ring is a chain of chunks; a chunk is what came in during one turn of the loop, whole records
only, and is sent as it is. A subscriber that has everything needs no place at all. One that fell
behind has a `Cursor`: it says which bytes come next, and is told how many the socket took.

Everything about positions, sequence numbers and gaps is decided here. Nothing here knows of
sockets, and nobody else computes what a subscriber has missed.

A chunk that leaves the ring must be freed, or a thousand stalled subscribers would keep a
thousand old chunks alive. So a chunk knows the cursors that stand in it, and takes leave of them:
a cursor keeps the rest of a record that is half sent, and the number of the record after it. A
stalled subscriber is visited once, when its chunk goes, and not again until its socket takes
data. Costs: append and evict O(1) and O(cursors in the chunk); a cursor's step O(buffers sent).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable

CHUNK_OVERHEAD = 256
"""Bytes charged for a chunk beside its records: what CPython takes for the objects, rounded up.

Without it a ring of tiny records would take several times its limit.
"""

MAX_BUFFERS = 64
"""Chunks given to one sendmsg(2) at most (the kernel's own limit, IOV_MAX, is 1024)."""

MAX_STEP = 512 * 1024
"""Bytes given to one sendmsg(2) before no further chunk is added: twice a socket's buffer."""


class Chunk:
    """Whole records as they came, and the number of the first."""

    __slots__ = ("_ends", "count", "cursors", "data", "first", "next")

    def __init__(self, data: bytes, count: int, first: int) -> None:
        self.data = data
        self.count = count
        self.first = first
        self.next: Chunk | None = None
        self.cursors: set[Cursor] = set()
        self._ends: list[int] | None = None

    @property
    def charge(self) -> int:
        """Bytes that the chunk counts for in the ring's limit."""
        return len(self.data) + CHUNK_OVERHEAD

    def _find_ends(self) -> list[int]:
        # Once for all cursors: needed only where a socket stopped in the middle of a chunk.
        if self._ends is None:
            lines = self.data.split(b"\n")
            lines.pop()
            self._ends = list(itertools.accumulate(len(line) + 1 for line in lines))
        return self._ends

    def boundary(self, offset: int) -> int:
        """Where the record ends that the byte before `offset` belongs to."""
        if offset in (0, len(self.data)):
            return offset
        ends = self._find_ends()
        return ends[bisect.bisect_left(ends, offset)]

    def whole_before(self, offset: int) -> int:
        """How many records end at `offset` or before it."""
        if offset == len(self.data):
            return self.count
        if offset == 0:
            return 0
        return bisect.bisect_right(self._find_ends(), offset)


class Ring:
    """The records of the recent past, up to `limit` bytes; the newest chunk is always kept."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        """Bytes charged now."""
        self.next_seq = 0
        """The number that the next record will get."""
        self.oldest: Chunk | None = None
        self.newest: Chunk | None = None

    @property
    def first_seq(self) -> int:
        """The number of the oldest record kept; `next_seq` when there is none."""
        return self.next_seq if self.oldest is None else self.oldest.first

    def append(self, data: bytes, count: int) -> Chunk:
        """Take `count` whole records; old chunks go until the limit holds again."""
        chunk = Chunk(data, count, self.next_seq)
        self.next_seq += count
        self.size += chunk.charge
        if self.newest is None:
            self.oldest = chunk
        else:
            self.newest.next = chunk
        self.newest = chunk
        while self.size > self.limit and self.oldest is not chunk:
            self._evict()
        return chunk

    def clear(self) -> None:
        """Keep nothing: there is nobody behind who could still want it."""
        while self.oldest is not None:
            self._evict()

    def _evict(self) -> None:
        chunk = self.oldest
        assert chunk is not None  # noqa: S101 - callers have looked
        self.oldest = chunk.next
        if self.oldest is None:
            self.newest = None
        self.size -= chunk.charge
        for cursor in chunk.cursors:
            cursor.leave()


class Cursor:
    """The place of a subscriber that has fallen behind, at first the end of the ring.

    Args:
        ring: the ring it reads.
        gap: makes the record that announces a number of missing ones.
    """

    __slots__ = ("_chunk", "_gap", "_next", "_offset", "_rest", "_ring", "announced", "last")

    def __init__(self, ring: Ring, gap: Callable[[int], bytes]) -> None:
        self._ring = ring
        self._gap = gap
        self._next = ring.next_seq
        """The record to go on with, where there is no chunk to say so."""
        self._rest = b""
        """Goes out before anything of the ring: a torn record's other part, or a gap record."""
        self.announced = 0
        """Records that gap records have spoken of so far."""
        self.last = False
        """Whether nothing of the ring is to follow any more."""
        self._chunk: Chunk | None = None
        """The chunk that the last byte sent came from; `None` when the ring has given it up."""
        self._offset = 0
        if ring.newest is not None:
            self._stand(ring.newest, len(ring.newest.data))

    @property
    def position(self) -> int:
        """The number of the first record that has not gone out."""
        if self._chunk is None:
            return self._next
        return self._chunk.first + self._chunk.whole_before(self._offset)

    @property
    def lost(self) -> int:
        """Records that the ring has dropped and no gap record has announced yet."""
        if self._chunk is not None or self.last:
            return 0
        return self._ring.first_seq - self._next

    @property
    def finished(self) -> bool:
        """Whether everything has gone out: the subscriber needs no cursor any more."""
        if self._rest:
            return False
        if self._chunk is None:
            return self.last or self._next == self._ring.next_seq
        return self._chunk is self._ring.newest and self._offset == len(self._chunk.data)

    def rewind(self, unsent: int) -> None:
        """Go back `unsent` bytes in the chunk at whose end the cursor stands."""
        self._offset -= unsent

    def buffers(self) -> list[bytes | memoryview]:
        """What to hand to the socket next; `advance` must follow before anything else."""
        if self._chunk is None and not self._rest and not self.last:
            self._enter()
        buffers: list[bytes | memoryview] = [self._rest] if self._rest else []
        chunk, offset, size = self._chunk, self._offset, 0
        while chunk is not None and size < MAX_STEP and len(buffers) < MAX_BUFFERS:
            if offset < len(chunk.data):
                buffers.append(memoryview(chunk.data)[offset:] if offset else chunk.data)
                size += len(chunk.data) - offset
            chunk, offset = chunk.next, 0
        return buffers

    def advance(self, sent: int) -> None:
        """The socket took the first `sent` bytes of `buffers`."""
        if self._rest:
            part = min(sent, len(self._rest))
            self._rest = self._rest[part:]
            sent -= part
        if not sent:
            return
        chunk, offset = self._chunk, self._offset + sent
        assert chunk is not None  # noqa: S101 - the bytes came from somewhere
        while offset > len(chunk.data) and chunk.next is not None:
            offset -= len(chunk.data)
            chunk = chunk.next
        self._stand(chunk, offset)

    def insert(self, record: bytes) -> None:
        """Let `record` go out at the next boundary between two records."""
        if not self._rest and self._chunk is not None:
            end = self._chunk.boundary(self._offset)
            self._rest = self._chunk.data[self._offset : end]
            self._offset = end
        self._rest += record

    def end(self, record: bytes) -> None:
        """Let `record` be the last, at the next boundary between two records."""
        self.detach()
        self.leave()
        self._rest += record
        self.last = True

    def leave(self) -> None:
        """The ring gives the chunk up: keep the rest of a record that is half sent, no more."""
        chunk = self._chunk
        if chunk is not None:
            end = chunk.boundary(self._offset)
            self._rest += chunk.data[self._offset : end]
            self._next = chunk.first + chunk.whole_before(end)
            self._chunk = None

    def detach(self) -> None:
        """The subscriber has no use for the place any more."""
        if self._chunk is not None:
            self._chunk.cursors.discard(self)

    def _stand(self, chunk: Chunk, offset: int) -> None:
        self.detach()
        self._chunk, self._offset = chunk, offset
        chunk.cursors.add(self)

    def _enter(self) -> None:
        lost = self.lost
        if lost:
            self._rest = self._gap(lost)
            self.announced += lost
            self._next += lost
        if self._ring.oldest is not None:
            self._stand(self._ring.oldest, 0)
