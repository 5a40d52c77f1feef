# SPDX-License-Identifier: Apache-2.0
"""Interrupts a thread that waits for a socket, without closing the socket."""

import os
import select
import socket


class Interruption:
    """An event that a thread can wait for together with a socket."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.is_set = False

    def set(self) -> None:
        """End the present wait and all later ones."""
        if not self.is_set:
            self.is_set = True
            os.eventfd_write(self._descriptor, 1)

    def wait_readable(self, sock: socket.socket, timeout: float | None) -> bool:
        """Wait until a socket is readable.

        Args:
            sock: the socket.
            timeout: maximum time in seconds; None: no limit.

        Returns:
            False if the wait was interrupted or took longer than ``timeout``.
        """
        descriptor = sock.fileno()
        if hasattr(select, "poll"):
            poll = select.poll()
            for each in (descriptor, self._descriptor):
                poll.register(each, select.POLLIN)
            milliseconds = None if timeout is None else timeout * 1000
            ready = [each for each, _ in poll.poll(milliseconds)]
        else:  # eventlet removes poll(), and its select() has no limit for descriptors
            ready, _, _ = select.select([descriptor, self._descriptor], [], [], timeout)
        return not self.is_set and descriptor in ready

    def close(self) -> None:
        """Close the descriptor; there must be no wait."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """Close the descriptor of an abandoned listener."""
        self.close()
