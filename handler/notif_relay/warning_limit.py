# SPDX-License-Identifier: Apache-2.0
"""Limits the warnings about dropped records, of which a service could cause thousands in a second.

Each warning states how many records were dropped so far, so suppressed ones are not lost. Warnings
about refused connections have the same limit.
"""

import math
import time
from collections.abc import Callable

INTERVAL = 60.0
"""Seconds for which a limit counts warnings."""

MAX_WARNINGS = 30
"""Maximum number of warnings in an interval; further ones are suppressed until it has ended."""


class WarningLimit:
    """The limit of one handler or producer.

    Args:
        clock: returns the current time in seconds.
    """

    __slots__ = ("_clock", "_count", "_started_at")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = -math.inf
        self._count = 0

    def allows(self) -> bool:
        """Count a warning; return whether it may be logged."""
        now = self._clock()
        if now - self._started_at >= INTERVAL:
            self._started_at, self._count = now, 0
        self._count += 1
        return self._count <= MAX_WARNINGS
