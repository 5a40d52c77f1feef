# SPDX-License-Identifier: Apache-2.0
"""Keeps file descriptors that peers pass (``SCM_RIGHTS``, unix(7)) away from the event loop.

The process that drops the last reference to a file waits until the file is closed. For a TCP socket
with ``SO_LINGER`` and unsent data that takes as long as its owner has chosen. A process drops a
passed descriptor when it reads the data that came with it, and when it closes the connection that
it is queued in. The event loop does neither:

- Since Linux 6.16 a socket can refuse descriptors (``SO_PASSRIGHTS``); the sender then gets EPERM.
  A connection has the setting of its listener at the time of connect(2). It is set again on every
  connection that is older, and what was queued until then is looked for once.
- On older kernels a read is made twice. The first one (``MSG_PEEK`` without room for descriptors)
  takes nothing, and says whether there are any. To receive and close them instead would be cheaper
  by a copy of the data, but where an AppArmor profile denies their receipt, or the table of
  descriptors is full, the kernel drops them within recvmsg(2). A record of 1 KiB takes 0.3 µs more,
  1 % of its way; a saturated relay takes 10 to 25 % more processor time for each.

A peer that passes descriptors is disconnected. A thread of its own closes them.
"""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import queue
import socket
import struct
import termios
import threading

from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.peer import peer_of

LOG = logging.getLogger(__name__)

SO_PASSRIGHTS = 83
"""asm-generic/socket.h, since Linux 6.16; Python has no name for it."""

SO_PASSSEC, SO_PASSPIDFD = 34, 76
"""asm-generic/socket.h; Python has no names for them."""

MAX_DESCRIPTORS = 253
"""Descriptors of one message: SCM_MAX_FD of the kernel."""

MAX_CLOSING = 64
"""Connections that may wait for the thread; beyond that no connection is accepted."""

_READ_SIZE = 64 * 1024
"""Bytes that the thread reads at once."""

_MAX_MESSAGES = 1000
"""Messages to look through at once: more than the kernel queues in a socket. An empty one cannot be
told from the end."""

_NO_LINGER = struct.pack("ii", 0, 0)


class PassedDescriptorsError(OSError):
    """The next bytes of a connection come with file descriptors."""

    def __init__(self) -> None:
        super().__init__(errno.EPERM, "file descriptors are not accepted")


@functools.cache
def kernel_refuses() -> bool:
    """Whether the kernel can refuse descriptors for the relay."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            return False
    return True


def refuse(listener: socket.socket) -> None:
    """Have the kernel refuse descriptors on connections that are made from now on, if it can."""
    if kernel_refuses():
        listener.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def protect(connection: socket.socket) -> bool:
    """Prepare a connection for `receive`.

    Returns:
        Whether it can be used. If not, descriptors were passed already: `discard` it.
    """
    if not kernel_refuses():
        _prepare_peek(connection)
    elif connection.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS):
        connection.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        return not _holds_descriptors(connection)
    return True


def receive(connection: socket.socket, size: int) -> bytes:
    """Read at most `size` bytes, like `socket.recv`.

    Raises:
        PassedDescriptorsError: descriptors would come along; nothing was read.
        OSError: as for `socket.recv`.
    """
    if not kernel_refuses():
        data, _, flags, _ = connection.recvmsg(size, 0, socket.MSG_PEEK)
        if flags & socket.MSG_CTRUNC:
            raise PassedDescriptorsError
        size = len(data)  # What has arrived since was not looked at.
    return connection.recv(size) if size else b""


def close(connection: socket.socket) -> None:
    """Close a connection without waiting for what its peer has passed."""
    if not kernel_refuses():
        with contextlib.suppress(OSError):  # The peer may be gone.
            connection.shutdown(socket.SHUT_RDWR)  # From now on nothing is added to the queue.
        if _holds_descriptors(connection):
            discard(connection)
            return
    connection.close()


def close_listener(listener: socket.socket) -> None:
    """Close a listening socket, and the connections that wait in it."""
    if not kernel_refuses():
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
            listener.setblocking(False)
            while True:
                close(listener.accept()[0])
    listener.close()


def discard(connection: socket.socket) -> None:
    """Have the thread close a connection to which descriptors were passed, and log its peer."""
    _CLOSER.close(connection)


def may_accept() -> bool:
    """Whether the thread keeps up, so that new connections can be accepted."""
    return _CLOSER.waiting < MAX_CLOSING


class _Closer:
    """Closes connections in a thread, which may have to wait for it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._log = RateLimitedLog(LOG)
        self._thread: threading.Thread | None = None
        self._added = 0
        self._closed = 0

    @property
    def waiting(self) -> int:
        """Connections that are not closed yet."""
        return self._added - self._closed

    def close(self, connection: socket.socket) -> None:
        self._log.warning(
            "connection ended: %s: it passes file descriptors, which are not accepted",
            peer_of(connection),
        )
        self._added += 1
        # A number, because Python would close a socket object at exit, and wait for it.
        self._queue.put(connection.detach())
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="closer", daemon=True)
            with contextlib.suppress(RuntimeError):  # No thread can be started; the next one tries.
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while True:
            fd = self._queue.get()
            try:
                _dispose(fd)
            finally:
                self._closed += 1


_CLOSER = _Closer()


def _prepare_peek(connection: socket.socket) -> None:
    """Have MSG_CTRUNC mean that there are descriptors, and nothing else."""
    # Otherwise a peek leaves out of-band data, and the read after it drops what came with that.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    for option in (socket.SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD):
        with contextlib.suppress(OSError):  # An older kernel does not have all of them.
            connection.setsockopt(socket.SOL_SOCKET, option, 0)


def _holds_descriptors(connection: socket.socket) -> bool:
    """Whether descriptors are in what a connection has received."""
    try:
        _prepare_peek(connection)
        (size,) = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
        # A peek ends with the first message that has descriptors.
        _, _, flags, _ = connection.recvmsg(size, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return bool(flags & socket.MSG_CTRUNC)


def _dispose(fd: int) -> None:
    """Close a descriptor, and first, without lingering, all that are queued in it."""
    waiting = [fd]
    while waiting:
        queued = _disarm(waiting[-1])
        if queued:
            waiting += queued
        else:
            with contextlib.suppress(OSError):
                os.close(waiting.pop())


def _disarm(fd: int) -> list[int]:
    """Turn lingering off, and return some descriptors that are queued in a Unix socket, if any."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return []  # It is no socket.
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return _queued(sock) if sock.family == socket.AF_UNIX else []
    except OSError:
        return []
    finally:
        sock.detach()


def _queued(sock: socket.socket) -> list[int]:
    """Take a connection from the backlog, or the descriptors of the next message that has any."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # From now on nothing is added.
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.setblocking(False)
        return [sock.accept()[0].detach()]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    for _ in range(_MAX_MESSAGES):
        data, passed, _, _ = socket.recv_fds(sock, _READ_SIZE, MAX_DESCRIPTORS, flags)
        if passed or (not data and sock.type == socket.SOCK_STREAM):
            return passed
    return []
