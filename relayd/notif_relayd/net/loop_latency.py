# SPDX-License-Identifier: Apache-2.0
"""Loop latency: the durations of the event loop's iterations.

An iteration lasts from the end of the wait for events until all of them have been handled. An event
that occurs meanwhile waits for the next iteration, so the duration is the longest time for which a
record can wait for the relay itself. Under load one iteration handles many records, so measuring it
costs next to nothing per record.
"""

from bisect import bisect_left

import msgspec

BOUNDS = tuple(50e-6 * 2**power for power in range(15))
"""Upper bounds of the buckets in seconds, from 50 µs to 0.8 s. The last bucket has no bound."""


class LoopLatencyState(msgspec.Struct):
    """A saved histogram."""

    counts: list[int]
    seconds: float


class LoopLatency:
    """A histogram of durations."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Number of iterations in each bucket, not cumulative. A bucket includes its bound."""
        self.seconds = 0.0
        """Sum of all durations."""

    def add(self, seconds: float) -> None:
        """Count one iteration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def save(self) -> LoopLatencyState:
        """Return the histogram for the next process."""
        return LoopLatencyState(self.counts, self.seconds)

    def restore(self, saved: LoopLatencyState | None) -> None:
        """Continue a saved histogram, if it has the same number of buckets."""
        if saved is not None and len(saved.counts) == len(self.counts):
            self.counts = saved.counts
            self.seconds = saved.seconds
