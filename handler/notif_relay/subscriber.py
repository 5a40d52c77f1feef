# SPDX-License-Identifier: Apache-2.0
"""The subscriber for threads: blocking reads that ``close`` can interrupt.

``close`` may be called from another thread or from a signal handler while a thread waits for the
socket or for the next attempt to connect. It must not wait for a lock that this thread holds.
Therefore it shuts down the connection, which ends a read, and releases the lock ``_closing``,
which ends a pause. The descriptor must not be closed during a read, so the thread that reads
closes it after releasing ``_reading``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from functools import partial
from types import TracebackType

from notif_relay.group import checked_membership
from notif_relay.notification import Notification
from notif_relay.paths import DEFAULT_PUBLIC_PATH
from notif_relay.request import Patterns, Payload, filter_request
from notif_relay.stream import OnGap
from notif_relay.subscription import Subscription

MAX_WAIT = 86_400.0
"""Maximum time in seconds of one read; sockets of Python cannot wait for more than 24 days."""


class _Previous(threading.local):
    """The notification that this thread got last."""

    notification: Notification | None = None


class Subscriber(Subscription):
    """An iterator over notifications: ``for notification in subscribe(): ...``.

    If the relay is running, the subscriber gets every notification that is emitted after the
    constructor returns. If it is not, the first iteration waits for it, unless ``reconnect`` is
    off.

    When the connection is lost, the subscriber connects again with the same request. A ``Gap`` of
    unknown size then precedes the notifications of the new connection. Gaps are part of the
    stream unless ``on_gap`` is given.

    Several threads may share a subscriber; each notification goes to one of them. A child process
    cannot use the subscriber of its parent: reading raises ``WrongProcess``.

    With ``group``, the subscriber shares the notifications with the other members of the group,
    which are subscribers of the same user; each notification goes to one of them. With ``window``,
    a notification is unfinished until the member reports that it has handled it. If the member
    ends or loses its connection before, the relay sends the notification to another member, or to
    this one when it is connected again, as a ``Redelivered``. A ``Gap`` that is not finished is
    sent again as a ``Gap``. Its number is greater if more notifications are missing by then.

    By default, a notification is finished when its thread asks for the next one. So a plain loop is
    correct: it leaves unfinished what it was handling when it ended. For the last notification
    before ``break``, or before a thread stops reading, call ``notification.done()``. A program that
    handles notifications elsewhere, in batches or other threads, sets ``auto_done`` to False and
    calls ``notification.done()`` for each of them, in any order. This is not the default, because a
    loop without that call would stop after ``window`` notifications. The relay is told the number
    of the notifications that are all finished, so one that takes long delays the report of later
    ones. A close reports what is finished, and nothing else.

    If a group has kept its place while the subscriber was not connected, the next connection
    continues without a gap.

    While the relay is not available, the logger ``notif_relay.subscription`` logs once that the
    subscriber waits for it, and then that it is connected again.

    Args:
        path: path of the relay's public socket.
        event_type: one pattern or several, of which one has to match; None matches everything.
            Patterns are shell globs: at most 64 for each key, at most 256 characters each. The
            patterns with ``?`` or ``[`` of all keys have at most 128 characters together.
        priority: likewise; compared without regard to case. Each pattern has to match one of
            ``notif_relay.priorities.PRIORITIES``.
        publisher_id: likewise.
        payload: a pattern for the payload, as in ``{"host": ["cmp-1", {"glob": "gpu-*"}]}``; None
            matches everything. Keys are paths, whose parts are nested or joined with dots; all of
            them have to match. A list has alternatives, of which one has to match. The module
            ``notif_relay.payload_pattern`` lists the alternatives and limits.
        timeout: maximum time in seconds to wait for the next notification; None: no limit.
        reconnect: whether to keep connecting when the relay is not available.
        on_gap: called with each gap at its position in the stream. With ``window``, the gap is
            finished when the call returns.
        group: name of a group, 1 to 64 characters of ``A-Z``, ``a-z``, ``0-9`` and ``._:/-``; None:
            the subscriber gets all notifications. Members may have different patterns.
        window: with ``group``, maximum number of unfinished notifications, from 1 to 65536; None: a
            notification is finished when the socket of the subscriber has taken it.
        hold: with ``group``, time in seconds for which the group keeps its place after its last
            member has left, at most the relay's option ``max_hold``; None: 0.
        auto_done: whether to finish a notification when its thread asks for the next one; False
            requires ``window``.

    Raises:
        BadFilter: a pattern is invalid or cannot match, the request exceeds a limit, or the relay
            refused it.
        PermissionDenied: the process is not allowed to connect; the message names the remedy.
        RelayUnavailable: the relay is not available, and ``reconnect`` is off.
        SubscriptionRefused: the relay does not admit the user, or one of its limits was reached
            before the subscriber was connected for the first time.
        TimeoutError: the relay did not answer within ``timeout``.
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_PUBLIC_PATH,
        *,
        event_type: Patterns = None,
        priority: Patterns = None,
        publisher_id: Patterns = None,
        payload: Payload = None,
        timeout: float | None = None,
        reconnect: bool = True,
        on_gap: OnGap | None = None,
        group: str | None = None,
        window: int | None = None,
        hold: float | None = None,
        auto_done: bool = True,
    ) -> None:
        membership = checked_membership(group, window, hold, auto_done)
        request = filter_request(event_type, priority, publisher_id, membership, payload)
        super().__init__(path, request, membership, timeout, reconnect, on_gap)
        self._previous = _Previous() if window is not None and auto_done else None
        """The notification that each thread got last, if asking for the next one finishes it."""
        if self._previous is not None:
            # Until ``on_gap`` returns. If it raises an exception, the next call finishes the gap.
            self._stream.note_gap = partial(setattr, self._previous, "notification")
        self._reading = threading.Lock()
        """Held by the thread that reads and connects."""
        self._closing = threading.Lock()
        """Locked until the subscriber is closed; a thread that pauses waits for it."""
        self._closing.acquire()
        deadline = self._deadline()
        try:
            self._connect()
            while self._socket is not None and not self._stream.flowing:
                self._read_until(deadline, self._socket)
        except BaseException:
            self._release()
            raise

    def __iter__(self) -> Subscriber:
        return self

    def __next__(self) -> Notification:
        """Return the next notification.

        Raises:
            TimeoutError: no notification arrived within ``timeout``; the call can be repeated.
            WrongProcess: another process created the subscriber and forked this one.
            RelayError: for the same reasons as in the constructor.
        """
        if not self._fork_mark[0]:
            self._check_process()
        if self._previous is not None:
            return self._next_after(self._previous)
        for notification in self._ready:
            return notification
        return self._wait()

    def _next_after(self, previous: _Previous) -> Notification:
        """Finish the previous notification of this thread and return the next one."""
        if previous.notification is not None:
            previous.notification.done()
            previous.notification = None
        notification = next(self._ready, None) or self._wait()
        previous.notification = notification
        return notification

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
        """Disconnect and end the iteration, in any thread; signal handlers may call it too.

        A child process closes only its copy of the socket; its parent continues to read.
        """
        self._closed = True
        if self._in_child():
            self._release()  # without the locks, which threads of the parent may have held
            return
        with contextlib.suppress(RuntimeError):  # already released
            self._closing.release()
        self._report_finished()
        sock = self._socket
        if sock is not None and self._owns_descriptor(sock):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._release_if_closed()

    def _wait(self) -> Notification:
        deadline = self._deadline()
        try:
            with self._reading:
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
            self._release_if_closed()

    def _connect_until(self, deadline: float | None) -> None:
        until = self._connect_at if deadline is None else min(self._connect_at, deadline)
        if self._closing.acquire(timeout=max(0, until - time.monotonic())):
            self._closing.release()
        elif until == deadline:
            raise self._timeout_error()
        else:
            self._connect()

    def _read_until(self, deadline: float | None, sock: socket.socket) -> None:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise self._timeout_error()
        sock.settimeout(None if remaining is None else min(remaining, MAX_WAIT))
        progress = self._stream.progress
        if progress is not None:
            progress.start_waiting()
        try:
            self._read(sock)
        except TimeoutError:
            if remaining is None or remaining <= MAX_WAIT:
                raise self._timeout_error() from None
        finally:
            if progress is not None:
                progress.stop_waiting()

    def _release_if_closed(self) -> None:
        # The thread that holds the lock calls this after it releases the lock, so either that
        # thread or close() acquires it.
        if self._closed and self._reading.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._reading.release()


subscribe = Subscriber
"""Alias that reads well in a loop: ``for notification in subscribe(): ...``."""
