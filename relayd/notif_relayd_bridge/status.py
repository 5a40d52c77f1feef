# SPDX-License-Identifier: Apache-2.0
"""Answers the question how the bridge does, on a Unix socket.

Each connection gets one JSON object on one line, and is closed. Nothing is read from it. A thread
waits for connections without a timeout, so it wakes up only if one arrives. It has one connection
at a time and never waits for a client. After a burst it pauses, so that clients that connect all
the time cannot take processor time from the bridge; further ones wait in the queue of the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from notif_relay.version import __version__
from notif_relayd.escaping import printable_path
from notif_relayd.files import check_parent, lock
from notif_relayd_bridge.errors import StartError

RUNTIME_DIRECTORY = "/run/notif-relayd-bridge"
"""Directory with one directory for each bridge."""

STATUS_SOCKET = "status.sock"

MODE = 0o660
"""Mode of the socket: the user of the bridge, and the group of its process."""

BACKLOG = 32
"""Connections that the kernel keeps while the thread pauses; it refuses further ones."""

MAX_BURST = 64
"""Answers without a pause."""

MAX_RATE = 20.0
"""Answers per second after a burst. They take less than 1 % of a processor."""

CLOSE_TIMEOUT = 2.0
"""Maximum time, in seconds, to wait for the thread."""


class Reporting(Protocol):
    """A bridge in either direction."""

    def report(self) -> Mapping[str, object]:
        """Return the figures.

        It is called in the thread of the status socket. It neither waits nor wakes another thread.
        """


class StatusServer:
    """The status socket.

    Args:
        path: the socket; its directory must exist.
        report: returns what is answered.

    Raises:
        StartError: the socket cannot be bound, or a process listens on it.
    """

    def __init__(self, path: str, report: Callable[[], Mapping[str, object]]) -> None:
        self._path = path
        self._report = report
        self._closed = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._file = _bind(self._listener, path)
        except BaseException:
            self._listener.close()
            raise
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Remove the socket, and end the thread. May be called again."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._file:
                os.unlink(self._path)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # This ends accept().
        self._thread.join(CLOSE_TIMEOUT)
        self._listener.close()

    def _run(self) -> None:
        left, since = float(MAX_BURST), time.monotonic()
        while not self._closed.is_set():
            with contextlib.suppress(OSError):  # The client has left, or descriptors are missing.
                connection, _ = self._listener.accept()
                with connection:
                    self._answer(connection)
            now = time.monotonic()
            left = min(MAX_BURST, left + (now - since) * MAX_RATE) - 1
            since = now
            if left < 1:
                self._closed.wait((1 - left) / MAX_RATE)

    def _answer(self, connection: socket.socket) -> None:
        line = json.dumps(self._report(), separators=(",", ":")) + "\n"
        # The buffer of a new connection takes it, so that this neither waits nor is incomplete.
        connection.setblocking(False)
        connection.send(line.encode(), socket.MSG_NOSIGNAL)


@contextlib.contextmanager
def answering(
    path: str | None, bridge: Reporting, name: str, direction: str, broker: str
) -> Iterator[None]:
    """Answer on the status socket while the context is active.

    Args:
        path: the socket; None for none.
        bridge: its figures.
        name: name of the bridge.
        direction: ``out`` from a relay to a broker, or ``in``.
        broker: ``rabbit``, ``kafka`` or ``nats``.

    Raises:
        StartError: see `StatusServer`.
    """
    if path is None:
        yield
        return
    fixed = {
        "name": name,
        "version": __version__,
        "pid": os.getpid(),
        "direction": direction,
        "broker": broker,
        "since": round(time.time(), 3),
    }
    with contextlib.closing(StatusServer(path, lambda: {**fixed, **bridge.report()})):
        yield


def default_path(name: str, directory: str = RUNTIME_DIRECTORY) -> str | None:
    """Return the socket of a bridge in the directory that systemd creates; None without it."""
    own = os.path.join(directory, name)
    return os.path.join(own, STATUS_SOCKET) if os.path.isdir(own) else None


def check_path(path: str) -> None:
    """Check that the status socket can be bound, without binding it.

    Raises:
        StartError: it cannot be. Directories in /run may be missing.
    """
    try:
        check_parent(path, volatile="/run/")
        _is_socket(path)
    except OSError as error:
        raise _error(path, error.strerror or str(error)) from error


def _bind(listener: socket.socket, path: str) -> tuple[int, int]:
    """Bind the socket and listen; return device and inode of its file."""
    try:
        with _locked(f"{path}.lock"):
            _remove_stale(path)
            before = os.umask(0o777 & ~MODE)
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            listener.listen(BACKLOG)
            return _identity(path)
    except OSError as error:
        raise _error(path, error.strerror or str(error)) from error


def _is_socket(path: str) -> bool:
    """Return whether a socket exists.

    Raises:
        StartError: the file is not a socket.
        OSError: the file cannot be examined.
    """
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return False
    if not is_socket:
        raise _error(path, "the file exists and is not a socket; remove it or use another path")
    return True


def _remove_stale(path: str) -> None:
    """Remove a socket on which no process listens.

    Raises:
        StartError: a process listens, or the file is not a socket.
        OSError: the file cannot be examined or removed.
    """
    if not _is_socket(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        failure = probe.connect_ex(path)
    if failure == errno.ECONNREFUSED:
        os.unlink(path)
    elif failure in (0, errno.EAGAIN):  # EAGAIN: its queue is full.
        raise _error(path, "another process listens on it; use one path per bridge")
    else:
        raise OSError(failure, os.strerror(failure))


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Exclude other bridges that bind the same socket; each takes a moment."""
    fd = lock(path, _open_lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)  # While it is locked, see `lock`.
        os.close(fd)


def _open_lock(path: str) -> int:
    # With this mode, no other user can hold the lock.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _error(path: str, reason: str) -> StartError:
    return StartError(f"cannot use the status socket {printable_path(path)}: {reason}")
