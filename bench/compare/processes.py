# SPDX-License-Identifier: Apache-2.0
"""Processor time and memory of processes, from /proc; see proc(5)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes have used."""

    seconds: float
    """Processor time of all threads that have not ended."""
    memory: int
    """Resident memory in bytes. Pages that processes share count for each of them."""


def usage(pids: Iterable[int]) -> Usage:
    """Return the sum for some processes; those that have ended are left out."""
    seconds, memory = 0.0, 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The times in /proc/PID/stat are multiples of 10 ms.
            for thread in Path(f"/proc/{pid}/task").iterdir():
                seconds += int((thread / "schedstat").read_text().split()[0]) / 1e9
            memory += int(_stat(pid)[21]) * os.sysconf("SC_PAGE_SIZE")
    return Usage(seconds, memory)


def session(leader: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if name.isdecimal() and int(_stat(int(name))[3]) == leader:
                found.append(int(name))
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat that follow the name of the program."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
