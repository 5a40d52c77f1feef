# SPDX-License-Identifier: Apache-2.0
"""The event loop: epoll, deadlines and callbacks.

The loop does not poll: without a deadline it sleeps until an event occurs. asyncio would cost more
than the send itself, because it needs a transport and a callback for each chunk and subscriber.

One iteration serves each ready descriptor once. If many producers are ready, that is too seldom
for the subscribers, which must take their records in between. Subscribers are therefore in a second
epoll, the urgent one. The first epoll watches it, and `Loop.serve_urgent` serves it at any time.
"""

import errno
import heapq
import itertools
import select
from collections.abc import Callable, Iterable
from typing import Protocol

from notif_relayd.net.kernel import SYSTEM, Epoll, Kernel

READ = select.EPOLLIN
WRITE = select.EPOLLOUT

PAUSED = select.EPOLLONESHOT
"""Event mask of a paused descriptor; a hang-up is reported once."""

HANGUP = select.EPOLLHUP | select.EPOLLERR
"""The peer is gone in both directions. Reported even if not requested."""

TRANSIENT_ERRORS = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM})
"""Errors of a socket after which the connection is still usable. The call is repeated at the next
event."""

NO_TIMEOUT = -1.0

Callback = Callable[[int], object]
"""Gets the events of its descriptor."""

Deadline = tuple[float, int, Callable[[], None]]
"""Time by the monotonic clock, a number, and what is called."""

Events = list[tuple[int, int]]
"""Descriptors, each with its events."""


class Waiter(Protocol):
    """Waits for events in place of `select.epoll.poll`."""

    def wait(self, epoll: int, seconds: float) -> tuple[float, Events]:
        """Wait until an event occurs or the timeout expires.

        Args:
            epoll: the descriptor of an epoll.
            seconds: the timeout; below 0 to wait without one.

        Returns:
            The time at which the wait ended, by the monotonic clock, and the events for callbacks.
            The waiter may have handled other events itself.
        """


class Loop:
    """Calls functions when a descriptor has an event or when a deadline is reached.

    Args:
        waiter: waits for events; by default `select.epoll.poll` does.
        kernel: the system calls. Parts of the relay that have the loop use them as well.
    """

    def __init__(self, waiter: Waiter | None = None, kernel: Kernel = SYSTEM) -> None:
        self.kernel = kernel
        self._monotonic = kernel.monotonic
        self._epoll = kernel.epoll()
        self._urgent = kernel.epoll()
        """Watches the descriptors that `serve_urgent` serves."""
        self._epolls: dict[int, Epoll] = {}
        """By descriptor: the epoll that watches it."""
        self._callbacks: dict[int, Callback] = {}
        self._wait = self._poll if waiter is None else waiter.wait
        self.changed = False
        """Set to `True` when a descriptor is added or removed; the reader resets it."""
        self._forgotten: set[int] = set()
        """Descriptors that were removed in this iteration. Events that epoll has reported for them
        must not go to new descriptors with the same numbers."""
        self._deadlines: list[Deadline] = []
        self._order = itertools.count()
        """Keeps deadlines at the same time in their order."""
        self.watch(self._urgent.fileno(), READ, self.serve_urgent)

    def watch(self, fd: int, events: int, callback: Callback, *, urgent: bool = False) -> None:
        """Call `callback` whenever a descriptor has one of these events.

        Args:
            fd: the descriptor.
            events: the event mask.
            callback: called with the events that occurred, which may include `HANGUP`.
            urgent: whether `serve_urgent` calls the callback as well.

        Raises:
            OSError: the kernel cannot watch a further descriptor.
        """
        epoll = self._urgent if urgent else self._epoll
        epoll.register(fd, events)
        self._epolls[fd] = epoll
        self._callbacks[fd] = callback
        self.changed = True

    def change(self, fd: int, events: int) -> None:
        """Replace the event mask of a descriptor."""
        self._epolls[fd].modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor; must be called before the descriptor is closed."""
        del self._callbacks[fd]
        self._forgotten.add(fd)
        self._epolls.pop(fd).unregister(fd)
        self.changed = True

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        """Call `callback` once, after a delay in seconds; return what `cancel` takes."""
        deadline = self._monotonic() + seconds, next(self._order), callback
        heapq.heappush(self._deadlines, deadline)
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Do not make a call that was scheduled and not made yet; O(number of deadlines)."""
        self._deadlines.remove(deadline)
        heapq.heapify(self._deadlines)

    def run_once(self) -> float:
        """Run one iteration: wait for an event or a deadline, then call the callbacks.

        Returns:
            The time at which the wait ended, by the monotonic clock.
        """
        self._forgotten.clear()
        timeout = self._time_left() if self._deadlines else NO_TIMEOUT
        awake, happened = self._wait(self._epoll.fileno(), timeout)
        self._call(happened)
        while self._deadlines and self._deadlines[0][0] <= self._monotonic():
            heapq.heappop(self._deadlines)[2]()
        return awake

    def serve_urgent(self, _events: int = READ) -> None:
        """Call the callbacks of urgent descriptors that have events now.

        This is the only re-entry into the loop. A callback may call it under two conditions:

        - Its own descriptor is not urgent, so that urgent callbacks do not nest.
        - It relies on nothing that an urgent callback may change. Urgent callbacks may forget their
          descriptors and send records that have been published, but they do not publish.

        The events that the outer iteration has yet to handle stay valid: events of descriptors that
        were forgotten meanwhile are skipped.
        """
        self._call(self._urgent.poll(0))

    def close(self) -> None:
        """Close the descriptors of the loop itself."""
        self._urgent.close()
        self._epoll.close()

    def _poll(self, _epoll: int, seconds: float) -> tuple[float, Events]:
        happened = self._epoll.poll(seconds)
        return self._monotonic(), happened

    def _call(self, happened: Iterable[tuple[int, int]]) -> None:
        for fd, events in happened:
            # A callback may have closed this descriptor, and its number may be in use again.
            if fd not in self._forgotten:
                self._callbacks[fd](events)

    def _time_left(self) -> float:
        return max(0.0, self._deadlines[0][0] - self._monotonic())
