# SPDX-License-Identifier: Apache-2.0
"""Sends one batch to many sockets without a copy of it for each socket.

send(2) copies the batch into the kernel once per socket. sendfile(2) from a file in memory gives a
Unix socket references to the pages of the file, and all sockets get the same pages. The batch then
stays in the processor's cache, also for the subscribers, and subscribers that stop reading at the
same time hold the same memory.

Pages that were sent are never written again: sockets may still hold them. Before the next batch
the file is truncated to 0 bytes, which detaches its pages.
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

# To fill the file costs about as much as three sends of the same batch, and sendfile(2) as much as
# a send of a few KiB.

MIN_SHARED_SOCKETS = 10
"""Number of sockets from which on sharing pays; at 8 both ways cost the same."""

MIN_SHARED_SIZE = 16 * 1024
"""Bytes of a batch from which on sharing pays; at 8 KiB it takes more sockets."""


class SharedPages:
    """A file in memory whose pages sockets share, if the kernel and the sandbox allow it."""

    def __init__(self) -> None:
        self._fd = -1
        self._size = 0
        self.usable = False
        """Whether sockets can share pages."""
        try:
            self._fd = os.memfd_create("batch", os.MFD_CLOEXEC)
            weakref.finalize(self, os.close, self._fd)
            self._try()
        except OSError as error:
            LOG.info(
                "cannot share memory between sockets, records are copied for each subscriber: %s",
                error,
            )
        else:
            self.usable = True

    def threshold(self, sockets: int) -> int:
        """Return the size, in bytes, from which on a batch for so many sockets is shared."""
        return MIN_SHARED_SIZE if sockets >= MIN_SHARED_SOCKETS and self.usable else sys.maxsize

    def sender(self, batch: bytes, sockets: int) -> Callable[[socket.socket], int]:
        """Return the function that sends `batch` to one socket; it is valid until the next call.

        The function returns and raises what `socket.send` does.

        Args:
            batch: the records.
            sockets: the number of sockets that the batch is for.
        """
        if len(batch) >= self.threshold(sockets):
            # If memory for the file is refused (strict overcommit), the batch is sent as a copy.
            with contextlib.suppress(OSError):
                self._fill(batch)
                return self._send
        return methodcaller("send", batch)

    def _fill(self, batch: bytes) -> None:
        os.ftruncate(self._fd, 0)
        self._size = len(batch)
        if os.pwrite(self._fd, batch, 0) != self._size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _send(self, connection: socket.socket) -> int:
        return os.sendfile(connection.fileno(), self._fd, 0, self._size)

    def _try(self) -> None:
        """Share a page between two sockets, so that later errors are about a subscriber.

        Raises:
            OSError: sockets cannot share pages.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._fill(b"\n")
            self._send(ours)
