# SPDX-License-Identifier: Apache-2.0
"""Waiting for conditions, files and processes, with a timeout."""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

TIMEOUT = 30.0
"""Seconds that a test waits for one thing: far more than anything takes."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition for which there is no descriptor to wait on.

    Raises:
        AssertionError: The condition is not true within TIMEOUT; the message contains `what`.
    """
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {TIMEOUT} s: {what}")
        time.sleep(0.005)


def wait_patiently(condition: Callable[[], object], what: str) -> None:
    """Wait four times as long, for instance for a connection after a pause of 30 seconds."""
    for _ in range(3):
        with contextlib.suppress(AssertionError):
            wait_until(condition, what)
            return
    wait_until(condition, what)


def wait_readable(*files: socket.socket | IO[str]) -> None:
    """Wait until one of the files is readable."""
    poll = select.poll()  # unlike select, for any descriptor number
    for file in files:
        poll.register(file, select.POLLIN)
    assert poll.poll(TIMEOUT * 1000), f"nothing to read within {TIMEOUT} s"


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process, also one that is stopped or has ended, and wait for its end."""
    process.kill()
    process.wait(TIMEOUT)


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that a process writes to its standard output, within TIMEOUT."""
    assert process.stdout is not None
    wait_readable(process.stdout)
    return process.stdout.readline()


def is_stopped(process_id: int) -> bool:
    """Return whether every thread of a process has stopped, which is later than the signal."""
    stats = Path(f"/proc/{process_id}/task").glob("*/stat")
    return all(stat.read_text().rpartition(") ")[2].startswith("T") for stat in stats)
