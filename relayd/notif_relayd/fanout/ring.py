# SPDX-License-Identifier: Apache-2.0
"""The bounded log of recent records, and the places of slow subscribers in it.

All subscribers with the same filter share a ring, and all rings share a store, so that memory is
one number however many of them there are. A ring is a chain of chunks; a chunk is what came in
during one turn of the loop, whole records only, and is sent as it is. A subscriber that has
everything needs no place at all. One that fell behind has a `Cursor`: it says which bytes come
next, and is told how many the socket took. A ring in which no cursor stands keeps nothing.

Everything about positions, sequence numbers and gaps is decided here. Nothing here knows of
sockets or filters, and nobody else computes what a subscriber has missed.

A chunk that leaves the ring must be freed, or a thousand stalled subscribers would keep a thousand
old chunks alive. So a chunk knows the cursors that stand in it and makes them leave: a cursor keeps
the record that is half sent, shared with all cursors in the same record, and the number of the
record after it. A stalled subscriber is visited once, when its chunk goes, and not again until its
socket takes data. Costs: append and evict O(1) and O(cursors in the chunk); a cursor's step
O(buffers sent).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from notif_relayd.fanout.chunk import Chunk, TornRecord
from notif_relayd.fanout.saved_state import CursorState

MAX_BUFFERS = 64
"""Chunks given to one sendmsg(2) at most (the kernel's own limit, IOV_MAX, is 1024)."""

MAX_STEP = 512 * 1024
"""Bytes given to one sendmsg(2) before no further chunk is added: twice a socket's buffer."""


class Store:
    """The memory of all rings: when it is full, the oldest chunk goes, whosever it is."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes; may be changed at any time, and holds from the next record on."""
        self.size = 0
        """Bytes charged now."""
        self.torn = 0
        """Bytes beside those, of torn records; each counts once, however many cursors hold it."""
        self._chunks: OrderedDict[Chunk, Ring] = OrderedDict()

    def add(self, chunk: Chunk, ring: Ring) -> None:
        """Charge a new chunk; old chunks are not evicted before `shrink`."""
        self._chunks[chunk] = ring
        self.size += chunk.charge

    def shrink(self) -> None:
        """Let the oldest chunks go until the limit holds."""
        while self.size > self.limit and len(self._chunks) > 1:
            next(iter(self._chunks.values())).evict()

    def restore(self, saved: Sequence[tuple[Ring | None, bytes, int]]) -> list[Chunk | None]:
        """Put saved chunks into rings that are restored and still empty.

        The limit, which may be lower than when the chunks were saved, does not apply yet: call
        `shrink` when all cursors have their places.

        Args:
            saved: for each chunk, the oldest first: its ring, its records and their number. The
                ring is `None` if no subscriber reads it; the chunk is dropped then.

        Returns:
            The chunks, in the same order, and `None` for each that was dropped.
        """
        for ring, _, count in saved:
            if ring is not None:
                ring.next_seq -= count
        return [None if ring is None else ring.add(data, count) for ring, data, count in saved]

    def release(self, chunk: Chunk) -> None:
        """The chunk has left its ring."""
        del self._chunks[chunk]
        self.size -= chunk.charge

    def hold(self, torn: TornRecord) -> None:
        """Count one more cursor that holds a torn record."""
        if not torn.holders:
            self.torn += len(torn.data)
        torn.holders += 1

    def drop(self, torn: TornRecord) -> None:
        """Count one cursor less."""
        torn.holders -= 1
        if not torn.holders:
            self.torn -= len(torn.data)

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
        self.store = store

    @property
    def first_seq(self) -> int:
        """The number of the oldest record kept; `next_seq` when there is none."""
        return self.next_seq if self.oldest is None else self.oldest.first

    def append(self, data: bytes, count: int) -> None:
        """Keep `count` whole records for the cursors; evict old chunks if the store is full."""
        self.add(data, count)
        self.store.shrink()

    def add(self, data: bytes, count: int) -> Chunk:
        """Keep `count` whole records; the store's limit applies with the next `Store.shrink`."""
        chunk = Chunk(data, count, self.next_seq)
        self.next_seq += count
        if self.newest is None:
            self.oldest = chunk
        else:
            self.newest.next = chunk
        self.newest = chunk
        self.store.add(chunk, self)
        return chunk

    def restore(self, next_seq: int) -> None:
        """Set the number of the next record; `Store.restore` adds the chunks before it."""
        self.next_seq = next_seq

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
        self.store.release(chunk)
        for cursor in list(chunk.cursors):
            cursor.leave()

    def enter(self, cursor: Cursor) -> None:
        """Somebody has fallen behind."""
        self.cursors.add(cursor)

    def exit(self, cursor: Cursor) -> None:
        """Somebody has no use for a place any more; keep nothing when there is nobody left."""
        self.cursors.discard(cursor)
        self.tidy()

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
        "_torn",
        "_torn_sent",
        "_until",
        "announced",
    )

    def __init__(self, ring: Ring, gap: Callable[[int], bytes]) -> None:
        self._ring = ring
        self._gap = gap
        self._next = ring.next_seq
        """The record to go on with, where there is no chunk to say so."""
        self._until: int | None = None
        """The first record that is not to go out any more, where there is one."""
        self._torn: TornRecord | None = None
        """Goes out before anything else."""
        self._torn_sent = 0
        """Bytes of it that have gone out."""
        self._rest = b""
        """Goes out next: a gap record, an answer, or both."""
        self.announced = 0
        """Records that gap records have spoken of so far."""
        self._chunk: Chunk | None = None
        """The chunk that the last byte sent came from; `None` when the ring has given it up."""
        self._offset = 0
        if ring.newest is not None:
            self._stand(ring.newest, len(ring.newest.data))
        ring.enter(self)

    def save(self, places: Mapping[Chunk, int], torn_records: dict[TornRecord, int]) -> CursorState:
        """Return all about the place but what has been announced.

        Args:
            places: numbers of the chunks.
            torn_records: numbers of the torn records; one that is not in it is added.
        """
        chunk = None if self._chunk is None else places[self._chunk]
        torn = None
        if self._torn is not None:
            torn = torn_records.setdefault(self._torn, len(torn_records))
        return CursorState(
            self._next, self._until, self._rest, chunk, self._offset, torn, self._torn_sent
        )

    def restore(
        self,
        saved: CursorState,
        chunks: Sequence[Chunk | None],
        torn_records: Sequence[TornRecord],
    ) -> None:
        """Take a place that was saved and has been checked."""
        if self._chunk is not None:
            self._chunk.cursors.discard(self)
            self._chunk = None
        self._next, self._until, self._rest = saved.next, saved.until, saved.inserted
        if saved.torn is not None:
            self._hold(torn_records[saved.torn], saved.torn_sent)
        if saved.chunk is not None:
            chunk = chunks[saved.chunk]
            assert chunk is not None  # noqa: S101 - that of a stream that is restored
            self._stand(chunk, saved.offset)

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
    def torn_share(self) -> float:
        """Bytes of the torn record that it holds, divided by the number of its holders."""
        return 0.0 if self._torn is None else self._torn.share

    @property
    def finished(self) -> bool:
        """Whether everything has gone out: the subscriber needs no cursor any more."""
        if self._rest or self._torn is not None:
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
        if self._chunk is None and self._torn is None and not self._rest:
            self._enter()
        buffers: list[bytes | memoryview] = []
        if self._torn is not None:
            buffers.append(memoryview(self._torn.data)[self._torn_sent :])
        if self._rest:
            buffers.append(self._rest)
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
        if self._torn is not None:
            part = min(sent, len(self._torn.data) - self._torn_sent)
            self._torn_sent += part
            sent -= part
            if self._torn_sent == len(self._torn.data):
                self._drop_torn()
        if self._rest and sent:
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
        if self._chunk is not None:
            self._offset = self._tear(self._chunk)
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
        """Stand in no chunk; hold the record that is half sent, and nothing else."""
        chunk = self._chunk
        if chunk is not None:
            end = self._tear(chunk)
            self._next = chunk.first + chunk.whole_before(end)
            self._chunk = None
            chunk.cursors.discard(self)

    def detach(self) -> None:
        """The subscriber has no use for the place any more."""
        if self._chunk is not None:
            self._chunk.cursors.discard(self)
        self._drop_torn()
        self._ring.exit(self)

    def _tear(self, chunk: Chunk) -> int:
        """Hold the record within which the cursor stands; return where it ends in the chunk."""
        end = chunk.boundary(self._offset)
        if end != self._offset:
            self._hold(*chunk.torn_record(self._offset))
        return end

    def _hold(self, torn: TornRecord, sent: int) -> None:
        self._torn, self._torn_sent = torn, sent
        self._ring.store.hold(torn)

    def _drop_torn(self) -> None:
        if self._torn is not None:
            self._ring.store.drop(self._torn)
            self._torn, self._torn_sent = None, 0

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
