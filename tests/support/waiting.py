# SPDX-License-Identifier: Apache-2.0
"""Waiting for conditions, files and processes, with a timeout."""

from __future__ import annotations

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


def read_pid(pidfile: Path, previous: str = "") -> int:
    """Wait for the pidfile of a daemon in the background, and return the process ID in it.

    The daemon may write it after the command that started it has ended. Until then the file is
    missing, empty, or has `previous`, the text that an earlier daemon left in it.
    """
    wait_until(lambda: pidfile.exists() and pidfile.read_text() not in ("", previous), "a pidfile")
    return int(pidfile.read_text())
