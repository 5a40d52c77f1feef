# SPDX-License-Identifier: Apache-2.0
"""Reading notifications in a thread: waiting for the relay, and being interrupted in that.

``close`` may be called from another thread or from a signal handler, while a thread waits for the
socket or for the time to connect again. So it takes no lock that somebody else may hold: it shuts
the connection down, which ends a read, and opens a gate, which ends a pause. Whoever holds the
lock then closes the descriptor, which must not happen under a read in progress. All else is in
``subscription.py``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from types import TracebackType

from notif_relay.notification import Notification
from notif_relay.paths import DEFAULT_PUBLIC_PATH
from notif_relay.request import Patterns
from notif_relay.stream import OnGap
from notif_relay.subscription import Subscription


class Subscriber(Subscription):
    """Notifications from the relay: ``for notification in subscribe(): ...``.

    If the relay is there, all that is emitted once the subscriber is made is read. If it is not,
    it is waited for with the first notification, unless ``reconnect`` is off.

    When the connection is lost, it is made again with the same filter, and a ``Gap`` of unknown
    size comes before what the new connection brings. A gap is a notification too; gaps come in
    the stream, unless ``on_gap`` takes them.

    Threads may share a subscriber: each notification goes to one of them.

    Args:
        path: the relay's public socket.
        event_type: pattern or patterns, shell globs, of which one has to match. At most 64, of
            at most 256 characters each; those of all three with ``?`` or ``[`` have at most 128
            together. None: all.
        priority: likewise; upper and lower case are the same.
        publisher_id: likewise.
        timeout: seconds to wait for the next notification. None: for ever.
        reconnect: whether to connect again, and again, when there is no relay.
        on_gap: is called with each gap, at its place in the stream.

    Raises:
        BadFilter: the filter is over a limit, or the relay cannot use it.
        PermissionDenied: the process may not read; the message says how it may.
        RelayUnavailable: there is no relay, and ``reconnect`` is off.
        TimeoutError: there is a relay, but it did not answer in time.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_PUBLIC_PATH,
        *,
        event_type: Patterns = None,
        priority: Patterns = None,
        publisher_id: Patterns = None,
        timeout: float | None = None,
        reconnect: bool = True,
        on_gap: OnGap | None = None,
    ) -> None:
        super().__init__(path, event_type, priority, publisher_id, timeout, reconnect, on_gap)
        self._waiting = threading.Lock()
        """Held by whoever reads and connects."""
        self._gate = threading.Lock()
        """Shut until the subscriber is closed."""
        self._gate.acquire()
        deadline = self._deadline()
        try:
            self._connect()
            while self._socket is not None and not self._stream.flowing:
                self._read_until(deadline, self._socket)
        except BaseException:
            self._discard()
            raise

    def __iter__(self) -> Subscriber:
        return self

    def __next__(self) -> Notification:
        """The next notification.

        Raises:
            TimeoutError: nothing came for ``timeout`` seconds; it may be called again.
            RelayError: as in the beginning.
        """
        for notification in self._ready:
            return notification
        return self._wait()

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect, and end the iteration, in whatever thread it waits."""
        self._closed = True
        with contextlib.suppress(RuntimeError):  # it is open already
            self._gate.release()
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._discard_if_closed()

    def _wait(self) -> Notification:
        deadline = self._deadline()
        try:
            with self._waiting:
                while not self._closed:
                    # Another thread may have read while this one waited for the lock.
                    for notification in self._ready:
                        return notification
                    if self._socket is None:
                        self._connect_until(deadline)
                    else:
                        self._read_until(deadline, self._socket)
                raise StopIteration
        finally:
            self._discard_if_closed()

    def _connect_until(self, deadline: float | None) -> None:
        until = self._due if deadline is None else min(self._due, deadline)
        if self._gate.acquire(timeout=max(0, until - time.monotonic())):
            self._gate.release()
        elif until == deadline:
            raise self._overdue()
        else:
            self._connect()

    def _read_until(self, deadline: float | None, sock: socket.socket) -> None:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise self._overdue()
        sock.settimeout(left)
        try:
            self._read(sock)
        except TimeoutError:
            raise self._overdue() from None

    def _discard_if_closed(self) -> None:
        # Whoever holds the lock comes here after giving it back, so one of both succeeds.
        if self._closed and self._waiting.acquire(blocking=False):
            try:
                self._discard()
            finally:
                self._waiting.release()


subscribe = Subscriber
"""What reads well where it is called: ``for notification in subscribe(): ...``."""
