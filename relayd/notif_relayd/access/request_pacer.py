# SPDX-License-Identifier: Apache-2.0
"""When a subscriber's request is handled: request work is bounded per user and per iteration.

To read a request and to put its filter in force takes as long as many records do, and the request
comes from a peer that may be hostile. So one request at most is handled every `INTERVAL` seconds,
and each user has a share of the loop's time, however many connections it has. A subscriber whose
request has to wait is not read meanwhile; users with waiting requests are served in turn.
"""

import time
from collections.abc import Callable

from notif_relayd.access.token_bucket import TokenBuckets

INTERVAL = 0.002
"""Minimum interval, in seconds, between two requests.

Fewer than one record in a hundred then has to wait for a request on a relay that is busy.
"""

SHARE = 0.01
"""Share of the loop's processor time that the requests of one user may take."""

BURST = 0.05
"""Seconds of processor time that the requests of one user may take at once.

At `MIN_COST` each these are 500 requests, which is enough for the subscribers that most users have
to connect again after the relay was restarted without systemd.
"""

MIN_COST = 0.0001
"""Seconds of processor time charged for a request at least: what a usual one takes, with the
system calls around it."""

CallIn = Callable[[float, Callable[[], None]], None]


class RequestPacer:
    """Calls `serve` for subscribers, as often as their users' shares allow.

    Args:
        call_in: calls a function after a delay in seconds, in the event loop.
        serve: called with a subscriber's number; reads and handles one request at most.
        share: of the loop's processor time, for the requests of one user.
        burst: seconds of it that the requests of one user may take at once.
    """

    def __init__(
        self,
        call_in: CallIn,
        serve: Callable[[int], None],
        share: float = SHARE,
        burst: float = BURST,
    ) -> None:
        self._call_in = call_in
        self._serve = serve
        self._share = share
        self._burst = burst
        self._buckets = TokenBuckets(time.monotonic)
        self._waiting: dict[int, dict[int, None]] = {}
        """Numbers of the subscribers that wait, by user; both in the order in which they came."""
        self._free_at = 0.0
        """When the next request may be handled."""
        self._due: float | None = None
        """When `_next` is called next, if it is."""

    def enter(self, uid: int, number: int) -> bool:
        """Serve a subscriber now if possible, and otherwise later; return whether it has to wait.

        Args:
            uid: the user that is charged.
            number: the subscriber's number.
        """
        now = time.monotonic()
        ready_at = self._ready_at(uid, now)
        if uid not in self._waiting and ready_at <= now:
            self._run(uid, number, now)
            return False
        self._waiting.setdefault(uid, {})[number] = None
        self._schedule(ready_at, now)
        return True

    def leave(self, uid: int, number: int) -> None:
        """Forget a subscriber that may be waiting."""
        waiting = self._waiting.get(uid)
        if waiting is not None:
            waiting.pop(number, None)
            if not waiting:
                del self._waiting[uid]

    def _next(self) -> None:
        """Serve the next user that has tokens."""
        now = time.monotonic()
        self._due = None
        for uid in list(self._waiting):
            if self._ready_at(uid, now) <= now:
                waiting = self._waiting.pop(uid)
                number = next(iter(waiting))
                del waiting[number]
                if waiting:
                    self._waiting[uid] = waiting  # at the end: other users are next
                self._run(uid, number, now)
                break
        if self._waiting:
            self._schedule(min(self._ready_at(uid, now) for uid in self._waiting), now)

    def _run(self, uid: int, number: int, now: float) -> None:
        self._free_at = now + INTERVAL
        # Processor time, so that the user does not pay for what other processes take.
        before = time.thread_time()
        self._serve(number)
        self._buckets.take(uid, max(MIN_COST, time.thread_time() - before))

    def _ready_at(self, uid: int, now: float) -> float:
        """Return when the next request of a user may be handled; in the past if it may be now."""
        available = self._buckets.available(uid, self._share, self._burst)
        return max(self._free_at, now - available / self._share)

    def _schedule(self, moment: float, now: float) -> None:
        """Call `_next` at that moment, unless it is called before anyway."""
        if self._due is None or moment < self._due:
            self._due = moment
            self._call_in(max(0.0, moment - now), self._next)
