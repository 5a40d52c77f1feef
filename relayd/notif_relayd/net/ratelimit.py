# SPDX-License-Identifier: Apache-2.0
"""Keeps a warning from being said more often than anybody wants to read it.

oslo.log's own limit counts all messages together, so that a flood of one kind hides the first of
another. Here each kind has its own, and what was held back is counted in the next line.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

INTERVAL = 10.0
"""Seconds between two lines of one kind."""


@dataclass(slots=True)
class _Kind:
    since: float
    held_back: int = 0


class RateLimitedLog:
    """A logger's warnings, each kind at most once every `INTERVAL` seconds."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = log
        self._clock = clock
        self._kinds: dict[str, _Kind] = {}

    def warning(self, message: str, *args: object) -> None:
        """Log a warning; messages with the same text before formatting are of one kind."""
        now = self._clock()
        kind = self._kinds.get(message)
        if kind is not None and now - kind.since < INTERVAL:
            kind.held_back += 1
            return
        self._kinds[message] = _Kind(now)
        if kind is not None and kind.held_back:
            message += " (and %d more like it in the last %d seconds)"
            args += (kind.held_back, round(now - kind.since))
        self._logger.warning(message, *args)
