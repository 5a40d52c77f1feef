# SPDX-License-Identifier: Apache-2.0
"""The histogram of the durations of loop iterations."""

from __future__ import annotations

import itertools

import pytest

from notif_relayd.net.loop_latency import BOUNDS, LoopLatency, LoopLatencyState


def test_bounds_double_from_50_us_to_800_ms() -> None:
    assert BOUNDS[0] == 50e-6
    assert all(2 * low == high for low, high in itertools.pairwise(BOUNDS))
    assert 0.5 < BOUNDS[-1] < 1


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (BOUNDS[0], 0),
        (BOUNDS[0] * 1.001, 1),
        (BOUNDS[7], 7),
        (BOUNDS[-1], len(BOUNDS) - 1),
        (3600.0, len(BOUNDS)),
    ],
)
def test_duration_is_counted_in_the_first_fitting_bucket(seconds: float, bucket: int) -> None:
    latency = LoopLatency()
    latency.add(seconds)
    assert [index for index, count in enumerate(latency.counts) if count] == [bucket]
    assert (sum(latency.counts), latency.seconds) == (1, seconds)


def test_histogram_with_other_bounds_is_not_restored() -> None:
    latency, successor = LoopLatency(), LoopLatency()
    latency.add(0.01)
    successor.restore(latency.save())
    successor.restore(LoopLatencyState([9, 9], 9.0))
    successor.restore(None)
    assert successor.save() == latency.save()
