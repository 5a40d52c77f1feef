# SPDX-License-Identifier: Apache-2.0
"""How long the loop's turns take: that is how long a record can wait for the relay itself.

A turn begins when the kernel has told what there is to do, and ends when all of it is done. What
becomes readable meanwhile waits for the next one. Sleep is no part of it, and neither is what a
subscriber's socket does not take. One turn carries many records under load, so that to measure
each of them costs next to nothing for a record.
"""

from bisect import bisect_left

import msgspec

BOUNDS = tuple(50e-6 * 2**power for power in range(15))
"""Seconds, the upper ends of all classes but the last: from 50 microseconds to 0.8 seconds."""


class LoopLatencyState(msgspec.Struct):
    """A saved histogram."""

    counts: list[int]
    seconds: float


class LoopLatency:
    """A histogram."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Turns that took at most as long as the bound of the same index, and longer than the one
        before; the last had no bound."""
        self.seconds = 0.0
        """All of them together."""

    def add(self, seconds: float) -> None:
        """Count one turn."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def save(self) -> LoopLatencyState:
        """All of it."""
        return LoopLatencyState(self.counts, self.seconds)

    def restore(self, saved: LoopLatencyState | None) -> None:
        """Go on where another relay has stopped, if it had the same classes."""
        if saved is not None and len(saved.counts) == len(self.counts):
            self.counts = saved.counts
            self.seconds = saved.seconds
