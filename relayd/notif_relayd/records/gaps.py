# SPDX-License-Identifier: Apache-2.0
"""The records that producers dropped: the relay cannot see them, and adds up the gap records.

A gap record is read as subscribers read it, so that what is counted here is what they are told.
A sum begins again at 0 where a double is not exact any more, as counters may: no number in a gap
record can keep the sums from being saved and shown.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from notif_relay.records import MAX_DROPPED, PRODUCER_REASONS, GapReport

REASONS = PRODUCER_REASONS

END = MAX_DROPPED + 1
"""Integers below are exact as a double, which is all that Prometheus knows."""


class ProducerGapsState(msgspec.Struct):
    """Saved sums, by reason."""

    dropped: dict[str, int]
    unknown: dict[str, int]


class ProducerGaps:
    """Adds up gap records."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        """Records, by reason."""
        self.unknown: Counter[str] = Counter()
        """Gap records that had no number, by reason."""

    def note(self, gaps: Iterable[GapReport]) -> None:
        """Count what gap records of producers say."""
        for dropped, reason in gaps:
            if dropped is None:
                self.unknown[reason] += 1
            else:
                self.dropped[reason] = (self.dropped[reason] + dropped) % END

    def save(self) -> ProducerGapsState:
        """The sums."""
        return ProducerGapsState(dict(self.dropped), dict(self.unknown))

    def restore(self, saved: ProducerGapsState | None) -> None:
        """Go on with the sums of another relay; an older one has none."""
        if saved is not None:
            for reason in REASONS:
                self.dropped[reason] = saved.dropped.get(reason, 0)
                self.unknown[reason] = saved.unknown.get(reason, 0)
