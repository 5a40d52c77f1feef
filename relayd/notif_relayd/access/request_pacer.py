# SPDX-License-Identifier: Apache-2.0
"""Schedules the handling of requests, so that requests do not delay records.

Handling a request takes as long as relaying many records, and the peer may be hostile. At most one
request is handled per `INTERVAL`, and the requests of each user get a limited share of the loop's
time, however many connections the user has. A client whose request has to wait is not read
meanwhile. Users with waiting requests are served in turn.
"""

from collections.abc import Callable
from typing import Protocol

from notif_relayd.access.token_bucket import TokenBuckets

INTERVAL = 0.002
"""Minimum interval between two requests, in seconds.

On a busy relay, fewer than one record in a hundred then waits for a request.
"""

SHARE = 0.01
"""Share of the loop's processor time for the requests of one user."""

BURST = 0.05
"""Processor time, in seconds, that the requests of one user may take without a pause.

This is enough for 500 requests of `MIN_COST`: the subscribers of one user reconnect at once when a
relay without systemd is restarted.
"""

MIN_COST = 0.0001
"""Minimum processor time charged for a request, in seconds: that of a usual request with its system
calls."""


class Clocks(Protocol):
    """The clocks of the system, in seconds."""

    @property
    def monotonic(self) -> Callable[[], float]:
        """Return a clock that advances steadily."""

    @property
    def thread_time(self) -> Callable[[], float]:
        """Return a clock of the processor time of the current thread."""


CallIn = Callable[[float, Callable[[], None]], object]


class RequestPacer:
    """Calls `serve` for each waiting client when the share of its user allows it.

    Args:
        call_in: calls a function after a delay in seconds, in the event loop.
        clocks: return the time and the processor time of the thread, in seconds.
        serve: called with a client's number; reads and handles at most one request. May
            return processor time, in seconds, that the request takes later.
        share: share of the loop's processor time for the requests of one user, above 0 and below 1.
        burst: processor time, in seconds, that the requests of one user may take without a pause.
    """

    def __init__(
        self,
        call_in: CallIn,
        clocks: Clocks,
        serve: Callable[[int], float | None],
        share: float = SHARE,
        burst: float = BURST,
    ) -> None:
        self._call_in = call_in
        self._serve = serve
        self._share = share
        self._burst = burst
        self._monotonic, self._thread_time = clocks.monotonic, clocks.thread_time
        self._buckets = TokenBuckets(self._monotonic)
        self._waiting: dict[int, dict[int, None]] = {}
        """Numbers of the waiting clients, by user, in the order of their arrival."""
        self._free_at = 0.0
        """Earliest time of the next request."""
        self._due: float | None = None
        """Time of the next scheduled call of `_next`, if any."""

    def enter(self, uid: int, number: int) -> bool:
        """Serve a client now if possible, otherwise later; return whether it has to wait.

        Args:
            uid: the user that is charged.
            number: the client's number.
        """
        now = self._monotonic()
        ready_at = self._ready_at(uid, now)
        if uid not in self._waiting and ready_at <= now:
            self._run(uid, number, now)
            return False
        self._waiting.setdefault(uid, {})[number] = None
        self._schedule(ready_at, now)
        return True

    def leave(self, uid: int, number: int) -> None:
        """Remove a client that may be waiting."""
        waiting = self._waiting.get(uid)
        if waiting is not None:
            waiting.pop(number, None)
            if not waiting:
                del self._waiting[uid]

    def _next(self) -> None:
        """Serve one client of the next user that has tokens."""
        now = self._monotonic()
        self._due = None
        for uid in list(self._waiting):
            if self._ready_at(uid, now) <= now:
                waiting = self._waiting.pop(uid)
                number = next(iter(waiting))
                del waiting[number]
                if waiting:
                    self._waiting[uid] = waiting  # at the end, so that other users are next
                self._run(uid, number, now)
                break
        if self._waiting:
            self._schedule(min(self._ready_at(uid, now) for uid in self._waiting), now)

    def _run(self, uid: int, number: int, now: float) -> None:
        self._free_at = now + INTERVAL
        # Processor time instead of elapsed time: other processes are not charged to the user.
        before = self._thread_time()
        later = self._serve(number) or 0.0
        self._buckets.take(uid, max(MIN_COST, self._thread_time() - before + later))

    @property
    def tracked_users(self) -> int:
        """Number of users whose bucket is not full."""
        return len(self._buckets)

    def _ready_at(self, uid: int, now: float) -> float:
        """Return the earliest time of the user's next request, which may be in the past."""
        available = self._buckets.available(uid, self._share, self._burst)
        return max(self._free_at, now - available / self._share)

    def _schedule(self, moment: float, now: float) -> None:
        """Call `_next` at `moment`, unless an earlier call is scheduled."""
        if self._due is None or moment < self._due:
            self._due = moment
            self._call_in(max(0.0, moment - now), self._next)
