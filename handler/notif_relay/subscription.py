# SPDX-License-Identifier: Apache-2.0
"""The connections of a subscriber; common base of the thread and the asyncio subscriber.

The two differ only in how they wait, so nothing in this file waits. A Unix socket connects
immediately or fails, and accepts a whole request immediately. Only reads have to wait, which
``subscriber.py`` and ``aio.py`` implement.

Many subscribers lose the relay at the same time, so reconnecting uses exponential backoff with
full jitter: a random pause whose upper limit doubles with each failure. (Marc Brooker,
"Exponential Backoff And Jitter", 2015.)

A subscriber belongs to the process that created it. A child process that was forked shares the
connection: it may neither read from it, nor shut it down.
"""

import _socket as c_socket
import contextlib
import errno
import logging
import os
import random
import socket
import stat
import threading
import time
import weakref
from collections.abc import Iterator
from typing import NoReturn

from notif_relay.connection import NO_SIGNAL, checked_path, connect_error, identity
from notif_relay.errors import (
    BadFilter,
    PermissionDenied,
    RelayError,
    RelayUnavailable,
    SubscriptionRefused,
    WrongProcess,
)
from notif_relay.escaping import shown
from notif_relay.forks import fork_mark
from notif_relay.group import Membership
from notif_relay.notification import Notification
from notif_relay.progress import Progress
from notif_relay.stream import MakeProgress, OnGap, Stream

LOG = logging.getLogger(__name__)

READ_SIZE = 64 * 1024
"""Maximum size of one read in bytes; more exceeds the fastest processor caches and is slower."""

MIN_BACKOFF = 0.1
"""Upper limit in seconds of the first pause between two attempts to connect."""

MAX_BACKOFF = 5.0
"""Maximum pause in seconds between two attempts to connect."""


