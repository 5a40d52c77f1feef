# SPDX-License-Identifier: Apache-2.0
"""Rate-limits warnings, per message and subject, such as a process.

oslo.log has one limit for all messages together, so many repetitions of one message would suppress
the first occurrence of another. A user can create many processes, so the number of subjects is
limited too, per user and for all users together.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

INTERVAL = 10.0
"""Seconds for which the lines with one message are counted; starts with the first of them."""

MAX_LINES = 32
"""Maximum number of lines with the same message in one interval."""

MAX_USER_LINES = 8
"""Maximum number of those about one user, so that a user leaves room for the others."""

Subject = tuple[int, Hashable]
"""What a warning is about: a user ID, and for example the ID of a process of this user."""

NO_SUBJECT: Subject = (0, None)


@dataclass(slots=True)
class _Interval:
    started_at: float
    subjects: set[Subject] = field(default_factory=set)
    """At most `MAX_LINES`."""
    users: Counter[int] = field(default_factory=Counter)
    suppressed: int = 0

    def admits(self, subject: Subject) -> bool:
        return (
            subject not in self.subjects
            and len(self.subjects) < MAX_LINES
            and self.users[subject[0]] < MAX_USER_LINES
        )


class RateLimitedLog:
    """Logs each message at most once per `INTERVAL` for each subject.

    The first line of the next interval with the same message states how many were suppressed.

    Args:
        log: the logger.
        clock: returns seconds.
    """

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = log
        self._clock = clock
        self._intervals: dict[str, _Interval] = {}
        """By message."""

    def warning(self, message: str, *args: object, subject: Subject = NO_SUBJECT) -> bool:
        """Log a warning; messages are the same if their text before formatting is.

        Args:
            message: the text before formatting.
            args: for formatting.
            subject: what it is about. A user may have any number of subjects.

        Returns:
            Whether it was logged, and not suppressed.
        """
        now = self._clock()
        last = interval = self._intervals.get(message)
        if interval is None or now - interval.started_at >= INTERVAL:
            interval = self._intervals[message] = _Interval(now)
        elif not interval.admits(subject):
            interval.suppressed += 1
            return False
        interval.subjects.add(subject)
        interval.users[subject[0]] += 1
        if last is not None and last is not interval and last.suppressed:
            message += " (and %d more like it in the last %d seconds)"
            args += (last.suppressed, round(now - last.started_at))
        self._logger.warning(message, *args)
        return True
