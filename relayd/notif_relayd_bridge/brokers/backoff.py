# SPDX-License-Identifier: Apache-2.0
"""The pause between two attempts to connect to a broker.

Many hosts lose a broker at the same time, so the pause is random: exponential backoff with full
jitter, as in the library's subscription.
"""

from __future__ import annotations

import random
from collections.abc import Callable

MIN_BACKOFF = 0.1
"""Upper limit of the first pause, in seconds."""

MAX_BACKOFF = 30.0
"""Upper limit of every pause, in seconds: how late a bridge may notice that the broker is back."""


class Backoff:
    """Returns random pauses whose upper limit doubles with each.

    Args:
        choose: returns a number between two others.
    """

    def __init__(self, choose: Callable[[float, float], float] = random.uniform) -> None:
        self._choose = choose
        self._limit = MIN_BACKOFF

    def pause(self) -> float:
        """Return how long to wait before the next attempt, in seconds."""
        limit = self._limit
        self._limit = min(2 * limit, MAX_BACKOFF)
        return self._choose(0, limit)

    def reset(self) -> None:
        """Begin again with a short pause.

        Call this when the broker has confirmed a message: a broker that accepts connections but
        no messages is attempted less and less often.
        """
        self._limit = MIN_BACKOFF
