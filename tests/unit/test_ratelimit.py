# SPDX-License-Identifier: Apache-2.0
"""A message is logged once per interval and subject, with a count of the suppressed ones."""

import logging

import pytest

from notif_relayd.net.ratelimit import INTERVAL, MAX_LINES, MAX_USER_LINES, RateLimitedLog


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_repeated_warning_is_logged_once_per_interval(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    log = RateLimitedLog(logging.getLogger("test"), clock)
    for number in range(5):
        log.warning("rejected %d", number)
    clock.now += INTERVAL
    log.warning("rejected %d", 5)
    clock.now += INTERVAL
    log.warning("rejected %d", 6)
    assert caplog.messages == [
        "rejected 0",
        f"rejected 5 (and 4 more like it in the last {INTERVAL:.0f} seconds)",
        "rejected 6",
    ]


def test_warnings_are_limited_independently(caplog: pytest.LogCaptureFixture) -> None:
    log = RateLimitedLog(logging.getLogger("test"), Clock())
    log.warning("rejected %d", 1)
    log.warning("refused %d", 1)
    log.warning("rejected %d", 2)
    assert caplog.messages == ["rejected 1", "refused 1"]


def test_each_subject_is_logged_within_the_limits(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = RateLimitedLog(logging.getLogger("test"), clock)
    users = MAX_LINES // MAX_USER_LINES + 1
    for uid in range(users):
        for pid in range(MAX_USER_LINES + 1):
            for _ in range(2):
                log.warning("rejected %d of %d", pid, uid, subject=(uid, pid))
    logged = [f"rejected {pid} of {uid}" for uid in range(users) for pid in range(MAX_USER_LINES)]
    assert caplog.messages == logged[:MAX_LINES]
    caplog.clear()
    clock.now += INTERVAL
    for pid in (1, 2):
        log.warning("rejected %d of %d", pid, 0, subject=(0, pid))
    suppressed = 2 * users * (MAX_USER_LINES + 1) - MAX_LINES
    (first, second) = caplog.messages
    assert first == f"rejected 1 of 0 (and {suppressed} more like it in the last 10 seconds)"
    assert second == "rejected 2 of 0"
