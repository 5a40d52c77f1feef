# SPDX-License-Identifier: Apache-2.0
"""The records of a group that could not be handed out at their turn, or are handed out again."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from notif_relayd.fanout.groups.run import Run, append, place_of, split


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
        if len(runs) > 1:
            self.runs = sorted((*self.runs, *runs))
        elif not self.runs or self.runs[-1] < runs[0]:
            append(self.runs, runs[0])
        else:
            bisect.insort(self.runs, runs[0])

    def replace(self, index: int, runs: Iterable[Run]) -> None:
        """Replace one run by those of its records that still wait."""
        remaining = [each for each in runs if each.length]
        self.count += sum(each.length for each in remaining) - self.runs[index].length
        self.runs[index : index + 1] = remaining

    def remove_before(self, place: tuple[int, int]) -> list[Run]:
        """Remove and return the records before a segment number and sequence number."""
        index = self.split_at(place)
        removed, self.runs = self.runs[:index], self.runs[index:]
        self.count -= sum(each.length for each in removed)
        return removed

    def remove_oldest(self, runs: int) -> int:
        """Remove some runs; return the number of their records."""
        removed, self.runs = self.runs[:runs], self.runs[runs:]
        count = sum(each.length for each in removed)
        self.count -= count
        return count

    def limit(self, limit: int) -> int:
        """Remove the oldest records if there are more than `limit`; return their number.

        A sixteenth of the limit is removed as well, so that this is not done for each record.
        """
        if self.count <= limit:
            return 0
        excess = self.count - limit + limit // 16
        _, self.runs = split(self.runs, excess)
        self.count -= excess
        return excess

    def count_before(self, place: tuple[int, int]) -> int:
        """Return the number of records of a segment that are before a sequence number."""
        segment, seq = place
        runs = self.runs[self.find((segment, 0)) : self.find(place)]
        return sum(each.length for each in runs) - (max(0, runs[-1].end - seq) if runs else 0)

    def find(self, place: tuple[int, int]) -> int:
        """Return the index of the first run at or after a segment number and sequence number."""
        return bisect.bisect_left(self.runs, place, key=place_of)

    def find_end(self, place: tuple[int, int]) -> int:
        """Return the index of the first run that ends after a segment and sequence number."""
        index = self.find(place)
        if index:
            segment, seq = place
            last = self.runs[index - 1]
            index -= last.segment == segment and last.end > seq
        return index

    def split_at(self, place: tuple[int, int]) -> int:
        """Split the run that contains the record before a place and the one after it, if any.

        Returns:
            The index of the first run at or after the place.
        """
        index = self.find_end(place)
        if index < len(self.runs) and place_of(self.runs[index]) < place:
            run = self.runs[index]
            count = place[1] - run.first
            self.runs[index : index + 1] = [run.head(count), run.tail(count)]
            index += 1
        return index