class Subscription:
    """A request and the current connection; base class of both subscribers.

    Args:
        path: path of the public socket.
        request: the request, as returned by ``filter_request``.
        membership: the group in the request, if any.
        timeout: maximum time in seconds to wait for a notification; None: no limit.
        reconnect: whether to connect again after a failure.
        on_gap: see ``Stream``.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    _socket: socket.socket | None = None
    _socket_identity = 0, 0
    _reports: c_socket.socket | None = None
    """Sends on the descriptor of ``_socket``, without its timeout and without green threads."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        request: bytes,
        membership: Membership | None,
        timeout: float | None,
        reconnect: bool,
        on_gap: OnGap | None,
    ) -> None:
        _check_options(timeout, reconnect, on_gap)
        self._pid = os.getpid()
        self._fork_mark = fork_mark()
        """Its first item is 0 in a child process."""
        self.path = _checked_public_path(path)
        """Path of the public socket."""
        self._request = request
        self._window = None if membership is None else membership.window
        make_progress = None if self._window is None else _progress_of(self, self._window)
        self._stream = Stream(self.path, on_gap, make_progress)
        self._ready: Iterator[Notification] = iter(())
        """Notifications that were read; the next read replaces them, so use them up first."""
        self._timeout = timeout
        self._reconnect = reconnect
        self._closed = False
        self._connect_at = 0.0
        """Time of the next attempt to connect, on the monotonic clock."""
        self._failed_at = 0.0
        self._backoff_limit = MIN_BACKOFF
        self._was_denied = False
        self._logged: set[type[RelayError]] = set()
        """Types of failures that were logged since the relay answered last."""
        self._notice_logged = False

    @property
    def connected(self) -> bool:
        """Whether a connection is open; the end of the relay is detected at the next read."""
        return self._socket is not None

    @property
    def notice(self) -> str:
        """The relay's sentence if the access rules leave nothing to read; otherwise empty."""
        return self._stream.notice

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: two subscribers cannot share a connection.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a subscriber cannot be copied or passed to another process; subscribe in the process"
            " that reads"
        )

    def __del__(self) -> None:
        """Close the socket of a subscriber that was abandoned, for example inside a loop."""
        self._disconnect()

    def _in_child(self) -> bool:
        """Return whether this process is a child of the one that created the subscriber."""
        return not self._fork_mark[0] and os.getpid() != self._pid

    def _check_process(self) -> None:
        if self._in_child():
            raise WrongProcess(self.path, self._pid, os.getpid())

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _timeout_error(self) -> TimeoutError:
        return TimeoutError(f"no notification from {self.path} for {self._timeout} s")

    def _connect(self) -> None:
        """Try to connect and to send the request; after a failure, schedule the next attempt.

        Raises:
            PermissionDenied: the process is not allowed to connect.
            RelayUnavailable: the attempt failed, and ``reconnect`` is off.
        """
        failure: RelayUnavailable | None = None
        try:
            sock = _connected(self.path, self._request)
            self._socket_identity = identity(sock.fileno())
            if self._window is not None:
                self._reports = c_socket.socket(
                    c_socket.AF_UNIX, c_socket.SOCK_STREAM, 0, fileno=sock.fileno()
                )
            self._socket = sock
        except PermissionDenied:
            # When a relay restarts, it creates its socket an instant before it sets the group.
            # Therefore the first denial after another failure is followed by one more attempt.
            if self._was_denied or not self._failed_at:
                self._stream.gap_reason = "permission_denied"
                raise
            self._was_denied = True
            self._postpone()
        except RelayUnavailable as error:
            failure = error
        else:
            self._was_denied = False
        # Not in an exception handler: oslo.log appends the exception being handled to a message.
        if failure is not None:
            self._handle_failure(failure)

    def _read(self, sock: socket.socket) -> None:
        """Read once and store the notifications in ``_ready``.

        Raises:
            BlockingIOError, TimeoutError: there is no data; the connection remains open.
            BadFilter: the relay refused the request; the subscriber is closed.
            RelayUnavailable: the connection ended, and ``reconnect`` is off.
            SubscriptionRefused: the relay refused the subscriber, which is closed.
            WrongProcess: this is a child process. The process may have been forked while it
                waited here, by a signal handler or a green thread.
        """
        failure: RelayUnavailable | None = None
        try:
            sock.recv(1, socket.MSG_PEEK)  # waits, and leaves the data in the socket
            self._check_process()
            data = sock.recv(READ_SIZE)
            if not data:
                raise EOFError
            self._ready = self._stream.receive(data)
        except (BlockingIOError, TimeoutError):
            raise
        except BadFilter:
            self._disconnect()
            self._closed = True
            raise
        except RelayUnavailable as error:
            failure = error
        except (OSError, EOFError) as error:
            reason = self._stream.error or "the relay closed the connection"
            self._stream.end(is_complete=isinstance(error, EOFError))
            failure = RelayUnavailable(self.path, reason)
        except BaseException:
            # An asynchronous exception may have been raised after data was read and before it
            # was stored. Only a new connection is certain to start at a record boundary.
            self._disconnect()
            raise
        if failure is not None:
            self._handle_failure(failure)
            return
        if self.notice and not self._notice_logged:
            self._notice_logged = True
            LOG.warning("connected to the relay at %s: %s", self.path, self.notice)
        if self._logged and self._stream.flowing:
            self._logged.clear()
            self._log_connected()

    def _handle_failure(self, error: RelayUnavailable) -> None:
        self._disconnect()
        if self._closed:
            return
        if self._is_final(error):
            self._closed = True
            raise error
        self._log_failure(error)
        self._postpone()

    def _is_final(self, error: RelayUnavailable) -> bool:
        """Return whether to raise a failure to the caller instead of connecting again.

        A limit of the relay is final only before the first answer. Later it can be due to many
        subscribers that connect again at the same time.
        """
        if isinstance(error, SubscriptionRefused):
            return error.is_permanent or not self._reconnect or not self._stream.times_flowed
        return not self._reconnect

    def _log_failure(self, error: RelayUnavailable | PermissionDenied) -> None:
        """Log a failure once until the relay answers again."""
        if type(error) not in self._logged:
            self._logged.add(type(error))
            if isinstance(error, RelayUnavailable):
                LOG.warning("waiting for a relay at %s: %s", self.path, error.reason)
            else:
                LOG.warning("waiting for access to the relay: %s", error)

    def _log_connected(self) -> None:
        again = " again" if self._stream.times_flowed > 1 else ""
        LOG.info("connected%s to the relay at %s", again, self.path)

    def _postpone(self) -> None:
        now = time.monotonic()
        # Reset the backoff after a long time without failure.
        recent = now - self._failed_at <= 2 * MAX_BACKOFF
        self._backoff_limit = min(2 * self._backoff_limit, MAX_BACKOFF) if recent else MIN_BACKOFF
        self._failed_at = now
        self._connect_at = now + random.uniform(0, self._backoff_limit)  # noqa: S311 (no secret)

    def _report(self, line: bytes) -> bool:
        """Send a line to the relay without waiting; return False if it could not be sent."""
        sock, reports = self._socket, self._reports
        if sock is None or reports is None or not self._owns_descriptor(sock):
            return False
        try:
            return reports.send(line, NO_SIGNAL | c_socket.MSG_DONTWAIT) == len(line)
        except OSError:  # the next read finds the end of the connection, if it has ended
            return False

    def _disconnect(self) -> None:
        sock = self._socket
        if self._reports is not None:
            self._reports.detach()
            self._reports = None
        if sock is not None:
            if self._owns_descriptor(sock):
                sock.close()  # in a child process, only the child's copy
            else:
                sock.detach()
            self._socket = None
            self._stream.end()

    def _owns_descriptor(self, sock: socket.socket) -> bool:
        """Return whether the descriptor still refers to this socket and not to another file."""
        try:
            return identity(sock.fileno()) == self._socket_identity
        except OSError:
            return False

    def _report_finished(self) -> None:
        """Report the finished notifications, unless this process is a child."""
        progress = self._stream.progress
        if progress is not None and not self._in_child():
            progress.report()

    def _release(self) -> None:
        """Discard unread notifications and close the socket."""
        self._ready = iter(())
        self._disconnect()


