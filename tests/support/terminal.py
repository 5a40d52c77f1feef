# SPDX-License-Identifier: Apache-2.0
"""A pseudo-terminal in which a program runs; the test presses keys and reads the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping

from support.waiting import TIMEOUT, kill

RIGHT, LEFT, TAB, CTRL_C = b"\x1b[C", b"\x1b[D", b"\t", b"\x03"

CONTROL = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|[=>])")
"""Escape sequences: colours, cursor movements and modes."""

HOME = "\x1b[H"
"""Escape sequence with which a program begins to redraw the whole screen."""


class Terminal:
    """A program and its controlling terminal.

    Args:
        command: The program and its arguments.
        lines: Height of the terminal.
        columns: Width of the terminal.
        last_text: Text that the program writes last when it redraws the screen.
        environment: Additional environment variables.
    """

    def __init__(
        self,
        *command: str,
        lines: int = 40,
        columns: int = 120,
        last_text: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self._settings = termios.tcgetattr(self._slave)
        self._name = os.ttyname(self._slave)
        self._output = b""
        self._last_text = last_text
        # The first terminal that a session leader opens becomes its controlling terminal.
        self._process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', self._name, *command],
            start_new_session=True,
            env={
                **{key: value for key, value in os.environ.items() if key != "NO_COLOR"},
                "TERM": "xterm-256color",
                "LC_ALL": "C.UTF-8",
                **(environment or {}),
            },
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        kill(self._process)
        os.close(self._master)
        os.close(self._slave)

    @property
    def output(self) -> str:
        """All output so far."""
        return self._output.decode(errors="replace")

    @property
    def screen(self) -> str:
        """Text of the last screen that was drawn completely."""
        screens = [each for each in self.output.split(HOME) if self._last_text in each]
        return CONTROL.sub("", screens[-1]) if screens else ""

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, pattern: str) -> str:
        """Wait until the screen matches a regular expression, and return the matched text."""
        deadline = time.monotonic() + TIMEOUT
        while (found := re.search(pattern, self.screen)) is None:
            assert self._read(deadline), f"no {pattern!r} in:\n{self.screen}"
        return found.group()

    def finish(self) -> int:
        """Wait for the program to end, and return its exit status."""
        deadline = time.monotonic() + TIMEOUT
        while self._process.poll() is None:
            assert self._read(min(deadline, time.monotonic() + 0.05)) or (
                time.monotonic() < deadline
            ), self.screen
        while self._read(time.monotonic()):
            pass
        return self._process.returncode

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """Press Ctrl-Z, and wait until the program is stopped and its output is read."""
        self.press(b"\x1a")
        deadline = time.monotonic() + TIMEOUT
        while not os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG):
            assert time.monotonic() < deadline, "the program does not stop"
            self._read(min(deadline, time.monotonic() + 0.05))
        while self._read(time.monotonic()):
            pass

    def is_restored(self) -> bool:
        """Return whether the terminal's settings, cursor and main screen are as at the start."""
        return termios.tcgetattr(self._slave) == self._settings and all(
            self.output.rfind(undone) >= self.output.rfind(done)
            for done, undone in (("\x1b[?25l", "\x1b[?25h"), ("\x1b[?1049h", "\x1b[?1049l"))
        )

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        if ready:
            self._output += os.read(self._master, 65536)
        return bool(ready)
