# SPDX-License-Identifier: Apache-2.0
"""When the relay may end because nobody needs it.

Where systemd holds the sockets, the next connection starts the relay again, and one that comes
just as it ends waits in the socket until then. Nothing is polled: the clock runs from the moment
when the last connection ended, and one deadline is enough for any number of such moments.
"""

from collections.abc import Callable

from notif_relayd.net.loop import Loop


class IdleTimer:
    """Watches for a time in which there is no connection at all.

    Args:
        loop: where the deadline is kept.
        anybody: whether there is a connection.
        limit: seconds after which it is enough; 0 for never. May be changed while running.
    """

    def __init__(self, loop: Loop, anybody: Callable[[], bool], limit: float) -> None:
        self.limit = limit
        self.over = False
        """Whether nobody has been there for so long."""
        self._loop = loop
        self._monotonic = loop.kernel.monotonic
        self._has_connections = anybody
        self._since: float | None = None
        self._scheduled = False

    def look(self) -> None:
        """Somebody may have come or gone, or the limit is another."""
        if self._has_connections():
            self._since = None
            return
        now = self._monotonic()
        if self._since is None:
            self._since = now
        if self.limit and not self._scheduled:
            self._scheduled = True
            self._loop.call_in(self._since + self.limit - now, self._check)

    def _check(self) -> None:
        self._scheduled = False
        if self._since is not None and self.limit and not self._has_connections():
            self.over = self._monotonic() >= self._since + self.limit
            if not self.over:
                self.look()
