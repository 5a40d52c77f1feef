# SPDX-License-Identifier: Apache-2.0
"""Reading notifications with asyncio: the same as ``subscriber.py``, but for the waiting.

A task may be cancelled wherever it awaits something, so nothing may be in its hands then: it is
only ever awaited that the socket can be read, and reading and keeping what was read is one step.
(``loop.sock_recv`` will not do: a task that is cancelled after the data was read, and before it
has run again, loses them.) An asyncio stream would read ahead without a limit of its own, and the
relay would not see that its subscriber is slow.
"""

from __future__ import annotations

import asyncio
import os
import time
from types import TracebackType

from notif_relay.notification import Notification
from notif_relay.paths import DEFAULT_PUBLIC_PATH
from notif_relay.request import Patterns
from notif_relay.stream import OnGap
from notif_relay.subscription import Subscription


class Subscriber(Subscription):
    """Notifications from the relay: ``async for notification in subscribe(): ...``.

    It connects when entered (``async with``), or else with the first notification. From then on
    all is as with ``notif_relay.subscribe``, which says what the arguments are and what is
    raised. One task at a time may wait for a notification; when it is cancelled, nothing is lost
    to the next one.
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
        self._begun = False
        self._waiter: asyncio.Future[bool] | None = None

    def __aiter__(self) -> Subscriber:
        return self

    async def __anext__(self) -> Notification:
        """The next notification.

        Raises:
            TimeoutError: nothing came for ``timeout`` seconds; it may be called again.
            RelayError: as with ``notif_relay.subscribe``.
        """
        for notification in self._ready:
            return notification
        deadline = self._deadline()
        await self._begin(deadline)
        while not self._closed:
            for notification in self._ready:
                return notification
            if self._socket is None:
                await self._connect_until(deadline)
            else:
                await asyncio.sleep(0)  # others get their turn, however much there is to read
                await self._read_until(deadline)
        raise StopAsyncIteration

    async def __aenter__(self) -> Subscriber:
        try:
            await self._begin(self._deadline())
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
        """Disconnect, and end the iteration; to be called in the event loop's thread."""
        self._closed = True
        if self._waiter is None:
            self._discard()
        else:
            # Who waits discards: the event loop still watches the socket.
            _resolve(self._waiter, True)

    async def _begin(self, deadline: float | None) -> None:
        """Connect for the first time, and wait for the filter to be in force."""
        if not self._begun:
            self._connect()
            self._begun = True
        while not self._closed and self._socket is not None and not self._stream.flowing:
            await self._read_until(deadline)

    async def _connect_until(self, deadline: float | None) -> None:
        until = self._due if deadline is None else min(self._due, deadline)
        await self._wait(until)
        if self._closed:
            return
        if until == deadline:
            raise self._overdue()
        self._connect()

    async def _read_until(self, deadline: float | None) -> None:
        """Read what is there, once something is."""
        try:
            if self._socket is not None:
                self._read(self._socket)
        except BlockingIOError:
            if not await self._wait(deadline):
                raise self._overdue() from None

    async def _wait(self, until: float | None) -> bool:
        """Wait until the socket, if there is one, can be read or the subscriber is closed.

        Returns whether that was so before the moment ``until``, by the monotonic clock.
        """
        if self._waiter is not None:
            raise RuntimeError("another task waits for this subscriber's next notification")
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
            if sock is not None:
                loop.remove_reader(sock)
            if timer is not None:
                timer.cancel()
            if self._closed:
                self._discard()


def _resolve(waiter: asyncio.Future[bool], answer: bool) -> None:
    if not waiter.done():
        waiter.set_result(answer)


subscribe = Subscriber
"""What reads well where it is called: ``async for notification in subscribe(): ...``."""
