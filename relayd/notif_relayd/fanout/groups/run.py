# SPDX-License-Identifier: Apache-2.0
"""Consecutive records of a stream, by their sequence numbers."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

SUSPECT_ATTEMPTS = 2
"""Number of members that left without finishing a record, from which on it is handed out alone.

The members may have left because of this record. Without this rule, all records that were handed
out with it would count as undeliverable with it.
"""


class Run(NamedTuple):
    """Consecutive records of a segment, which have been handed out equally often."""

    segment: int
    """Number of the segment."""
    first: int
    """Sequence number of the first record."""
    length: int
    attempts: int = 0
    """Number of members that got the records and left without finishing them. Also 1 if only a
    member's socket had no room for them when other members got later records."""

    @property
    def end(self) -> int:
        """Sequence number after the last record."""
        return self.first + self.length

    @property
    def is_suspect(self) -> bool:
        """Whether the records are handed out one by one."""
        return self.attempts >= SUSPECT_ATTEMPTS

    def head(self, count: int) -> Run:
        """Return the first `count` records."""
        return self._replace(length=count)

    def tail(self, count: int) -> Run:
        """Return all but the first `count` records."""
        return self._replace(first=self.first + count, length=self.length - count)


def place_of(run: Run) -> tuple[int, int]:
    return run.segment, run.first


def append(runs: list[Run] | deque[Run], run: Run) -> None:
    """Append a run; extend the last one if the records follow it."""
    if runs:
        segment, first, length, attempts = runs[-1]
        if run == (segment, first + length, run.length, attempts):
            runs[-1] = Run(segment, first, length + run.length, attempts)
            return
    runs.append(run)


def split(runs: list[Run], count: int) -> tuple[list[Run], list[Run]]:
    """Return the first `count` records and the others."""
    first: list[Run] = []
    for index, run in enumerate(runs):
        if run.length > count:
            first += [run.head(count)] if count else []
            return first, [run.tail(count), *runs[index + 1 :]]
        first.append(run)
        count -= run.length
    return first, []
