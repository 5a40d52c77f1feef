# SPDX-License-Identifier: Apache-2.0
"""The bounded log of recent records, and the places of slow subscribers in it.

All subscribers with the same filter share a ring, and all rings share a store, so that memory is
one number however many of them there are. A ring is a chain of chunks; a chunk is what came in
during one turn of the loop, whole records only, and is sent as it is. A subscriber that has
everything needs no place at all. One that fell behind has a `Cursor`: it says which bytes come
next, and is told how many the socket took. A ring in which no cursor stands keeps nothing.

Everything about positions, sequence numbers and gaps is decided here. Nothing here knows of
sockets or filters, and nobody else computes what a subscriber has missed.

A chunk that leaves the ring must be freed, or a thousand stalled subscribers would keep a
thousand old chunks alive. So a chunk knows the cursors that stand in it, and takes leave of them:
a cursor keeps the rest of a record that is half sent, and the number of the record after it. A
stalled subscriber is visited once, when its chunk goes, and not again until its socket takes
data. Costs: append and evict O(1) and O(cursors in the chunk); a cursor's step O(buffers sent).
"""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from notif_relayd.splitter import split
from notif_relayd.state import CursorState

CHUNK_OVERHEAD = 448
"""Bytes charged for a chunk beside its records: what CPython takes for the objects, rounded up.

Without it a ring of tiny records would take several times its limit.
"""

BYTES_TO_A_HOLE = 32
"""Of so many bytes one more is charged, for what malloc(3) cannot use between chunks that come and
go: 1 to 3 per cent, by malloc_stats(3) of a relay with a full ring."""

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
        size = len(self.data)
        return size + size // BYTES_TO_A_HOLE + CHUNK_OVERHEAD

    def _find_ends(self) -> list[int]:
        # Once for all cursors: needed only where a socket stopped in the middle of a chunk.
        if self._ends is None:
            self._ends = list(itertools.accumulate(map(len, split(self.data))))
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


class Store:
    """The memory of all rings: when it is full, the oldest chunk goes, whosever it is."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes; may be changed at any time, and holds from the next record on."""
        self.size = 0
        """Bytes charged now."""
        self.torn = 0
        """Bytes beside those, of records that have left the ring half sent."""
        self._chunks: OrderedDict[Chunk, Ring] = OrderedDict()

    def keep(self, chunk: Chunk, ring: Ring) -> None:
        """Take the newest chunk, which stays; old ones go until the limit holds again."""
        self._chunks[chunk] = ring
        self.size += chunk.charge
        self.shrink()

    def shrink(self) -> None:
        """Let the oldest chunks go until the limit holds."""
        while self.size > self.limit and len(self._chunks) > 1:
            next(iter(self._chunks.values())).evict()

    def release(self, chunk: Chunk) -> None:
        """The chunk has left its ring."""
        del self._chunks[chunk]
        self.size -= chunk.charge

    def __iter__(self) -> Iterator[tuple[Chunk, Ring]]:
        """The chunks, the oldest first, each with the ring that it is in."""
        return iter(self._chunks.items())


class Ring:
    """The records of the recent past that somebody still waits for."""

    def __init__(self, store: Store) -> None:
        self.next_seq = 0
        """The number that the next record will get."""
        self.oldest: Chunk | None = None
        self.newest: Chunk | None = None
        self.cursors: set[Cursor] = set()
        self._store = store

    @property
    def first_seq(self) -> int:
        """The number of the oldest record kept; `next_seq` when there is none."""
        return self.next_seq if self.oldest is None else self.oldest.first

    def append(self, data: bytes, count: int) -> None:
        """Keep `count` whole records for those who are behind."""
        chunk = Chunk(data, count, self.next_seq)
        self.next_seq += count
        if self.newest is None:
            self.oldest = chunk
        else:
            self.newest.next = chunk
        self.newest = chunk
        self._store.keep(chunk, self)

    def skip(self, count: int) -> None:
        """Count records that nobody needs to have kept, because nobody is behind."""
        self.next_seq += count

    def evict(self) -> None:
        """Let the oldest chunk go."""
        chunk = self.oldest
        assert chunk is not None  # noqa: S101 - the store knows what is there
        self.oldest = chunk.next
        if self.oldest is None:
            self.newest = None
        self._store.release(chunk)
        for cursor in list(chunk.cursors):
            cursor.leave()

    def enter(self, cursor: Cursor) -> None:
        """Somebody has fallen behind."""
        self.cursors.add(cursor)

    def exit(self, cursor: Cursor) -> None:
        """Somebody has no use for a place any more; keep nothing when there is nobody left."""
        self.cursors.discard(cursor)
        self.tidy()

    def tear(self, size: int) -> None:
        """So many bytes of a record are somebody's own from now on; fewer, if below zero."""
        self._store.torn += size

    def tidy(self) -> None:
        """Keep nothing where nobody is behind."""
        while self.oldest is not None and not self.cursors:
            self.evict()


