# SPDX-License-Identifier: Apache-2.0
"""Sends messages to the service manager, sd_notify(3), without blocking.

The function of libsystemd blocks while the service manager does not read. On a large host that
reloads its units this can take seconds. Here a message that cannot be sent at once is reported to
the caller, which sends it again later.
"""

import array
import logging
import os
import select
import socket
from collections.abc import Sequence

LOG = logging.getLogger(__name__)

MAX_ADDRESS = 107
"""Maximum size of an address in bytes (unix(7): sun_path has 108, with the final NUL)."""

SEND_TIMEOUT = 2.0
"""Seconds to wait for the service manager at the start and the end of the process."""


class NotifySocket:
    """The notification socket of the service manager; messages are dropped if there is none.

    Args:
        path: the value of `$NOTIFY_SOCKET`; a leading @ means the abstract namespace. An invalid
            address is logged and ignored.
    """

    def __init__(self, path: str | None) -> None:
        self._address = _address(path) if path else b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    @property
    def usable(self) -> bool:
        """Whether there is an address to send to."""
        return bool(self._address)

    def send(self, message: str, fds: Sequence[int] = (), timeout: float = 0.0) -> bool:
        """Send a message, with descriptors attached; return whether it was sent.

        Args:
            message: lines of the form NAME=value.
            fds: descriptors of which the service manager gets duplicates.
            timeout: seconds to wait if the socket's queue is full.
        """
        if not self._address:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._socket.settimeout(timeout)
        try:
            self._socket.sendmsg([message.encode()], rights, 0, self._address)
        except OSError:
            return False
        return True

    def barrier(self) -> bool:
        """Wait until the service manager has read all messages; return whether it has.

        The wait is limited by `SEND_TIMEOUT`, as is the sending of the barrier message itself.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            sent = self.send("BARRIER=1", [writer], SEND_TIMEOUT)
        finally:
            os.close(writer)
        try:
            # The service manager closes its duplicate of the writer (sd_notify_barrier(3)), and the
            # reader then hangs up.
            poll = select.poll()
            poll.register(reader, 0)
            return sent and bool(poll.poll(SEND_TIMEOUT * 1000))
        finally:
            os.close(reader)

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()


def _address(path: str) -> bytes:
    address = os.fsencode(path)
    if address[:1] not in (b"/", b"@") or not 1 < len(address) <= MAX_ADDRESS:
        LOG.warning("ignoring NOTIFY_SOCKET=%s: not an address of a Unix socket", path)
        return b""
    return b"\0" + address[1:] if address[:1] == b"@" else address
