# SPDX-License-Identifier: Apache-2.0
"""The subscriber for asyncio; it differs from ``subscriber.py`` only in how it waits.

A task may be cancelled at any ``await``, which must not lose data. Therefore only the readiness
of the socket is awaited; reading and storing the data is one step without ``await``.
``loop.sock_recv`` is not suitable: if a task is cancelled after the data was read and before the
task runs, the data is lost. An asyncio stream would read ahead without this subscriber's limit,
and the relay could not detect a slow subscriber.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import MutableMapping
from functools import partial
from types import TracebackType

from notif_relay.group import checked_membership
from notif_relay.notification import Notification
from notif_relay.paths import DEFAULT_PUBLIC_PATH
from notif_relay.request import Patterns, Payload, filter_request
from notif_relay.stream import OnGap
from notif_relay.subscription import Subscription


class Subscriber(Subscription):
    """An asynchronous iterator: ``async for notification in subscribe(): ...``.

    The subscriber connects when it is entered (``async with``), or else at the first
    notification. Arguments, exceptions and behaviour are those of ``notif_relay.subscribe``. Only
    one task at a time may wait for a notification. If that task is cancelled, no notification is
    lost. With ``window``, a notification is finished by default when its task asks for the next
    one.

    Args:
        path: as for ``notif_relay.subscribe``, like all other arguments.
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
        self._finishes_previous = window is not None and auto_done
        self._previous: weakref.WeakKeyDictionary[asyncio.Task[object], Notification] = (
            weakref.WeakKeyDictionary()
        )
        """The notification that each task got last, if asking for the next one finishes it."""
        if self._finishes_previous:
            # Until ``on_gap`` returns. If it raises an exception, the next call finishes the gap.
            self._stream.note_gap = partial(_note, self._previous)
        self._started = False
        self._waiter: asyncio.Future[bool] | None = None

    def __aiter__(self) -> Subscriber:
        return self

    async def __anext__(self) -> Notification:
        """Return the next notification.

        Raises:
            TimeoutError: no notification arrived within ``timeout``; the call can be repeated.
            RelayError: for the same reasons as ``notif_relay.subscribe``.
            RuntimeError: another task is waiting for the next notification.
        """
        if not self._fork_mark[0]:
            self._check_process()
        if not self._finishes_previous:
            return await self._next()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that awaits a socket runs in a task
        previous = self._previous.pop(task, None)
        if previous is not None:
            previous.done()
        notification = self._previous[task] = await self._next()
        return notification

    async def _next(self) -> Notification:
        for notification in self._ready:
            return notification
        deadline = self._deadline()
        await self._start(deadline)
        while not self._closed:
            for notification in self._ready:
                return notification
            if self._socket is None:
                await self._connect_until(deadline)
            else:
                await asyncio.sleep(0)  # let other tasks run even if data is always available
                await self._read_until(deadline)
        raise StopAsyncIteration

    async def __aenter__(self) -> Subscriber:
        try:
            await self._start(self._deadline())
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect and end the iteration; call this in the thread of the event loop.

        A child process closes only its copy of the socket; its parent continues to read.
        """
        self._closed = True
        self._report_finished()
        if self._waiter is None or self._in_child():
            self._release()
        else:
            # The waiting task releases the socket, because the event loop still watches it.
            _resolve(self._waiter, True)

    async def _start(self, deadline: float | None) -> None:
        """Connect for the first time and wait until the relay has applied the filter."""
        self._check_process()
        if not self._started:
            self._connect()
            self._started = True
        while not self._closed and self._socket is not None and not self._stream.flowing:
            await self._read_until(deadline)

    async def _connect_until(self, deadline: float | None) -> None:
        until = self._connect_at if deadline is None else min(self._connect_at, deadline)
        await self._wait(until)
        if self._closed:
            return
        if until == deadline:
            raise self._timeout_error()
        self._connect()

    async def _read_until(self, deadline: float | None) -> None:
        """Read once; if there is no data, wait until the socket is readable."""
        try:
            if self._socket is not None:
                self._read(self._socket)
        except BlockingIOError:
            progress = self._stream.progress
            if progress is not None:
                progress.start_waiting()
            try:
                if not await self._wait(deadline):
                    raise self._timeout_error() from None
            finally:
                if progress is not None:
                    progress.stop_waiting()

    async def _wait(self, until: float | None) -> bool:
        """Wait until the socket, if any, is readable or the subscriber is closed.

        Args:
            until: time at which to stop waiting, on the monotonic clock; None: no limit.

        Returns:
            False if the time was reached first.
        """
        if self._waiter is not None:
            raise RuntimeError("another task is waiting for this subscriber's next notification")
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiter = waiter
        sock, timer = self._socket, None
        try:
            if sock is not None:
                loop.add_reader(sock, _resolve, waiter, True)
            if until is not None:
                timer = loop.call_later(max(0, until - time.monotonic()), _resolve, waiter, False)
            return await waiter
        finally:
            self._waiter = None
            # A child process shares the epoll object of its parent's event loop, so the parent
            # would not be woken any more.
            if sock is not None and not self._in_child():
                loop.remove_reader(sock)
            if timer is not None:
                timer.cancel()
            if self._closed:
                self._release()


def _note(
    previous: MutableMapping[asyncio.Task[object], Notification], notification: Notification
) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - see ``__anext__``
    previous[task] = notification


def _resolve(waiter: asyncio.Future[bool], result: bool) -> None:
    if not waiter.done():
        waiter.set_result(result)


subscribe = Subscriber
"""Alias that reads well in a loop: ``async for notification in subscribe(): ...``."""
