# SPDX-License-Identifier: Apache-2.0
"""A run for many sockets is copied into the kernel once, not once for each.

send(2) copies what it is given. sendfile(2) from a file in memory hands a Unix socket the file's
pages themselves, and all sockets get the same ones: they stay in the processor's cache, for the
subscribers as well, and those who stop reading at the same time hold the same memory.

No page is ever written again. Before the next run the file is emptied, which takes its pages
away from it and leaves them, as they are, to the sockets that still hold them.

Filling the file costs about three sends of the same run, and sendfile(2) as much as a send of a
few KiB. So it is used only where it pays: `MANY` sockets and a `LARGE` run.
"""

import contextlib
import errno
import logging
import os
import socket
import sys
import weakref
from collections.abc import Callable
from operator import methodcaller

LOG = logging.getLogger(__name__)

MANY = 10
"""Sockets from which on sharing pays; with 8 both ways cost the same."""

LARGE = 16 * 1024
"""Bytes of a run from which on it does; with 8 KiB it takes more than `MANY`."""


class SharedPages:
    """The file in memory, if the kernel and the sandbox around the relay let it be used so."""

    def __init__(self) -> None:
        self._fd = -1
        self._size = 0
        self.usable = False
        """Whether sockets can share pages here."""
        try:
            self._fd = os.memfd_create("run", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self._fd)
            self._try()
        except OSError as error:
            LOG.info("sockets cannot share memory here, records are copied for each: %s", error)
        else:
            self.usable = True

    def threshold(self, sockets: int) -> int:
        """Bytes from which on a run is shared by so many sockets."""
        return LARGE if sockets >= MANY and self.usable else sys.maxsize

    def sender(self, run: bytes, sockets: int) -> Callable[[socket.socket], int]:
        """What gives `run` to one of so many sockets with each call, until the next run.

        It returns and raises what `socket.send` does.
        """
        if len(run) >= self.threshold(sockets):
            # No memory for it (strict overcommit) is no reason not to send it.
            with contextlib.suppress(OSError):
                self._fill(run)
                return self._send
        return methodcaller("send", run)

    def _fill(self, run: bytes) -> None:
        os.ftruncate(self._fd, 0)
        self._size = len(run)
        if os.pwrite(self._fd, run, 0) != self._size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _send(self, connection: socket.socket) -> int:
        return os.sendfile(connection.fileno(), self._fd, 0, self._size)

    def _try(self) -> None:
        """Find out on a pair of sockets; later, an error means that a subscriber is gone."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._fill(b"\n")
            self._send(ours)
