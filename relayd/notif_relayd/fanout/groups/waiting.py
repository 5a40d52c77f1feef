# SPDX-License-Identifier: Apache-2.0
"""The records of a group that could not be handed out at their turn, or are handed out again."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from notif_relayd.fanout.groups.run import Run, place_of, split


class Waiting:
    """Runs of records in the order of the stream.

    Args:
        runs: the runs, in this order.
    """

    __slots__ = ("count", "runs")

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.count = sum(each.length for each in runs)
        """Number of records."""

    def __len__(self) -> int:
        return len(self.runs)

    def add(self, runs: list[Run]) -> None:
        """Add runs in any order."""
        self.count += sum(each.length for each in runs)
        self.runs += runs
        self.runs.sort()

    def replace(self, index: int, runs: Iterable[Run]) -> None:
        """Replace one run by those of its records that still wait."""
        remaining = [each for each in runs if each.length]
        self.count += sum(each.length for each in remaining) - self.runs[index].length
        self.runs[index : index + 1] = remaining

    def remove_oldest(self, runs: int) -> int:
        """Remove some runs; return the number of their records."""
        removed, self.runs = self.runs[:runs], self.runs[runs:]
        count = sum(each.length for each in removed)
        self.count -= count
        return count

    def limit(self, limit: int) -> int:
        """Remove the oldest records until at most `limit` are left; return their number."""
        excess = max(0, self.count - limit)
        if excess:
            _, self.runs = split(self.runs, excess)
            self.count -= excess
        return excess

    def find(self, place: tuple[int, int]) -> int:
        """Return the index of the first run at or after a segment number and sequence number."""
        return bisect.bisect_left(self.runs, place, key=place_of)
