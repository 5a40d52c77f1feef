# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets accept all seeds, including inputs that fuzzers have found."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
TARGETS = runpy.run_path(str(FUZZ / "targets.py"))["TARGETS"]
SEEDS = sorted((FUZZ / "seeds").glob("*/*"))


def test_every_target_has_seeds() -> None:
    assert {seed.parent.name for seed in SEEDS} == set(TARGETS)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed.parent.name}/{seed.name}")
def test_seed_and_its_mutations_do_no_harm(seed: Path) -> None:
    target, data = TARGETS[seed.parent.name], seed.read_bytes()
    target(data)
    for place in range(0, len(data), 1 + len(data) // 100):
        target(data[:place])
        target(data[:place] + bytes([data[place] ^ 0x20]) + data[place + 1 :])