class Cursor:
    """The place of a subscriber that has fallen behind, at first the end of the ring.

    Args:
        ring: the ring it reads.
        gap: makes the record that announces a number of missing ones.
    """

    __slots__ = (
        "_chunk",
        "_gap",
        "_next",
        "_offset",
        "_rest",
        "_ring",
        "_until",
        "announced",
        "torn",
    )

    def __init__(self, ring: Ring, gap: Callable[[int], bytes]) -> None:
        self._ring = ring
        self._gap = gap
        self._next = ring.next_seq
        """The record to go on with, where there is no chunk to say so."""
        self._until: int | None = None
        """The first record that is not to go out any more, where there is one."""
        self._rest = b""
        """Goes out before anything of the ring: a torn record's other part, or a gap record."""
        self.announced = 0
        """Records that gap records have spoken of so far."""
        self.torn = 0
        """Bytes of a record that was half sent when it left the ring: nobody else needs them."""
        self._chunk: Chunk | None = None
        """The chunk that the last byte sent came from; `None` when the ring has given it up."""
        self._offset = 0
        if ring.newest is not None:
            self._stand(ring.newest, len(ring.newest.data))
        ring.enter(self)

    def save(self, places: Mapping[Chunk, int]) -> CursorState:
        """All about the place, but what has been announced; chunks by their number."""
        chunk = None if self._chunk is None else places[self._chunk]
        return CursorState(self._next, self._until, self._rest, chunk, self._offset)

    def restore(self, saved: CursorState, chunks: Sequence[Chunk]) -> None:
        """Take a place that was saved; that it can be is the caller's business."""
        if self._chunk is not None:
            self._chunk.cursors.discard(self)
            self._chunk = None
        self._next, self._until, self._rest = saved.next, saved.until, saved.rest
        self._tear(len(self._rest))
        if saved.chunk is not None:
            self._stand(chunks[saved.chunk], saved.offset)

    @property
    def end(self) -> int:
        """The number of the first record that it has no business with."""
        return self._ring.next_seq if self._until is None else self._until

    @property
    def position(self) -> int:
        """The number of the first record that has not gone out."""
        if self._chunk is None:
            return self._next
        return self._chunk.first + self._chunk.whole_before(self._offset)

    @property
    def lost(self) -> int:
        """Records that the ring has dropped and no gap record has announced yet."""
        if self._chunk is not None:
            return 0
        return max(0, min(self._ring.first_seq, self.end) - self._next)

    @property
    def finished(self) -> bool:
        """Whether everything has gone out: the subscriber needs no cursor any more."""
        if self._rest:
            return False
        if self._chunk is None:
            return self._next == self.end
        at_its_end = self._offset == len(self._chunk.data)
        return at_its_end and self._chunk.first + self._chunk.count == self.end

    @property
    def stopped(self) -> bool:
        """Whether nothing will be added to what it has yet to hand out."""
        return self._until is not None

    def rewind(self, unsent: int) -> None:
        """Go back `unsent` bytes in the chunk at whose end the cursor stands."""
        self._offset -= unsent

    def buffers(self) -> list[bytes | memoryview]:
        """What to hand to the socket next; `advance` must follow before anything else."""
        if self._chunk is None and not self._rest:
            self._enter()
        buffers: list[bytes | memoryview] = [self._rest] if self._rest else []
        chunk, offset, size, end = self._chunk, self._offset, 0, self.end
        while chunk is not None and size < MAX_STEP and len(buffers) < MAX_BUFFERS:
            if chunk.first >= end:
                break
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
            if not self._rest:
                self._tear(0)
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

    def stop(self) -> None:
        """Let nothing go out that is not in the ring yet."""
        self._until = self._ring.next_seq

    def stop_with(self, record: bytes) -> None:
        """Let `record` be the last, at the next boundary between two records."""
        self.leave()
        self._rest += record
        self._until = self._next

    def leave(self) -> None:
        """Stand in no chunk; keep the rest of a record that is half sent, no more."""
        chunk = self._chunk
        if chunk is not None:
            end = chunk.boundary(self._offset)
            self._rest += chunk.data[self._offset : end]
            self._tear(len(self._rest))
            self._next = chunk.first + chunk.whole_before(end)
            self._chunk = None
            chunk.cursors.discard(self)

    def detach(self) -> None:
        """The subscriber has no use for the place any more."""
        if self._chunk is not None:
            self._chunk.cursors.discard(self)
        self._tear(0)
        self._ring.exit(self)

    def _tear(self, size: int) -> None:
        self._ring.tear(size - self.torn)
        self.torn = size

    def _stand(self, chunk: Chunk, offset: int) -> None:
        if self._chunk is not None:
            self._chunk.cursors.discard(self)
        self._chunk, self._offset = chunk, offset
        chunk.cursors.add(self)

    def _enter(self) -> None:
        lost = self.lost
        if lost:
            self._rest = self._gap(lost)
            self.announced += lost
            self._next += lost
        if self._ring.oldest is not None and self._next < self.end:
            self._stand(self._ring.oldest, 0)
