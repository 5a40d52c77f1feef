# SPDX-License-Identifier: Apache-2.0
"""What producers say that they dropped: the relay cannot see it, and adds up their gap records.

Only what a handler could have said counts. A gap record of any other form is relayed like every
record, and no number in it, however large, can keep the sums from being saved and shown: they
begin again at 0 where a double is not exact any more, as counters may.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from notif_relayd.state import LossesState

REASONS = ("producer_congested", "relay_restarted")
"""Those that a producer can have."""

END = 2**53
"""Integers below are exact as a double, which is all that Prometheus knows."""


class _Payload(msgspec.Struct):
    dropped: Annotated[int, msgspec.Meta(ge=0, lt=END)] | None
    reason: Literal["producer_congested", "relay_restarted"]


class _Gap(msgspec.Struct):
    payload: _Payload


class Losses:
    """Adds up gap records."""

    def __init__(self) -> None:
        self.dropped: Counter[str] = Counter()
        """Records, by reason."""
        self.unknown: Counter[str] = Counter()
        """Gap records that had no number, by reason."""
        self._decode = msgspec.json.Decoder(_Gap).decode

    def note(self, gaps: Iterable[bytes]) -> None:
        """Count what these gap records tell."""
        for line in gaps:
            with contextlib.suppress(msgspec.MsgspecError, RecursionError):
                told = self._decode(line).payload
                if told.dropped is None:
                    self.unknown[told.reason] += 1
                else:
                    self.dropped[told.reason] = (self.dropped[told.reason] + told.dropped) % END

    def save(self) -> LossesState:
        """The sums."""
        return LossesState(dict(self.dropped), dict(self.unknown))

    def restore(self, saved: LossesState | None) -> None:
        """Go on with the sums of another relay; an older one has none."""
        if saved is not None:
            for reason in REASONS:
                self.dropped[reason] = saved.dropped.get(reason, 0)
                self.unknown[reason] = saved.unknown.get(reason, 0)
