# SPDX-License-Identifier: Apache-2.0
"""Messages to the service manager: ready, watchdog, status and stopping.

The watchdog is notified from the loop, so that the service manager restarts a relay whose loop
hangs. Without a service manager no deadline is set, so nothing wakes the loop.
"""

import logging
import os
from collections.abc import Callable

from notif_relayd.net.loop import Loop
from notif_relayd.systemd.environment import number
from notif_relayd.systemd.sdnotify import SEND_TIMEOUT, NotifySocket

LOG = logging.getLogger(__name__)

MIN_WATCHDOG = 0.1
"""Minimum watchdog timeout, in seconds, that is kept. Shorter timeouts would take much of the
loop's time."""

_USEC_INFINITY = 2**64 - 1
"""Microseconds that mean no timeout (time-util.h of systemd)."""

STATUS_INTERVAL = 2.0
"""Minimum interval, in seconds, between two status texts. None is sent while nothing changes."""

RETRY_INTERVAL = 0.05
"""Seconds until a message that the service manager could not take is sent again."""

Counts = tuple[int, int, int]
"""Producers, subscribers, and all records received."""


class Watchdog:
    """Keeps the service manager informed about the relay.

    Args:
        loop: the event loop.
        notify: the notification socket.
        counts: returns the current counts.
    """

    def __init__(self, loop: Loop, notify: NotifySocket, counts: Callable[[], Counts]) -> None:
        self._loop = loop
        self._monotonic = loop.kernel.monotonic
        self._notify = notify
        self._counts = counts
        self._interval = _timeout() / 2
        """Seconds between two notifications: half the timeout (sd_watchdog_enabled(3))."""
        self._reported = counts()
        self._reported_at = self._monotonic()
        self._reloading = False
        """Whether the service manager has been told about a reload, but not about its end."""
        self._pending = not notify.usable
        """Whether no report has to be scheduled: one is, or there is no service manager."""

    def ready(self) -> None:
        """Report that the relay serves its sockets; start to notify the watchdog."""
        self._notify.send(f"READY=1\nSTATUS={_text(self._reported, 0)}", timeout=SEND_TIMEOUT)
        if self._interval:
            self._keep_alive()

    def reloading(self) -> None:
        """Report that the relay reloads its configuration; `reloaded` must follow."""
        microseconds = int(self._monotonic() * 1e6)
        self._reloading = self._notify.send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}")

    def reloaded(self) -> None:
        """Report that the relay is ready again, with the new or the previous configuration."""
        # Without this message, the unit would stay in the state "reloading".
        if self._reloading:
            self._reloading = not self._notify.send("READY=1")
            if self._reloading:
                self._loop.call_in(RETRY_INTERVAL, self.reloaded)

    def stopping(self) -> None:
        """Report that the relay stops."""
        self._notify.send("STOPPING=1\nSTATUS=Sending the remaining records", timeout=SEND_TIMEOUT)

    def iteration_done(self) -> None:
        """Schedule a status report if the counts have changed; call after each iteration."""
        if not self._pending and self._counts() != self._reported:
            self._pending = True
            self._loop.call_in(STATUS_INTERVAL, self._report)

    def _keep_alive(self) -> None:
        self._notify.send("WATCHDOG=1")
        self._loop.call_in(self._interval, self._keep_alive)

    def _report(self) -> None:
        self._pending = False
        now, before = self._monotonic(), self._reported_at
        counts, reported = self._counts(), self._reported
        if counts != reported:
            # A further report follows, so that the last rate in a quiet period is 0.
            self._pending = True
            self._loop.call_in(STATUS_INTERVAL, self._report)
        self._reported, self._reported_at = counts, now
        rate = (counts[2] - reported[2]) / (now - before)
        self._notify.send(f"STATUS={_text(counts, rate)}")


def _text(counts: Counts, rate: float) -> str:
    producers, subscribers, _ = counts
    return f"{producers} producers, {subscribers} subscribers, {rate:.0f} records/s"


def _timeout() -> float:
    """Return the watchdog's timeout in seconds (sd_watchdog_enabled(3)); 0 without a watchdog."""
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
