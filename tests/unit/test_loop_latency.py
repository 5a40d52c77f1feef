# SPDX-License-Identifier: Apache-2.0
"""Turns of the loop are counted by how long they took."""

from __future__ import annotations

import itertools

import pytest

from notif_relayd.handover.state import LoopLatencyState
from notif_relayd.net.loop_latency import BOUNDS, LoopLatency


def test_the_bounds_double_from_50_microseconds_to_most_of_a_second() -> None:
    assert BOUNDS[0] == 50e-6
    assert all(2 * low == high for low, high in itertools.pairwise(BOUNDS))
    assert 0.5 < BOUNDS[-1] < 1


@pytest.mark.parametrize(
    ("seconds", "place"),
    [
        (0.0, 0),
        (BOUNDS[0], 0),
        (BOUNDS[0] * 1.001, 1),
        (BOUNDS[7], 7),
        (BOUNDS[-1], len(BOUNDS) - 1),
        (3600.0, len(BOUNDS)),
    ],
)
def test_a_turn_counts_for_the_first_bound_that_it_does_not_exceed(
    seconds: float, place: int
) -> None:
    turns = LoopLatency()
    turns.add(seconds)
    assert [n for n, count in enumerate(turns.counts) if count] == [place]
    assert (sum(turns.counts), turns.seconds) == (1, seconds)


def test_a_histogram_goes_on_and_one_with_other_bounds_does_not() -> None:
    turns, heir = LoopLatency(), LoopLatency()
    turns.add(0.01)
    heir.restore(turns.save())
    heir.restore(LoopLatencyState([9, 9], 9.0))
    heir.restore(None)
    assert heir.save() == turns.save()
