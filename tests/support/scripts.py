# SPDX-License-Identifier: Apache-2.0
"""Python processes that a test controls through their standard input and output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.waiting import TIMEOUT, wait_until


class Script:
    """A Python process with pipes for its standard input and output."""

    def __init__(self, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """Return the next line of output."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def proceed(self) -> None:
        """Write an empty line to the process, which waits for one."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def signal_when_asleep(self, number: signal.Signals) -> None:
        """Send a signal to the process when it waits in a system call."""
        pid = self._process.pid
        state = Path(f"/proc/{pid}/stat")
        wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "S", "it sleeps")
        os.kill(pid, number)

    def finish(self) -> str:
        """Wait for the process to succeed, and return the rest of its output."""
        output, _ = self._process.communicate(timeout=TIMEOUT)
        assert self._process.returncode == 0
        return output

    def close(self) -> None:
        """Kill the process if it still runs."""
        self._process.kill()
        self._process.communicate(timeout=TIMEOUT)


class Scripts:
    """Python processes that end with the test."""

    def __init__(self) -> None:
        self._scripts: list[Script] = []

    def __enter__(self) -> Scripts:
        return self

    def __exit__(self, *_: object) -> None:
        for script in self._scripts:
            script.close()

    def run(self, *arguments: object) -> Script:
        """Start `python ARGUMENTS`."""
        script = Script(*arguments)
        self._scripts.append(script)
        return script
