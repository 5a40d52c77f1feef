# SPDX-License-Identifier: Apache-2.0
"""The parts of a ring: chunks, and records that are kept after their chunk was evicted."""

from __future__ import annotations

import bisect
import itertools
from typing import Protocol

from notif_relayd.records.framing import split

CHUNK_OVERHEAD = 464
"""Bytes charged for a chunk in addition to its records: CPython's objects, rounded up.

Without this charge a ring of tiny records would take several times its limit.
"""

BYTES_PER_FRAGMENTATION_BYTE = 32
"""One more byte is charged for so many bytes of records. malloc(3) cannot use 1 to 3 per cent of
the memory between chunks that are allocated and freed, by malloc_stats(3) of a full ring."""


class TornRecord:
    """A record that was evicted from the ring after a part of it had been sent.

    Args:
        data: the whole record.
    """

    __slots__ = ("data", "holders")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.holders = 0
        """Number of cursors that have yet to send the end of it."""

    @property
    def share(self) -> float:
        """Bytes of the record divided by the number of its holders."""
        return len(self.data) / self.holders


class Holder(Protocol):
    """A cursor that is in a chunk."""

    def evicted(self) -> None:
        """Leave the chunk, which was evicted."""


class Chunk:
    """Whole records that were published together.

    Args:
        data: the records.
        count: the number of records.
        first: the sequence number of the first record.
    """

    __slots__ = ("_ends", "_torn", "count", "cursors", "data", "first", "next")

    def __init__(self, data: bytes, count: int, first: int) -> None:
        self.data = data
        self.count = count
        self.first = first
        self.next: Chunk | None = None
        """The next newer chunk of the ring."""
        self.cursors: set[Holder] = set()
        """The cursors that are in this chunk."""
        self._ends: list[int] | None = None
        """Offsets at which records end; computed when a socket stops within the chunk."""
        self._torn: dict[int, TornRecord] | None = None
        """Torn records by the offset of their end; created when needed, as few chunks have any."""

    @property
    def charge(self) -> int:
        """Bytes that the chunk counts for in the limit of the store."""
        size = len(self.data)
        return size + size // BYTES_PER_FRAGMENTATION_BYTE + CHUNK_OVERHEAD

    @property
    def end(self) -> int:
        """Sequence number after the last record."""
        return self.first + self.count

    def part(self, index: int, count: int) -> bytes | memoryview:
        """Return `count` records from `index` on, without a copy."""
        if count == self.count:
            return self.data
        ends = self._find_ends()
        start = ends[index - 1] if index else 0
        return memoryview(self.data)[start : ends[index + count - 1]]

    def boundary(self, offset: int) -> int:
        """Return the end of the record that contains the byte before `offset`."""
        if offset in (0, len(self.data)):
            return offset
        ends = self._find_ends()
        return ends[bisect.bisect_left(ends, offset)]

    def torn_record(self, offset: int) -> tuple[TornRecord, int]:
        """Return the record that `offset` is within, and the number of its bytes before `offset`.

        All cursors in the same record get the same object.
        """
        end = self.boundary(offset)
        before = self.whole_before(offset)
        start = self._find_ends()[before - 1] if before else 0
        if self._torn is None:
            self._torn = {}
        if end not in self._torn:
            self._torn[end] = TornRecord(self.data[start:end])
        return self._torn[end], offset - start

    def whole_before(self, offset: int) -> int:
        """Return the number of records that end at or before `offset`."""
        if offset == len(self.data):
            return self.count
        if offset == 0:
            return 0
        return bisect.bisect_right(self._find_ends(), offset)

    def _find_ends(self) -> list[int]:
        if self._ends is None:
            self._ends = list(itertools.accumulate(map(len, split(self.data))))
        return self._ends
