# SPDX-License-Identifier: Apache-2.0
"""A spool whose process is killed, or whose disk fails, at each system call that changes a file.

Whatever was added before is there in order and once, or in a gap with its number; whatever was
removed is not. After an error, nothing has changed, and the next attempt succeeds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.spool_faults import FAULTS, SCENARIOS

TESTS = Path(__file__).parents[1]
TIMEOUT = 120.0

STRIDES = {"overflow": 17, "empty": 41, "checkpoint": 23, "damaged": 2}
"""System calls from one fault to the next, in scenarios with hundreds of similar calls."""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the library that causes the faults."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    library = tmp_path_factory.mktemp("faults") / "faults.so"
    source = TESTS / "support" / "faults.c"
    options = ["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
    subprocess.run(["gcc", *options, "-o", library, source], check=True, timeout=TIMEOUT)
    return library


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_fault_loses_nothing(library: Path, tmp_path: Path, scenario: str, fault: str) -> None:
    stride = STRIDES.get(scenario, 1)
    finished = subprocess.run(
        [sys.executable, "-m", "support.spool_faults", scenario, fault, tmp_path, str(stride)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > 100
