# SPDX-License-Identifier: Apache-2.0
"""The service manager's notification socket, sd_notify(3), without ever waiting for it.

libsystemd's own call blocks while the manager does not read, which on a big host that is reloading
its units can be seconds. For the loop a message that does not go out now is one to be sent again.
"""

import array
import logging
import os
import select
import socket
from collections.abc import Sequence

LOG = logging.getLogger(__name__)

MAX_ADDRESS = 107
"""Bytes of the longest address (unix(7): sun_path holds 108 with the final NUL)."""

SEND_TIMEOUT = 2.0
"""Seconds to wait for the service manager where something depends on it: at start and end only."""


class NotifySocket:
    """Where messages to the service manager go: nowhere, if there is none.

    Args:
        path: `$NOTIFY_SOCKET`; a leading @ stands for the abstract namespace. One that is no
            address of a Unix socket is logged and ignored.
    """

    def __init__(self, path: str | None) -> None:
        self._address = _address(path) if path else b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @property
    def there(self) -> bool:
        """Whether anybody is told anything."""
        return bool(self._address)

    def tell(self, message: str, fds: Sequence[int] = (), timeout: float = 0.0) -> bool:
        """Send a message, and descriptors along with it; whether it went out.

        Args:
            message: lines of the form NAME=value.
            fds: descriptors that the manager gets duplicates of.
            timeout: seconds to wait while the manager has not read what came before.
        """
        if not self._address:
            return False
        along = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._socket.settimeout(timeout)
        try:
            self._socket.sendmsg([message.encode()], along, 0, self._address)
        except OSError:
            return False
        return True

    def finish(self) -> bool:
        """Wait until the manager has read all that it was told; whether it has."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            told = self.tell("BARRIER=1", [writer], SEND_TIMEOUT)
        finally:
            os.close(writer)
        try:
            # The manager closes its duplicate of the other end (sd_notify_barrier(3)).
            poll = select.poll()
            poll.register(reader, 0)
            return told and bool(poll.poll(SEND_TIMEOUT * 1000))
        finally:
            os.close(reader)

    def close(self) -> None:
        """Give the descriptor back."""
        self._socket.close()


def _address(path: str) -> bytes:
    address = os.fsencode(path)
    if address[:1] not in (b"/", b"@") or not 1 < len(address) <= MAX_ADDRESS:
        LOG.warning("NOTIFY_SOCKET=%s is ignored: it is no address of a Unix socket", path)
        return b""
    return b"\0" + address[1:] if address[:1] == b"@" else address
