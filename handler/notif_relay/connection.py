# SPDX-License-Identifier: Apache-2.0
"""Stream connections to Unix sockets: everything that depends on the Linux kernel.

A ``Connection`` uses ``_socket.socket``, the C base class of ``socket.socket``. eventlet and
gevent patch only the derived class, so a wait here blocks the thread and never switches green
threads while the caller holds a lock; sends are also cheaper. For the same reason
``is_writable`` uses ioctl(2): eventlet removes ``select.poll``, and gevent's may switch.
"""

import _socket
import contextlib
import errno
import grp
import os
import pwd
from array import array
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ

from notif_relay.errors import PermissionDenied, RelayUnavailable
from notif_relay.escaping import shown
from notif_relay.refusal import MAX_ANSWER, sentence_in

SEND_BUFFER = 1024 * 1024
"""Size of the send buffer to request, in bytes; ``net.core.wmem_max`` is the upper limit.

While systemd starts the relay on the first connection, records wait in this buffer.
"""

MAX_PATH_SIZE = 107
"""Maximum size of a socket path in bytes: ``sun_path`` of unix(7) without its final NUL."""

NO_SIGNAL = _socket.MSG_NOSIGNAL
"""Flag for every send: some processes that embed Python do not ignore SIGPIPE."""


class Connection:
    """A connection to the stream socket at ``path``.

    Connecting does not wait.

    Raises:
        OSError: no process listens on the socket, its queue of connections is full, or the
            process is not allowed to connect; see ``connect_error``.
    """

    __slots__ = ("_answer", "_identity", "_queued", "_send_buffer", "_socket", "send")

    send: Callable[[bytes, int], int]
    """``socket.send`` itself, non-blocking; stored here because every record is sent by it."""

    def __init__(self, path: str) -> None:
        sock = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        )
        try:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, SEND_BUFFER)
            sock.connect(path)
            self._send_buffer = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF)
            self._identity = identity(sock.fileno())
        except OSError:
            sock.close()
            raise
        self._socket = sock
        self._answer = b""
        self._queued = array("i", [0])  # ioctl(2) result; reused, which halves the cost
        self.send = sock.send

    def send_until(
        self, deadline: float, clock: Callable[[], float], data: bytes, sent: int = 0
    ) -> int:
        """Send ``data`` from offset ``sent``, waiting for a full socket until ``deadline``.

        The kernel rounds waits to milliseconds, so the last one may exceed the deadline by 1 ms.

        Args:
            deadline: time at which to stop waiting, in seconds of ``clock``.
            clock: returns the current time in seconds.
            data: the bytes to send.
            sent: number of bytes of ``data`` that were already sent.

        Returns:
            The number of bytes of ``data`` sent so far, including the initial ``sent``.

        Raises:
            OSError: the connection failed.
        """
        sock = self._socket
        view = memoryview(data)
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(view[sent:], NO_SIGNAL)
        try:
            while sent < len(data) and (remaining := deadline - clock()) > 0:
                sock.settimeout(remaining)
                sent += sock.send(view[sent:], NO_SIGNAL)
        except TimeoutError:
            pass
        finally:
            sock.settimeout(0)
        return sent

    def is_writable(self) -> bool:
        """Return whether poll(2) would report the socket as writable.

        That is the case if three quarters of the send buffer are free; see ``unix_writable()``
        in the kernel. Return True if the kernel does not report the queue size.
        """
        try:
            ioctl(self._socket.fileno(), TIOCOUTQ, self._queued)
        except OSError:
            return True
        return 4 * self._queued[0] < self._send_buffer

    def peer_left_data_unread(self, error: OSError) -> bool:
        """Return whether the peer closed the connection without reading all data.

        Linux reports ECONNRESET only in this case; see ``unix_release_sock()`` in the kernel.
        A send usually fails with EPIPE first, and ECONNRESET remains pending in SO_ERROR.

        Args:
            error: the error that a send raised.
        """
        with contextlib.suppress(OSError):  # other code has closed the descriptor
            pending = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            return errno.ECONNRESET in (error.errno, pending)
        return False

    def finish(self, timeout: float) -> None:
        """End the stream, and wait until the peer has read it and closes its end.

        Args:
            timeout: maximum time to wait, in seconds.

        Raises:
            TimeoutError: the peer has not closed its end yet.
            OSError: the peer has closed the connection without reading all data.
        """
        self._socket.shutdown(_socket.SHUT_WR)
        self._socket.settimeout(timeout)
        while data := self._socket.recv(MAX_ANSWER):
            self._answer = (self._answer + data)[:MAX_ANSWER]

    def refusal(self) -> str:
        """Return the sentence with which the relay has refused the connection; empty if none."""
        with contextlib.suppress(OSError):
            self._answer += self._socket.recv(MAX_ANSWER, _socket.MSG_DONTWAIT)
        return sentence_in(self._answer)

    def close(self) -> None:
        """Close the descriptor if it still refers to this socket.

        A process that became a daemon may have closed the descriptor and reused its number for
        another file. In a child process, only the child's copy is closed.
        """
        descriptor = self._socket.detach()
        with contextlib.suppress(OSError):
            if identity(descriptor) == self._identity:
                os.close(descriptor)


def checked_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a socket, because a service may change its directory.

    Raises:
        TypeError, ValueError: no socket can have this path.
    """
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise TypeError(f"path must be a string or a path, not {shown(path)}")
    try:
        name_bytes = os.fsencode(name)
    except UnicodeEncodeError:
        name_bytes = b""
    if not name_bytes or b"\0" in name_bytes:
        raise ValueError(f"path must be the name of a socket file, not {shown(path)}")
    name = os.path.abspath(name)
    if len(os.fsencode(name)) > MAX_PATH_SIZE:
        raise ValueError(
            f"path must be at most {MAX_PATH_SIZE} bytes long, the limit for Unix sockets:"
            f" {shown(name)}"
        )
    return name


def connect_error(path: str, error: OSError) -> RelayUnavailable | PermissionDenied:
    """Return the exception of the library for an error of connect(2).

    Args:
        path: path of the socket.
        error: the error that the attempt to connect raised.
    """
    match error:
        case PermissionError():
            return PermissionDenied(path, _group(path), _user())
        case FileNotFoundError() | NotADirectoryError():
            reason = "the socket does not exist; is notif-relayd installed and running?"
            return RelayUnavailable(path, reason, running=False)
        case ConnectionRefusedError():
            reason = "no process listens on the socket; is notif-relayd running?"
            return RelayUnavailable(path, reason, running=False)
        case BlockingIOError():
            return RelayUnavailable(path, "the socket's queue of new connections is full")
    return RelayUnavailable(path, error.strerror or str(error))


def _group(path: str) -> str:
    """Return the group of the socket, or of its nearest directory that can be examined."""
    while True:
        try:
            group = os.stat(path).st_gid
            break
        except OSError:
            path = os.path.dirname(path)
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)


def _user() -> str:
    user = os.geteuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def identity(descriptor: int) -> tuple[int, int]:
    """Return a value that differs between the open files of a process.

    A process that became a daemon may have closed a descriptor and reused its number.

    Raises:
        OSError: the descriptor is closed.
    """
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
