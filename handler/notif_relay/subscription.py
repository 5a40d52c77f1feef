# SPDX-License-Identifier: Apache-2.0
"""A subscriber's connections to the relay, one after the other: all of it but the waiting.

How to wait is all that differs between threads and asyncio, so everything else is here, and
nothing here ever waits. A Unix socket connects at once or not at all, and takes a whole request
at once; only reading has to be waited for, and ``subscriber.py`` and ``aio.py`` do that.

After a failure the next attempt is due after a random pause with a growing limit, as many
subscribers lose the relay at the same instant. (Exponential backoff with full jitter: Marc
Brooker, "Exponential Backoff And Jitter", 2015.)
"""

import contextlib
import errno
import grp
import os
import pwd
import random
import socket
import time
from collections.abc import Iterator

from notif_relay.connection import NO_SIGNAL, checked_path
from notif_relay.errors import BadFilter, PermissionDenied, RelayUnavailable
from notif_relay.notification import Notification
from notif_relay.request import Patterns, filter_request
from notif_relay.stream import OnGap, Stream

READ_SIZE = 64 * 1024
"""Bytes read at once: more does not fit into a processor's nearest caches, and is slower."""

FIRST_PAUSE = 0.1
LAST_PAUSE = 5.0
"""Seconds at most between two attempts: the first limit doubles until it is the last one."""


class Subscription:
    """What a subscriber wants, and how far it has come; the base of both kinds of subscribers.

    Raises:
        BadFilter, TypeError, ValueError: an argument that can never work.
    """

    _socket: socket.socket | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        event_type: Patterns,
        priority: Patterns,
        publisher_id: Patterns,
        timeout: float | None,
        reconnect: bool,
        on_gap: OnGap | None,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        self.path = checked_path(path)
        """The public socket."""
        self._request = filter_request(event_type, priority, publisher_id)
        self._stream = Stream(self.path, on_gap)
        self._ready: Iterator[Notification] = iter(())
        """What was read; to be exhausted before more is."""
        self._timeout = timeout
        self._reconnect = reconnect
        self._closed = False
        self._due = 0.0
        """When to connect, by the monotonic clock."""
        self._failed_at = 0.0
        self._pause = FIRST_PAUSE
        self._denied = False

    @property
    def connected(self) -> bool:
        """Whether a connection is held; that the relay has died shows only at the next read."""
        return self._socket is not None

    def __del__(self) -> None:
        """Let a subscriber that was left in the middle of a loop give its socket back."""
        self._hang_up()

    def _deadline(self) -> float | None:
        return None if self._timeout is None else time.monotonic() + self._timeout

    def _overdue(self) -> TimeoutError:
        return TimeoutError(f"nothing came from {self.path} for {self._timeout} s")

    def _connect(self) -> None:
        """Try to connect, and send the request; if that fails, again when it is due.

        Raises:
            PermissionDenied: the process may not.
            RelayUnavailable: it failed, and nobody wants to try again.
        """
        try:
            self._socket = _connected(self.path, self._request)
        except PermissionDenied:
            # A relay that starts hands its socket to the group an instant after making it.
            if self._denied or not self._failed_at:
                raise
            self._denied = True
            self._postpone()
        except RelayUnavailable as error:
            self._fail(error)
        else:
            self._denied = False

    def _read(self, sock: socket.socket) -> None:
        """Take what is there, by one read.

        Raises:
            BlockingIOError, TimeoutError: nothing was there; the connection is as it was.
            BadFilter: the relay cannot use the filter; the subscriber is closed.
            RelayUnavailable: the connection has ended, and nobody wants another one.
        """
        try:
            data = sock.recv(READ_SIZE)
            if not data:
                raise EOFError
            self._ready = self._stream.receive(data)
        except (BlockingIOError, TimeoutError):
            raise
        except BadFilter:
            self._hang_up()
            self._closed = True
            raise
        except RelayUnavailable as error:
            self._fail(error)
        except (OSError, EOFError):
            self._fail(RelayUnavailable(self.path, "it has ended the connection"))
        except BaseException:
            # Thrown in from outside, perhaps after something was read and before it was kept:
            # only a new connection surely stands at the start of a record.
            self._hang_up()
            raise

    def _fail(self, error: RelayUnavailable) -> None:
        self._hang_up()
        if self._closed:
            return
        if not self._reconnect:
            self._closed = True
            raise error
        self._postpone()

    def _postpone(self) -> None:
        now = time.monotonic()
        # A connection that held for a good while was a good one.
        held = now - self._failed_at > 2 * LAST_PAUSE
        self._pause = FIRST_PAUSE if held else min(2 * self._pause, LAST_PAUSE)
        self._failed_at = now
        self._due = now + random.uniform(0, self._pause)  # noqa: S311 (no secret)

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._stream.end()

    def _discard(self) -> None:
        """Leave nothing to be read, and no socket open."""
        self._ready = iter(())
        self._hang_up()


def _connected(path: str, request: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        # A relay that is full has perhaps hung up by now; what it said is still to be read.
        with contextlib.suppress(BrokenPipeError):
            if sock.send(request, NO_SIGNAL) < len(request):
                raise BlockingIOError(errno.EAGAIN, "it does not take the request")
    except PermissionError:
        sock.close()
        raise PermissionDenied(path, _group(path), _user()) from None
    except OSError as error:
        sock.close()
        raise RelayUnavailable(path, _reason(error)) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "there is no such socket; is notif-relayd installed and running?"
        case errno.ECONNREFUSED:
            return "nobody listens there; is notif-relayd running?"
        case errno.EAGAIN:
            return "too many others wait to be let in"
    return error.strerror or str(error)


def _group(path: str) -> str:
    """The group that may connect; where the directory is closed, the one that may enter it."""
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
