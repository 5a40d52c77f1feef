# SPDX-License-Identifier: Apache-2.0
"""Turns of the loop are counted by how long they took."""

from __future__ import annotations

import itertools

import pytest

from notif_relayd.net.loop_latency import BOUNDS, LoopLatency, LoopLatencyState


def test_bounds_double_from_50_us_to_800_ms() -> None:
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
def test_duration_is_counted_in_the_first_fitting_bucket(seconds: float, place: int) -> None:
    turns = LoopLatency()
    turns.add(seconds)
    assert [n for n, count in enumerate(turns.counts) if count] == [place]
    assert (sum(turns.counts), turns.seconds) == (1, seconds)


def test_histogram_with_other_bounds_is_not_restored() -> None:
    turns, heir = LoopLatency(), LoopLatency()
    turns.add(0.01)
    heir.restore(turns.save())
    heir.restore(LoopLatencyState([9, 9], 9.0))
    heir.restore(None)
    assert heir.save() == turns.save()
