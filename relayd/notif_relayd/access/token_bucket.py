# SPDX-License-Identifier: Apache-2.0
"""Token buckets by user, for rates that a user may exceed for a short time."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class TokenBuckets:
    """One bucket for each user that has taken tokens recently.

    Memory is bounded by the rate at which users appear: a bucket that is full again is removed when
    the next new user appears.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[int, _Bucket] = {}

    def __len__(self) -> int:
        """Return the number of buckets."""
        return len(self._buckets)

    def available(self, uid: int, rate: float, size: float) -> float:
        """Return the number of tokens in a user's bucket; negative if the user owes some.

        Args:
            uid: the user.
            rate: tokens added per second.
            size: tokens in a full bucket.
        """
        now = self._clock()
        bucket = self._buckets.get(uid)
        if bucket is None:
            self._remove_full(now, rate, size)
            bucket = self._buckets[uid] = _Bucket(size, now)
        bucket.tokens = min(size, bucket.tokens + (now - bucket.filled_at) * rate)
        bucket.filled_at = now
        return bucket.tokens

    def take(self, uid: int, amount: float) -> None:
        """Take tokens from the bucket of a user for whom `available` has been called."""
        self._buckets[uid].tokens -= amount

    def _remove_full(self, now: float, rate: float, size: float) -> None:
        for uid, bucket in list(self._buckets.items()):
            if bucket.tokens + (now - bucket.filled_at) * rate >= size:
                del self._buckets[uid]
