# SPDX-License-Identifier: Apache-2.0
"""Rate-limits warnings, per message.

oslo.log has one limit for all messages together, so many repetitions of one message would suppress
the first occurrence of another.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

INTERVAL = 10.0
"""Minimum interval, in seconds, between two log lines with the same message."""


@dataclass(slots=True)
class _Message:
    logged_at: float
    suppressed: int = 0


class RateLimitedLog:
    """Logs each message at most once per `INTERVAL`.

    The next line with the same message states how many were suppressed.

    Args:
        log: the logger.
        clock: returns seconds.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = log
        self._clock = clock
        self._messages: dict[str, _Message] = {}

    def warning(self, message: str, *args: object) -> bool:
        """Log a warning; messages are the same if their text before formatting is.

        Returns:
            Whether it was logged, and not suppressed.
        """
        now = self._clock()
        last = self._messages.get(message)
        if last is not None and now - last.logged_at < INTERVAL:
            last.suppressed += 1
            return False
        self._messages[message] = _Message(now)
        if last is not None and last.suppressed:
            message += " (and %d more like it in the last %d seconds)"
            args += (last.suppressed, round(now - last.logged_at))
        self._logger.warning(message, *args)
        return True
