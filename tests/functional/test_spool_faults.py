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
import tempfile
from pathlib import Path

import pytest

from support.spool import FAST
from support.spool_faults import FAULTS, SCENARIOS

TESTS = Path(__file__).parents[1]
TIMEOUT = 120.0

STRIDES = {"overflow": 17, "empty": 41, "checkpoint": 23, "damaged": 2, "damaged-without-note": 3}
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


def run(library: Path, *arguments: str) -> str:
    """Run Python with the library and return its output."""
    finished = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(TESTS), "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


SYNCS = """
import ctypes, sys
from pathlib import Path
from support.spool import batch, open_spool

syncs = ctypes.CDLL(None).faults_syncs
spool = open_spool(Path(sys.argv[1]))

def check(expected):
    global before
    assert (syncs() > before) is expected, syncs() - before
    before = syncs()

for _ in range(2):
    before = syncs()
    spool.add(batch(spool.last, 3))
    check(True)
    spool.add(batch(spool.last, 1))
    check(False)
    spool.remove_up_to(spool.last - 1)
    check(False)
    spool.remove_up_to(spool.last)
    check(False)
spool.add(batch(spool.last, 3))
check(True)
spool.close()
check(True)
"""


def test_first_rows_are_synchronised(library: Path, tmp_path: Path) -> None:
    run(library, "-c", SYNCS, str(tmp_path))


READS = """
import ctypes, errno, sys
from pathlib import Path
from notif_relayd_bridge.errors import SpoolError
from support.spool import LOST, batch, contents, open_spool, rows

directory = Path(sys.argv[1])
fail = ctypes.CDLL(None).faults_fail_reads

def reopened():
    spool = open_spool(directory, max_bytes=16 * 1024 * 1024)
    spool.add(batch(0, 5000, 1000))  # more than SQLite keeps in memory
    spool.close()
    return open_spool(directory, max_bytes=16 * 1024 * 1024)

spool = reopened()
fail(0, errno.ETIMEDOUT)
for _ in range(2):
    try:
        rows(spool)
        raise AssertionError
    except SpoolError as error:
        assert "disk I/O error" in str(error), error
fail(0, 0)
assert contents(rows(spool)) == [*range(5000)]

fail(0, errno.EIO)
assert contents(rows(spool)) == [LOST]
assert (spool.count, spool.last) == (1, 5000)
for failures in (errno.EIO, 0), (0, errno.EIO):
    fail(0, 0)
    spool.remove_up_to(spool.last)
    spool.close()
    reopened().close()
    fail(*failures)
    spool = open_spool(directory)
    assert contents(rows(spool)) == [LOST]
spool.close()
"""


def test_spool_on_an_unreadable_disk_is_moved_aside(library: Path, tmp_path: Path) -> None:
    run(library, "-c", READS, str(tmp_path))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_fault_loses_nothing(library: Path, scenario: str, fault: str) -> None:
    stride = str(STRIDES.get(scenario, 1))
    with tempfile.TemporaryDirectory(dir=FAST) as directory:
        runs = run(library, "-m", "support.spool_faults", scenario, fault, directory, stride)
    assert int(runs) > 100
