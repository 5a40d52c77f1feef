# SPDX-License-Identifier: Apache-2.0
"""The pieces that a ring consists of: chunks, and records that outlive their chunk."""

from __future__ import annotations

import bisect
import itertools
from typing import Protocol

from notif_relayd.records.framing import split

CHUNK_OVERHEAD = 448
"""Bytes charged for a chunk beside its records: what CPython takes for the objects, rounded up.

Without it a ring of tiny records would take several times its limit.
"""

BYTES_TO_A_HOLE = 32
"""Of so many bytes one more is charged, for what malloc(3) cannot use between chunks that come and
go: 1 to 3 per cent, by malloc_stats(3) of a relay with a full ring."""


class TornRecord:
    """A record that has left the ring after some subscribers had got a part of it.

    Args:
        data: the whole record.
    """

    __slots__ = ("data", "holders")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.holders = 0
        """Cursors that have yet to send the end of it."""

    @property
    def share(self) -> float:
        """Bytes of it for each holder."""
        return len(self.data) / self.holders


class Holder(Protocol):
    """A cursor that stands in a chunk."""

    def leave(self) -> None:
        """Leave the chunk, which is about to be evicted."""


class Chunk:
    """Whole records as they came, and the number of the first."""

    __slots__ = ("_ends", "_torn", "count", "cursors", "data", "first", "next")

    def __init__(self, data: bytes, count: int, first: int) -> None:
        self.data = data
        self.count = count
        self.first = first
        self.next: Chunk | None = None
        self.cursors: set[Holder] = set()
        self._ends: list[int] | None = None
        self._torn: dict[int, TornRecord] | None = None
        """By the place where they end; made when it is needed, since most chunks have none."""

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

    def torn_record(self, offset: int) -> tuple[TornRecord, int]:
        """Return the record that `offset` lies within, and the bytes of it before `offset`."""
        end = self.boundary(offset)
        before = self.whole_before(offset)
        start = self._find_ends()[before - 1] if before else 0
        if self._torn is None:
            self._torn = {}
        if end not in self._torn:
            self._torn[end] = TornRecord(self.data[start:end])
        return self._torn[end], offset - start

    def whole_before(self, offset: int) -> int:
        """How many records end at `offset` or before it."""
        if offset == len(self.data):
            return self.count
        if offset == 0:
            return 0
        return bisect.bisect_right(self._find_ends(), offset)
