# SPDX-License-Identifier: Apache-2.0
"""Each message is logged once per interval, with a count of the suppressed ones."""

import logging

import pytest

from notif_relayd.net.ratelimit import INTERVAL, RateLimitedLog


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
