# SPDX-License-Identifier: Apache-2.0
"""The bounded log of recent records.

All subscribers with the same filter share a ring, and all rings share one store, so one limit
bounds the memory of all of them. A subscriber that fell behind has a cursor in its ring; a current
subscriber needs none. A group has a place in its ring. A ring without cursors and places keeps no
records, and records before all of them are evicted from time to time.

Sequence numbers are assigned here, without sockets or filters. Costs: append O(1), evict O(cursors
in the chunk).
"""

from __future__ import annotations

import bisect
from collections import OrderedDict, deque
from collections.abc import Container, Iterator, Sequence
from operator import attrgetter
from typing import Protocol

from notif_relayd.fanout.chunk import Chunk, TornRecord

MIN_CHUNKS = 64
"""Number of chunks from which on a ring looks for chunks that it need not keep. It looks again when
the number of its chunks has doubled, so the work is proportional to the chunks added."""


class Place(Protocol):
    """A position in a ring: a cursor, or the place of a group."""

    @property
    def position(self) -> int:
        """Sequence number of the oldest record that the ring has to keep for it."""


class Store:
    """The memory of all rings. When it is full, the oldest chunk of any ring is evicted.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes; a change applies from the next record on."""
        self.size = 0
        """Bytes charged for chunks."""
        self.torn = 0
        """Bytes of torn records, in addition to `size`; each counts once."""
        self.losing: set[int] = set()
        """Owners of cursors that have lost records; the owner of the store clears it."""
        self.has_lost = False
        """Whether groups may have lost records; the owner of the store clears it."""
        self._chunks: OrderedDict[Chunk, Ring] = OrderedDict()
        """The oldest first."""

    def add(self, chunk: Chunk, ring: Ring) -> None:
        """Charge a new chunk; old chunks are not evicted before `shrink`."""
        self._chunks[chunk] = ring
        self.size += chunk.charge

    def shrink(self) -> None:
        """Evict the oldest chunks until the limit holds; the newest chunk always stays."""
        while self.size > self.limit and len(self._chunks) > 1:
            next(iter(self._chunks.values())).evict()
            self.has_lost = True

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
        """Stop charging a chunk that has left its ring."""
        del self._chunks[chunk]
        self.size -= chunk.charge

    def hold(self, torn: TornRecord) -> None:
        """Count one more cursor that holds a torn record."""
        if not torn.holders:
            self.torn += len(torn.data)
        torn.holders += 1

    def drop(self, torn: TornRecord) -> None:
        """Count one cursor less that holds a torn record."""
        torn.holders -= 1
        if not torn.holders:
            self.torn -= len(torn.data)

    def size_from(self, chunks: Container[Chunk]) -> int:
        """Return the bytes charged for the oldest of some chunks and all chunks after it."""
        size = self.size
        for chunk in self._chunks:
            if chunk in chunks:
                return size
            size -= chunk.charge
        return 0

    def __iter__(self) -> Iterator[tuple[Chunk, Ring]]:
        """The chunks, the oldest first, each with its ring."""
        return iter(self._chunks.items())


class Ring:
    """The recent records of one stream that a cursor has yet to send.

    Args:
        store: where its chunks are charged.
    """

    def __init__(self, store: Store) -> None:
        self.next_seq = 0
        """Sequence number of the next record."""
        self.chunks: deque[Chunk] = deque()
        """The oldest first."""
        self.places: set[Place] = set()
        """Positions for which records are kept."""
        self.store = store
        self._trim_at = MIN_CHUNKS

    @property
    def first_seq(self) -> int:
        """Sequence number of the oldest record in the ring; `next_seq` if the ring is empty."""
        return self.chunks[0].first if self.chunks else self.next_seq

    @property
    def oldest(self) -> Chunk | None:
        """The oldest chunk, if there is one."""
        return self.chunks[0] if self.chunks else None

    @property
    def newest(self) -> Chunk | None:
        """The newest chunk, if there is one."""
        return self.chunks[-1] if self.chunks else None

    def find(self, seq: int) -> Chunk:
        """Return the chunk that contains a record; the ring must have the record."""
        return self.chunks[bisect.bisect_right(self.chunks, seq, key=attrgetter("first")) - 1]

    def append(self, data: bytes, count: int) -> None:
        """Keep `count` whole records for all places; evict old chunks if the store is full."""
        self.add(data, count)
        if len(self.chunks) >= self._trim_at:
            self._trim()
        self.store.shrink()

    def add(self, data: bytes, count: int) -> Chunk:
        """Keep `count` whole records; the store's limit applies with the next `Store.shrink`."""
        chunk = Chunk(data, count, self.next_seq)
        self.next_seq += count
        if self.chunks:
            self.chunks[-1].next = chunk
        self.chunks.append(chunk)
        self.store.add(chunk, self)
        return chunk

    def restore(self, next_seq: int) -> None:
        """Set the number of the next record; `Store.restore` adds the chunks before it."""
        self.next_seq = next_seq

    def skip(self, count: int) -> None:
        """Count records without keeping them; allowed only while there are no places."""
        self.next_seq += count

    def evict(self) -> None:
        """Remove the oldest chunk; its cursors leave it."""
        chunk = self.chunks.popleft()
        self.store.release(chunk)
        # A copy: a cursor that leaves removes itself from the set.
        for cursor in list(chunk.cursors):
            cursor.evicted()

    def add_place(self, place: Place) -> None:
        """Keep records from the position of the place on."""
        self.places.add(place)

    def remove_place(self, place: Place) -> None:
        """Stop keeping records for a place."""
        self.places.discard(place)
        self.evict_unused()

    def evict_unused(self) -> None:
        """Evict all chunks if there are no places."""
        while self.chunks and not self.places:
            self.evict()

    def _trim(self) -> None:
        """Evict the chunks whose records are before all places."""
        first = min(each.position for each in self.places)
        while self.chunks and self.chunks[0].end <= first:
            self.evict()
        self._trim_at = max(MIN_CHUNKS, 2 * len(self.chunks))
