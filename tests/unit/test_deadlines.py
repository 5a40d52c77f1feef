# SPDX-License-Identifier: Apache-2.0
"""A test that hangs or leaves a thread behind fails, and the next test runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HANGING = {
    "set-up": "@pytest.fixture\ndef hang():\n    wait()\n",
    "test": "@pytest.fixture\ndef hang():\n    return wait\n",
    "tear-down": "@pytest.fixture\ndef hang():\n    yield\n    wait()\n",
    "clean-up": (
        "@pytest.fixture\ndef hang():\n"
        "    try:\n        wait()\n    finally:\n        wait()\n"
    ),
}  # fmt: skip

PREAMBLE = """
import threading
from support import deadlines
import pytest

deadlines.INTERVAL = 0.1

def wait():
    threading.Event().wait()

"""


def run(directory: Path, text: str) -> str:
    """Return the output of pytest for a test file with this text."""
    file = directory / "test_it.py"
    file.write_text(PREAMBLE + text)
    command = (
        *(sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", directory),
        *("-p", "support.deadlines", "-p", "no:cacheprovider", "-o", "phase_deadline=0.2", file),
    )
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        list(map(str, command)),
        env={"PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


@pytest.mark.parametrize("where", HANGING)
def test_deadline_fails_one_test_and_the_next_runs(where: str, tmp_path: Path) -> None:
    called = "hang()" if where == "test" else "pass"
    text = f"{HANGING[where]}\ndef test_hang(hang):\n    {called}\n\ndef test_next():\n    pass\n"
    output = run(tmp_path, text)
    phase = "set-up" if where == "clean-up" else where
    assert f"the {phase} did not end within 0.2 s" in output
    assert "1 passed" in output or "2 passed, 1 error" in output


def test_leftover_thread_fails_the_test(tmp_path: Path) -> None:
    text = """
deadlines.JOIN_TIMEOUT = 0.1

def test_thread():
    threading.Thread(target=wait, name="leftover").start()

def test_next():
    pass
"""
    output = run(tmp_path, text)  # returns, so pytest has ended
    assert "still running: leftover" in output
    assert "2 passed, 1 error" in output
