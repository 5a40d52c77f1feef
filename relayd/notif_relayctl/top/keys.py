# SPDX-License-Identifier: Apache-2.0
"""Single keys from a terminal."""

import contextlib
import os
import termios
import tty
from collections.abc import Iterator

QUIT, TAB, LEFT, RIGHT = "q", "\t", "left", "right"

SEQUENCES = {b"\x1b[D": LEFT, b"\x1bOD": LEFT, b"\x1b[C": RIGHT, b"\x1bOC": RIGHT}
"""Escape sequences that a terminal sends for the arrow keys."""


@contextlib.contextmanager
def unbuffered(terminal: int) -> Iterator[None]:
    """Read each key at once and without echo; Ctrl-C still sends its signal."""
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Keys:
    """Reads keys from a terminal. An escape sequence may arrive in several parts."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._partial = b""

    def fileno(self) -> int:
        """Return the descriptor of the terminal."""
        return self._terminal

    def read(self) -> list[str]:
        """Return the keys that were pressed."""
        data = os.read(self._terminal, 1024)
        if not data:
            return [QUIT]  # The terminal is closed.
        return list(self._split(self._partial + data))

    def _split(self, data: bytes) -> Iterator[str]:
        self._partial = b""
        while data:
            size = next((len(each) for each in SEQUENCES if data.startswith(each)), 1)
            if size == 1 and any(each.startswith(data) for each in SEQUENCES):
                self._partial = data
                return
            yield SEQUENCES.get(data[:size]) or data[:1].decode("latin-1")
            data = data[size:]
