# SPDX-License-Identifier: Apache-2.0
"""Keeps file descriptors that peers pass (``SCM_RIGHTS``, unix(7)) out of the event loop.

A process that drops the last reference to a file waits until the file is closed. For a TCP socket
with ``SO_LINGER`` and unsent data this takes as long as the peer has chosen. A process drops a
passed descriptor when it reads the data that the descriptor came with, and when it closes the
connection in which the descriptor is queued. The event loop must do neither:

- Since Linux 6.16 a socket can refuse descriptors (``SO_PASSRIGHTS``); the sender gets EPERM.
  Connections inherit the setting from their listener at the time of connect(2). For an older
  connection `protect` changes the setting, and looks once for descriptors that are queued already.
- On older kernels each read takes two system calls. The first one (``MSG_PEEK`` without space for
  descriptors) consumes nothing and reports whether there are descriptors. Receiving and closing
  them would save a copy of the data, but under some AppArmor profiles, and with a full descriptor
  table, the kernel drops them within recvmsg(2). A record of 1 KiB takes 0.3 µs more, 1 % of its
  time in the relay; a saturated relay needs 10 to 25 % more processor time per record.

The relay disconnects a peer that passes descriptors; a separate thread closes its connection.
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
"""From asm-generic/socket.h, since Linux 6.16; Python does not define it."""

SO_PASSSEC, SO_PASSPIDFD = 34, 76
"""From asm-generic/socket.h; Python does not define them."""

MAX_DESCRIPTORS = 253
"""Maximum number of descriptors in one message: SCM_MAX_FD of the kernel."""

MAX_CLOSING = 64
"""Maximum number of connections that wait for the closing thread; with more, no connection is
accepted."""

_READ_SIZE = 64 * 1024
"""Bytes of one read in the closing thread."""

_MAX_MESSAGES = 1000
"""Maximum number of messages to read from a passed socket: more than the kernel queues. An empty
message and an empty queue cannot be distinguished."""

_NO_LINGER = struct.pack("ii", 0, 0)


class PassedDescriptorsError(OSError):
    """The next bytes of a connection carry file descriptors."""

    def __init__(self) -> None:
        super().__init__(errno.EPERM, "file descriptors are not accepted")


@functools.cache
def kernel_refuses() -> bool:
    """Return whether the kernel can refuse passed descriptors."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            return False
    return True


def refuse(listener: socket.socket) -> None:
    """Make the kernel refuse descriptors on future connections of a listener, if it can."""
    if kernel_refuses():
        listener.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)


def protect(connection: socket.socket) -> bool:
    """Prepare a connection for `receive`.

    Returns:
        Whether the connection can be used. If not, descriptors have been passed already, and the
        caller must `discard` the connection.
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
        PassedDescriptorsError: the data carries descriptors; nothing was read.
        OSError: as `socket.recv`.
    """
    if not kernel_refuses():
        data, _, flags, _ = connection.recvmsg(size, 0, socket.MSG_PEEK)
        if flags & socket.MSG_CTRUNC:
            raise PassedDescriptorsError
        size = len(data)  # Data that has arrived since may carry descriptors.
    return connection.recv(size) if size else b""


def close(connection: socket.socket) -> None:
    """Close a connection without waiting for files that its peer has passed."""
    if not kernel_refuses():
        with contextlib.suppress(OSError):  # The peer may have hung up.
            connection.shutdown(socket.SHUT_RDWR)  # Nothing is added to the queue any more.
        if _holds_descriptors(connection):
            discard(connection)
            return
    connection.close()


def close_listener(listener: socket.socket) -> None:
    """Close a listening socket and the connections in its queue."""
    if not kernel_refuses():
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
            listener.setblocking(False)
            while True:
                close(listener.accept()[0])
    listener.close()


def discard(connection: socket.socket) -> None:
    """Close a connection with passed descriptors in the closing thread, and log its peer."""
    _CLOSER.close(connection)


def may_accept() -> bool:
    """Return whether the closing thread keeps up, so that connections can be accepted."""
    return _CLOSER.waiting < MAX_CLOSING


class _Closer:
    """Closes connections in a thread of its own, which may block."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._log = RateLimitedLog(LOG)
        self._thread: threading.Thread | None = None
        self._added = 0
        self._closed = 0

    @property
    def waiting(self) -> int:
        """Number of connections that are not closed yet."""
        return self._added - self._closed

    def close(self, connection: socket.socket) -> None:
        peer = peer_of(connection)
        self._log.warning(
            "connection ended: %s: it passed file descriptors, which are not accepted",
            peer,
            subject=(peer.uid, peer.pid),
        )
        self._added += 1
        # Queue the number: Python would close a socket object at exit, and block.
        self._queue.put(connection.detach())
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="closer", daemon=True)
            with contextlib.suppress(RuntimeError):  # The next call tries again.
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while True:
            fd = self._queue.get()
            try:
                _close_all(fd)
            finally:
                self._closed += 1


_CLOSER = _Closer()


def _prepare_peek(connection: socket.socket) -> None:
    """Set socket options so that MSG_CTRUNC means passed descriptors and nothing else."""
    # Otherwise a peek skips out-of-band data, and the read drops the descriptors that came with it.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    for option in (socket.SO_PASSCRED, SO_PASSSEC, SO_PASSPIDFD):
        with contextlib.suppress(OSError):  # Older kernels do not have all options.
            connection.setsockopt(socket.SOL_SOCKET, option, 0)


def _holds_descriptors(connection: socket.socket) -> bool:
    """Return whether the receive queue of a connection contains descriptors."""
    try:
        _prepare_peek(connection)
        (size,) = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
        # A peek ends at the first message with descriptors.
        _, _, flags, _ = connection.recvmsg(size, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return False
    return bool(flags & socket.MSG_CTRUNC)


def _close_all(fd: int) -> None:
    """Close a descriptor, after all descriptors that are queued in it; no close lingers."""
    unclosed = [fd]
    while unclosed:
        queued = _disarm(unclosed[-1])
        if queued:
            unclosed += queued
        else:
            with contextlib.suppress(OSError):
                os.close(unclosed.pop())


def _disarm(fd: int) -> list[int]:
    """Disable lingering; return some of the descriptors that are queued in a Unix socket."""
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return []  # Not a socket.
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return _queued(sock) if sock.family == socket.AF_UNIX else []
    except OSError:
        return []
    finally:
        sock.detach()


def _queued(sock: socket.socket) -> list[int]:
    """Return one connection of a listening socket, or the descriptors of the next such message."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)  # Nothing is added any more.
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
