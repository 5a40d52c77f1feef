# SPDX-License-Identifier: Apache-2.0
"""Ends a relay that has no connections, if systemd holds its sockets.

The next connection makes systemd start the relay again. A connection that arrives while the relay
exits waits in the socket's queue.
"""

from collections.abc import Callable

from notif_relayd.net.loop import Loop


class IdleTimer:
    """Expires when there has been no connection for a time.

    There is at most one deadline in the loop. It is not removed when a connection arrives; it then
    does nothing.

    Args:
        loop: the event loop.
        has_connections: returns whether there is a connection.
        limit: timeout in seconds; 0 for none. May be changed; call `update` afterwards.
    """

    def __init__(self, loop: Loop, has_connections: Callable[[], bool], limit: float) -> None:
        self.limit = limit
        self.over = False
        """Whether the timer has expired."""
        self._loop = loop
        self._monotonic = loop.kernel.monotonic
        self._has_connections = has_connections
        self._since: float | None = None
        """When the last connection ended; `None` while there is one."""
        self._scheduled = False

    def update(self) -> None:
        """Start or stop the timer; call after a connection or the limit has changed."""
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
                self.update()
