# SPDX-License-Identifier: Apache-2.0
"""epoll and deadlines: who is called when something happens, and nothing else.

There is no polling: without a deadline the loop sleeps until a descriptor is ready. asyncio would
do the same work, but a transport and a callback for every chunk and subscriber cost more than
the send itself.

A turn serves everybody who is ready once. Where many of one kind are, that is too seldom for the
few of another who wait for what they bring. So there is a second epoll for those, itself watched
by the first, which can be asked within a turn as well: who is in it can be served out of turn.
"""

import errno
import heapq
import itertools
import select
import time
from collections.abc import Callable, Iterable
from typing import Protocol

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
NOTHING = select.EPOLLONESHOT
"""To wait for nothing, until that is changed again: of a hang-up it is told once."""

HANGUP = select.EPOLLHUP | select.EPOLLERR
"""Reported whether asked for or not: the peer is gone in both directions."""

NOT_NOW = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM})
"""Errors of a socket that are not about its connection: the next event brings it back."""

FOR_EVER = -1.0

Callback = Callable[[int], object]

Events = list[tuple[int, int]]
"""Descriptors, and what has happened to each."""


class Waiter(Protocol):
    """Waits for events in place of the loop's own call of epoll."""

    def wait(self, epoll: int, seconds: float) -> tuple[float, Events]:
        """Wait until an event happens or the time is over.

        Args:
            epoll: the descriptor of an epoll.
            seconds: the timeout; below 0 to wait without one.

        Returns:
            When the wait ended, by the monotonic clock, and the events that callbacks have yet to
            handle. The waiter may have handled others.
        """


class Loop:
    """Calls whoever waits for a descriptor or for a moment.

    Args:
        waiter: waits for events; by default `select.epoll.poll` does.
    """

    def __init__(self, waiter: Waiter | None = None) -> None:
        self._epoll = select.epoll()
        self._urgent = select.epoll()
        """Of those who are served out of turn."""
        self._epolls: dict[int, select.epoll] = {}
        """By the descriptors that they watch."""
        self._callbacks: dict[int, Callback] = {}
        self._wait = self._poll if waiter is None else waiter.wait
        self.changed = False
        """Whether a descriptor has come or gone since somebody has set this to `False`."""
        self._forgotten: set[int] = set()
        """In this turn: what epoll has reported for their numbers is not for their successors."""
        self._deadlines: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.watch(self._urgent.fileno(), READ, self.serve_urgent)

    def watch(self, fd: int, events: int, callback: Callback, *, urgent: bool = False) -> None:
        """Call `callback` with what happened whenever one of `events` is there for `fd`.

        Args:
            fd: the descriptor.
            events: what to wait for.
            callback: whom to call.
            urgent: whether `serve_urgent` calls it, too.

        Raises:
            OSError: the kernel has no room for one more.
        """
        epoll = self._urgent if urgent else self._epoll
        epoll.register(fd, events)
        self._epolls[fd] = epoll
        self._callbacks[fd] = callback
        self.changed = True

    def change(self, fd: int, events: int) -> None:
        """Wait for other events from now on."""
        self._epolls[fd].modify(fd, events)

    def forget(self, fd: int) -> None:
        """Call nobody any more; to be done before the descriptor is closed."""
        del self._callbacks[fd]
        self._forgotten.add(fd)
        self._epolls.pop(fd).unregister(fd)
        self.changed = True

    def call_in(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now."""
        heapq.heappush(self._deadlines, (time.monotonic() + seconds, next(self._order), callback))

    def run_once(self) -> float:
        """Sleep until something happens and tell those concerned.

        Returns:
            When the sleep was over, by the monotonic clock.
        """
        self._forgotten.clear()
        time_left = self._time_left() if self._deadlines else FOR_EVER
        awake, happened = self._wait(self._epoll.fileno(), time_left)
        self._call(happened)
        while self._deadlines and self._deadlines[0][0] <= time.monotonic():
            heapq.heappop(self._deadlines)[2]()
        return awake

    def serve_urgent(self, _events: int = READ) -> None:
        """Tell those who asked for it what has happened by now; to be called within a turn."""
        self._call(self._urgent.poll(0))

    def close(self) -> None:
        """Give the descriptors of the loop itself back."""
        self._urgent.close()
        self._epoll.close()

    def _poll(self, _epoll: int, seconds: float) -> tuple[float, Events]:
        happened = self._epoll.poll(seconds)
        return time.monotonic(), happened

    def _call(self, happened: Iterable[tuple[int, int]]) -> None:
        for fd, events in happened:
            # One callback may close the descriptor that the next event is about, and the number
            # may be another connection's by then.
            if fd not in self._forgotten:
                self._callbacks[fd](events)

    def _time_left(self) -> float:
        return max(0.0, self._deadlines[0][0] - time.monotonic())
