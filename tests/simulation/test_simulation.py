# SPDX-License-Identifier: Apache-2.0
"""Whatever happens around the relay, and whatever its calls return, the books balance."""

from __future__ import annotations

import os
import random
import sys

import pytest

from simulation.simulator import Simulation

FIXED = 150
"""Schedules that are the same every time."""

FRESH = int(os.environ.get("SCHEDULES", "50"))
"""Schedules that nobody has seen before."""


def run(seed: int) -> Simulation:
    simulation = Simulation(seed)
    try:
        simulation.run()
    except Exception as error:
        raise AssertionError(f"Simulation({seed}).run() goes wrong: {error}") from error
    return simulation


def test_the_books_balance_in_every_schedule_that_is_known() -> None:
    simulations = [run(seed) for seed in range(FIXED)]
    assert sum(each.kills for each in simulations) > FIXED // 4
    assert sum(each.restarts for each in simulations) > FIXED
    assert sum(each.delivered for each in simulations) > 10 * FIXED
    assert sum(each.shortcut.runs for each in simulations) > FIXED


def test_the_books_balance_in_schedules_that_nobody_has_seen(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = random.SystemRandom().randrange(1 << 32)
    with capsys.disabled():
        sys.stderr.write(f"[schedules {first} to {first + FRESH - 1}] ")
    for seed in range(first, first + FRESH):
        run(seed)


def test_a_seed_decides_everything() -> None:
    one, other = run(7), run(7)
    assert one.calls == other.calls
    assert one.random.getstate() == other.random.getstate()