def _progress_of(subscription: Subscription, window: int) -> MakeProgress:
    """Return a function that makes the progress of a subscription.

    Notifications refer to their progress, and must not keep an abandoned subscription connected.
    """
    reference = weakref.ref(subscription)

    def send(line: bytes) -> bool:
        subscription = reference()
        return subscription is not None and subscription._report(line)  # noqa: SLF001 (this module)

    def check() -> None:
        subscription = reference()
        if subscription is not None and not subscription._fork_mark[0]:  # noqa: SLF001
            subscription._check_process()  # noqa: SLF001

    return lambda since: Progress(window, since, send, check)


def _check_options(timeout: object, reconnect: object, on_gap: object) -> None:
    if timeout is not None:
        if not isinstance(timeout, int | float) or isinstance(timeout, bool):
            raise TypeError(f"timeout must be a number of seconds or None, not {shown(timeout)}")
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise ValueError(
                f"timeout must be more than 0 and at most {threading.TIMEOUT_MAX:.0f} seconds,"
                f" not {shown(timeout)}"
            )
    if not isinstance(reconnect, bool):
        raise TypeError(f"reconnect must be True or False, not {shown(reconnect)}")
    if on_gap is not None and not callable(on_gap):
        raise TypeError(f"on_gap must be a function or None, not {shown(on_gap)}")


def _checked_public_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of the public socket.

    A subscriber waits for a socket that does not exist. Therefore a pattern, a URL or another file
    in place of the path must not pass as a path.

    Raises:
        TypeError, ValueError: this is not the path of a socket.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"path must be the path of the relay's public socket, not {shown(path)}; {_BY_NAME}"
        )
    name = checked_path(path)
    try:
        mode = os.stat(name).st_mode
    except OSError:
        if isinstance(path, str) and "://" in path:
            raise ValueError(f"path must be an ordinary path, not the URL {shown(path)}") from None
        if isinstance(path, str) and not _may_become_a_socket(path):
            raise ValueError(
                "path must be the path of the relay's public socket, and"
                f" {shown(path)} does not exist; {_BY_NAME}, or pass a pathlib.Path if it is a path"
            ) from None
    else:
        if not stat.S_ISSOCK(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "not a socket"
            raise ValueError(f"path must name the relay's public socket: {shown(name)} is {kind}")
    return name


def _may_become_a_socket(path: str) -> bool:
    """Return whether a text that names no file looks like a path rather than a pattern."""
    return "*" not in path and ("/" in path or path.endswith(".sock"))


_BY_NAME = "pass patterns by name, as in event_type='compute.*'"


def _connected(path: str, request: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        # A relay with too many subscribers may have closed the connection already; its error
        # record can still be read.
        with contextlib.suppress(BrokenPipeError):
            if sock.send(request, NO_SIGNAL) < len(request):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    except OSError as error:
        sock.close()
        raise connect_error(path, error) from None
    except BaseException:
        sock.close()
        raise
    return sock
