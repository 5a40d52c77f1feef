# SPDX-License-Identifier: Apache-2.0
"""Tells a process why its connection is refused."""

import contextlib
import socket

from notif_relay import records
from notif_relayd.access.admission import NotAdmitted


class RefusalRecord:
    """The error record for refused connections to one socket.

    Args:
        not_admitted: start of the sentence if the allow lists do not contain the user.
        full: start of the sentence if a limit is reached.
    """

    def __init__(self, not_admitted: str, full: str) -> None:
        self._starts = {True: not_admitted, False: full}
        self._last = "", b""
        """The last reason and its record: in a flood most refusals have the same reason, and the
        record is then encoded once."""

    def send(self, connection: socket.socket, reason: str) -> None:
        """Send the record as far as the socket takes it."""
        if reason != self._last[0]:
            start = self._starts[isinstance(reason, NotAdmitted)]
            self._last = reason, records.error(f"{start}: {reason}.")
        with contextlib.suppress(OSError):
            connection.send(self._last[1])
