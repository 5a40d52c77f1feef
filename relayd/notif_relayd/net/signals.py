# SPDX-License-Identifier: Apache-2.0
"""Signals as events of the loop.

A signal that arrives just before the loop goes to sleep would be noticed too late if its handler
only set a flag. The interpreter therefore writes the number of each signal to a socket pair
(`signal.set_wakeup_fd`), which the loop watches. Signals are handled in the loop only.
"""

import signal
import socket
from collections.abc import Callable

READ_SIZE = 4096
"""Bytes of one read, each of which is a signal number."""


class Signals:
    """Stops the relay on SIGTERM and SIGINT, and reloads its configuration on SIGHUP.

    Args:
        reload: called in the loop after SIGHUP.
    """

    def __init__(self, reload: Callable[[], None]) -> None:
        self.stop = False
        """Whether the relay must stop."""
        self._reload = reload
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Signals without a Python handler are not written to the socket pair.
            signal.signal(number, _ignore)

    def fileno(self) -> int:
        """Return the descriptor that the loop must watch for `READ`."""
        return self._reader.fileno()

    def handle(self, _events: int) -> None:
        """Handle the signals that have arrived since the last call."""
        numbers = set(self._reader.recv(READ_SIZE))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self.stop = True
        if signal.SIGHUP in numbers:
            self._reload()

    def close(self) -> None:
        """Close the descriptors; later signals have no effect."""
        signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: the signal is handled in the loop."""
