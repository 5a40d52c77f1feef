# SPDX-License-Identifier: Apache-2.0
"""Signals, brought into the loop.

A signal may arrive between the loop's last look at a flag and its going to sleep. So the
interpreter writes the number of each to a socket pair (`signal.set_wakeup_fd`), which the loop
watches like everything else, and what a signal means is done there and not wherever the program
happened to be.
"""

import signal
import socket
from collections.abc import Callable


class Signals:
    """SIGTERM and SIGINT stop the relay, SIGHUP reloads.

    Args:
        reload: called in the loop after SIGHUP.
    """

    def __init__(self, reload: Callable[[], None]) -> None:
        self.stop = False
        """Whether the relay has been told to stop."""
        self._reload = reload
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Only a signal with a handler of Python's is written to the pair.
            signal.signal(number, _noted)

    def fileno(self) -> int:
        """What the loop watches."""
        return self._reader.fileno()

    def handle(self, _events: int) -> None:
        """Do what the signals say that have come since the last call."""
        numbers = set(self._reader.recv(4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self.stop = True
        if signal.SIGHUP in numbers:
            self._reload()

    def close(self) -> None:
        """Leave the process as it was."""
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


def _noted(_number: int, _frame: object) -> None:
    """Let the wake-up descriptor do the rest."""
