# SPDX-License-Identifier: Apache-2.0
"""epoll and deadlines: who is called when something happens, and nothing else.

There is no polling: without a deadline the loop sleeps until a descriptor is ready. asyncio would
do the same work, but a transport and a callback for every chunk and subscriber cost more than
the send itself.
"""

import errno
import heapq
import itertools
import select
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR
"""Reported whether asked for or not: the peer is gone in both directions."""

NOT_NOW = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM})
"""Errors of a socket that are not about its connection: the next event brings it back."""

Callback = Callable[[int], object]


class Loop:
    """Calls whoever waits for a descriptor or for a moment."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._forgotten: set[int] = set()
        """In this turn: what epoll has reported for their numbers is not for their successors."""
        self._deadlines: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call `callback` with what happened whenever one of `events` is there for `fd`.

        Raises:
            OSError: the kernel has no room for one more.
        """
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def change(self, fd: int, events: int) -> None:
        """Wait for other events from now on."""
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Call nobody any more; to be done before the descriptor is closed."""
        del self._callbacks[fd]
        self._forgotten.add(fd)
        self._epoll.unregister(fd)

    def call_in(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now."""
        heapq.heappush(self._deadlines, (time.monotonic() + seconds, next(self._order), callback))

    def turn(self) -> float:
        """Sleep until something happens and tell those concerned.

        Returns:
            When the sleep was over, by the monotonic clock.
        """
        self._forgotten.clear()
        happened = self._epoll.poll(self._time_left())
        awake = time.monotonic()
        for fd, events in happened:
            # One callback may close the descriptor that the next event is about, and the number
            # may be another connection's by then.
            if fd not in self._forgotten:
                self._callbacks[fd](events)
        while self._deadlines and self._deadlines[0][0] <= time.monotonic():
            heapq.heappop(self._deadlines)[2]()
        return awake

    def close(self) -> None:
        """Give the descriptor of the loop itself back."""
        self._epoll.close()

    def _time_left(self) -> float | None:
        if not self._deadlines:
            return None
        return max(0.0, self._deadlines[0][0] - time.monotonic())
