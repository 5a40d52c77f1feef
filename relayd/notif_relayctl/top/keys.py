# SPDX-License-Identifier: Apache-2.0
"""Keys, as they are pressed and not when a line is done."""

import contextlib
import os
import termios
import tty
from collections.abc import Iterator

QUIT, TAB, LEFT, RIGHT = "q", "\t", "left", "right"

SEQUENCES = {b"\x1b[D": LEFT, b"\x1bOD": LEFT, b"\x1b[C": RIGHT, b"\x1bOC": RIGHT}
"""What a terminal sends for the keys that are no character."""


@contextlib.contextmanager
def unbuffered(terminal: int) -> Iterator[None]:
    """Let each key be read at once and unseen; Ctrl-C and the like keep their meaning."""
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Keys:
    """Reads keys from a terminal, which may give one of them in pieces."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._unread = b""

    def fileno(self) -> int:
        """What to wait for."""
        return self._terminal

    def read(self) -> list[str]:
        """The keys that were pressed."""
        data = os.read(self._terminal, 1024)
        if not data:
            return [QUIT]  # Nobody is there any more.
        return list(self._split(self._unread + data))

    def _split(self, data: bytes) -> Iterator[str]:
        self._unread = b""
        while data:
            size = next((len(each) for each in SEQUENCES if data.startswith(each)), 1)
            if size == 1 and any(each.startswith(data) for each in SEQUENCES):
                self._unread = data
                return
            yield SEQUENCES.get(data[:size]) or data[:1].decode("latin-1")
            data = data[size:]
