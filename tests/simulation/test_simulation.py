# SPDX-License-Identifier: Apache-2.0
"""The relay acts as the model expects, whatever its clients do and whichever errors occur."""

from __future__ import annotations

import os
import random
import sys

import pytest

from simulation.simulator import Simulation

KNOWN_SEEDS = 150
"""Schedules that are the same in every run."""

NEW_SEEDS = int(os.environ.get("SCHEDULES", "50"))
"""Schedules that differ in every run."""


def simulate(seed: int) -> Simulation:
    simulation = Simulation(seed)
    try:
        simulation.run()
    except Exception as error:
        raise AssertionError(f"Simulation({seed}).run() fails: {error}") from error
    return simulation


def test_known_schedules_match_the_model() -> None:
    simulations = [simulate(seed) for seed in range(KNOWN_SEEDS)]
    assert sum(each.kills for each in simulations) > KNOWN_SEEDS // 4
    assert sum(each.restarts for each in simulations) > KNOWN_SEEDS
    assert sum(each.delivered for each in simulations) > 10 * KNOWN_SEEDS
    assert sum(each.native.batches for each in simulations) > KNOWN_SEEDS


def test_new_schedules_match_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    first = random.SystemRandom().randrange(1 << 32)
    with capsys.disabled():
        sys.stderr.write(f"[schedules {first} to {first + NEW_SEEDS - 1}] ")
    for seed in range(first, first + NEW_SEEDS):
        simulate(seed)


def test_seed_decides_the_schedule() -> None:
    one, other = simulate(7), simulate(7)
    assert one.calls == other.calls
    assert one.random.getstate() == other.random.getstate()
