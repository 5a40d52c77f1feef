# SPDX-License-Identifier: Apache-2.0
"""What the service manager is told: ready, alive, how it goes, stopping.

The sign of life comes from the loop itself, so that a loop that hangs is noticed and restarted.
Without a service manager nothing here does anything, and nothing wakes the loop.
"""

import logging
import os
from collections.abc import Callable

from notif_relayd.net.loop import Loop
from notif_relayd.systemd.environment import number
from notif_relayd.systemd.sdnotify import SEND_TIMEOUT, NotifySocket

LOG = logging.getLogger(__name__)

MIN_WATCHDOG = 0.1
"""Seconds: the shortest watchdog timeout that is kept; to keep a shorter one takes all the time."""

_USEC_INFINITY = 2**64 - 1
"""No timeout, in microseconds (systemd's time-util.h)."""

STATUS_INTERVAL = 2.0
"""Seconds between two status texts at least; there is none while nothing changes."""


class Watchdog:
    """The service manager's view of the relay.

    Args:
        loop: where the deadlines are kept.
        notify: where the service manager listens.
        census: producers, subscribers and records received so far.
    """

    def __init__(
        self, loop: Loop, notify: NotifySocket, census: Callable[[], tuple[int, int, int]]
    ) -> None:
        self._loop = loop
        self._monotonic = loop.kernel.monotonic
        self._notify = notify
        self._counts = census
        self._watchdog_interval = _watchdog_seconds() / 2
        self._last = census()
        self._last_time = self._monotonic()
        self._waiting = not notify.there
        """Whether a report is due already, or nobody would get one."""

    def ready(self) -> None:
        """The sockets are served."""
        self._notify.tell(f"READY=1\nSTATUS={_text(self._last, 0)}", timeout=SEND_TIMEOUT)
        if self._watchdog_interval:
            self._sign_of_life()

    def stopping(self) -> None:
        """The relay has begun to stop."""
        self._notify.tell("STOPPING=1\nSTATUS=Sending what is left", timeout=SEND_TIMEOUT)

    def iteration_done(self) -> None:
        """The loop has done something: the status may have to change."""
        if not self._waiting and self._counts() != self._last:
            self._waiting = True
            self._loop.call_in(STATUS_INTERVAL, self._report)

    def _sign_of_life(self) -> None:
        self._notify.tell("WATCHDOG=1")
        self._loop.call_in(self._watchdog_interval, self._sign_of_life)

    def _report(self) -> None:
        self._waiting = False
        now, then = self._monotonic(), self._last_time
        census, last = self._counts(), self._last
        if census != last:
            # One more report follows, to say that it has become quiet again.
            self._waiting = True
            self._loop.call_in(STATUS_INTERVAL, self._report)
        self._last, self._last_time = census, now
        self._notify.tell(f"STATUS={_text(census, (census[2] - last[2]) / (now - then))}")


def _text(census: tuple[int, int, int], rate: float) -> str:
    producers, subscribers, _ = census
    return f"{producers} producers, {subscribers} subscribers, {rate:.0f} records/s"


def _watchdog_seconds() -> float:
    """Return the watchdog's timeout (sd_watchdog_enabled(3)); 0 if there is no watchdog."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    microseconds = number("WATCHDOG_USEC")
    if not microseconds or microseconds >= _USEC_INFINITY:
        return 0.0
    if microseconds < MIN_WATCHDOG * 1e6:
        LOG.warning(
            "WATCHDOG_USEC=%d is too short: the watchdog is notified every %d ms only; raise "
            "WatchdogSec=",
            microseconds,
            MIN_WATCHDOG * 1000 / 2,
        )
    return max(MIN_WATCHDOG, microseconds / 1e6)
