# SPDX-License-Identifier: Apache-2.0
"""A stream connection to a Unix socket, as the kernel sees it.

All that depends on how Linux treats Unix sockets is here; what to do about it is in
``sender.py``.

The socket is the C type below ``socket.socket``. eventlet and gevent replace only what is above
it, so a wait is a real one that never switches green threads while the caller holds a lock, and
a send costs less. For the same reason the kernel is asked by ioctl(2) whether the socket is
writable: under eventlet there is no ``select.poll``, under gevent it may switch.
"""

import _socket
import contextlib
import errno
import os
from array import array
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ

SEND_BUFFER = 1024 * 1024
"""Bytes of send buffer to ask for; the kernel grants at most ``net.core.wmem_max``.

What is sent while the relay is only just being started by its socket must fit in here.
"""

LONGEST_PATH = 107
"""Bytes that ``sun_path`` holds, see unix(7), without the NUL at its end."""

NO_SIGNAL = _socket.MSG_NOSIGNAL
"""The flag for every send: not every process that embeds Python ignores SIGPIPE."""


class Connection:
    """Connected to the socket at ``path``, or never made; it does not wait for that.

    Raises:
        OSError: nobody listens there, or has room for one more.
    """

    __slots__ = ("_identity", "_queued", "_send_buffer", "_socket", "send")

    send: Callable[[bytes, int], int]
    """``socket.send`` itself, which does not wait: every record goes through here."""

    def __init__(self, path: str) -> None:
        sock = _socket.socket(
            _socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
        )
        try:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, SEND_BUFFER)
            sock.connect(path)
            self._send_buffer = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF)
            self._identity = _identity(sock.fileno())
        except OSError:
            sock.close()
            raise
        self._socket = sock
        self._queued = array("i", [0])  # for ioctl(2) to write to: half the cost of a new one
        self.send = sock.send

    def send_until(
        self, deadline: float, clock: Callable[[], float], data: bytes, out: int = 0
    ) -> int:
        """Send ``data`` from ``out`` on; how many bytes of it are out at ``deadline``.

        The kernel counts waits in milliseconds: the last one may end up to one too late.

        Raises:
            OSError: the connection has failed.
        """
        sock = self._socket
        view = memoryview(data)
        with contextlib.suppress(BlockingIOError):
            out += sock.send(view[out:], NO_SIGNAL)
        try:
            while out < len(data) and (remaining := deadline - clock()) > 0:
                sock.settimeout(remaining)
                out += sock.send(view[out:], NO_SIGNAL)
        except TimeoutError:
            pass
        finally:
            sock.settimeout(0)
        return out

    def is_writable(self) -> bool:
        """What poll(2) would say: whether three quarters of the buffer are free.

        This is ``unix_writable()`` in the kernel. Where it cannot be asked, only a send can tell.
        """
        try:
            ioctl(self._socket.fileno(), TIOCOUTQ, self._queued)
        except OSError:
            return True
        return 4 * self._queued[0] < self._send_buffer

    def was_left_unread(self, error: OSError) -> bool:
        """Whether the peer closed without reading all, ``error`` being what a send raised.

        Linux reports ECONNRESET exactly then (``unix_release_sock()`` in the kernel). A send
        usually fails with EPIPE before it comes upon that error, and leaves it to be asked for.
        """
        with contextlib.suppress(OSError):  # a descriptor closed behind our back
            pending = self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            return errno.ECONNRESET in (error.errno, pending)
        return False

    def close(self) -> None:
        """Close the descriptor if it is still this socket; in a child process, the child's copy.

        A process that becomes a daemon may have closed it, and its number may be another file's.
        """
        descriptor = self._socket.detach()
        with contextlib.suppress(OSError):
            if _identity(descriptor) == self._identity:
                os.close(descriptor)


def checked_path(path: str | os.PathLike[str]) -> str:
    """The absolute name of the socket file: a service may change its directory.

    Raises:
        TypeError, ValueError: no socket can have that name.
    """
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise TypeError(f"path must be a string or a path, not {path!r}")
    if not name or "\0" in name:
        raise ValueError(f"path must be the name of a socket file, not {path!r}")
    name = os.path.abspath(name)
    if len(os.fsencode(name)) > LONGEST_PATH:
        raise ValueError(
            f"path must be at most {LONGEST_PATH} bytes long, as every Unix socket's: {name!r}"
        )
    return name


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
