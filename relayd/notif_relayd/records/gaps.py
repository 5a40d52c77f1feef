# SPDX-License-Identifier: Apache-2.0
"""Counts the records that producers dropped, as their gap records report.

Gap records are read with the library's own function, so that the counters agree with the numbers
that subscribers read.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from notif_relay.records import MAX_DROPPED, PRODUCER_REASONS, GapReport

REASONS = PRODUCER_REASONS

MODULUS = MAX_DROPPED + 1
"""Counters start again at 0 here. Smaller integers are exact as a double, the number format of
Prometheus, and no gap record can make a counter too large to be saved."""


class ProducerGapsState(msgspec.Struct):
    """Saved counters, by reason."""

    dropped: dict[str, int]
    unknown: dict[str, int]


class ProducerGaps:
    """Sums of the gap records of all producers."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        """Dropped records, by reason."""
        self.unknown: Counter[str] = Counter()
        """Gap records without a number, by reason."""

    def add(self, gaps: Iterable[GapReport]) -> None:
        """Add the content of gap records."""
        for dropped, reason in gaps:
            if dropped is None:
                self.unknown[reason] += 1
            else:
                self.dropped[reason] = (self.dropped[reason] + dropped) % MODULUS

    def save(self) -> ProducerGapsState:
        """Return the counters."""
        return ProducerGapsState(dict(self.dropped), dict(self.unknown))

    def restore(self, saved: ProducerGapsState | None) -> None:
        """Continue with saved counters; `None` if an older version saved none."""
        if saved is not None:
            for reason in REASONS:
                self.dropped[reason] = saved.dropped.get(reason, 0)
                self.unknown[reason] = saved.unknown.get(reason, 0)
