# SPDX-License-Identifier: Apache-2.0
"""When to attempt again what has failed."""

from __future__ import annotations

from collections.abc import Callable

RETRY_INTERVAL = 5.0
"""Interval, in seconds, between two attempts."""


class Attempts:
    """The attempts at one action, which are not made all the time while it fails.

    Args:
        clock: returns the time in seconds, which does not go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.next_at: float | None = None
        """Time of the next attempt; None if the last one succeeded."""

    @property
    def are_failing(self) -> bool:
        """Whether the last attempt has failed."""
        return self.next_at is not None

    @property
    def is_due(self) -> bool:
        """Whether an attempt can be made now."""
        return self.next_at is None or self._clock() >= self.next_at

    def fail(self) -> bool:
        """Note a failure; return whether it is the first one after a success."""
        is_first = self.next_at is None
        self.next_at = self._clock() + RETRY_INTERVAL
        return is_first

    def succeed(self) -> bool:
        """Note a success; return whether it is the first one after a failure."""
        is_first = self.next_at is not None
        self.next_at = None
        return is_first
