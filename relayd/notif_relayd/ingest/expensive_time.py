# SPDX-License-Identifier: Apache-2.0
"""Limits the processor time that the records of one user can make the relay spend.

Only three kinds of work count: to match new values with patterns, to decode records as a whole, and
to match payloads with patterns if that takes longer than usual. Other work for a record takes
microseconds.
"""

from collections.abc import Callable

from notif_relayd.access.token_bucket import TokenBuckets

MIN_EXPENSIVE_TIME = 0.001
"""Seconds of processor time from which on a batch is expensive."""

EXPENSIVE_SHARE = 0.05
"""Share of the loop's processor time that expensive batches of one user may take."""

EXPENSIVE_BURST = 0.05
"""Seconds of processor time that expensive batches of one user may take at once."""


class ExpensiveTime:
    """The processor time that expensive batches of each user have taken.

    Args:
        monotonic: the monotonic clock.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.users: set[int] = set()
        """Users that have used a part of `EXPENSIVE_BURST`."""
        self._buckets = TokenBuckets(monotonic)

    def charge(self, uid: int, seconds: float) -> None:
        """Charge the processor time of an expensive batch to a user."""
        self._buckets.available(uid, EXPENSIVE_SHARE, EXPENSIVE_BURST)
        self._buckets.take(uid, seconds)
        self.users.add(uid)

    def pause(self, uid: int) -> float:
        """Return the seconds for which the producers of a user must not be read; mostly 0."""
        if uid in self.users:
            available = self._buckets.available(uid, EXPENSIVE_SHARE, EXPENSIVE_BURST)
            if available < 0:
                return -available / EXPENSIVE_SHARE
            if available >= EXPENSIVE_BURST:
                self.users.remove(uid)
        return 0.0
