# SPDX-License-Identifier: Apache-2.0
"""The subscriber of a listener: reconnects after every failure and logs failures.

The listener's thread has no caller that handles exceptions, so the log is the only information
for an operator. Each type of failure is logged once until notifications arrive again. Only the
constructor raises exceptions, for failures that do not resolve themselves.
"""

import logging
import socket
import time
from collections.abc import Iterable

from notif_relay.errors import PermissionDenied, RelayError, RelayUnavailable
from notif_relay.subscriber import Subscriber

LOG = logging.getLogger(__name__)

ANSWER_TIMEOUT = 30.0
"""Maximum time in seconds for the first answer of the relay, which systemd may have to start."""


class ListeningSubscriber(Subscriber):
    """Read the notifications of some priorities; wait for the relay while it is unavailable.

    Args:
        path: path of the public socket.
        priorities: the priorities.

    Raises:
        PermissionDenied: the process is not allowed to connect.
        BadFilter: the relay refused the request.
        TimeoutError: the relay accepted the connection and did not answer.
    """

    def __init__(self, path: str, priorities: Iterable[str]) -> None:
        self._logged: set[type[RelayError]] = set()
        self._starting = True
        self.until: float | None = time.monotonic() + ANSWER_TIMEOUT
        """Time at which to stop waiting for the next notification, on the monotonic clock."""
        super().__init__(path, priority=priorities)
        self._starting = False
        self.until = None

    def _deadline(self) -> float | None:
        return self.until

    def _timeout_error(self) -> TimeoutError:
        return TimeoutError(f"the relay at {self.path} does not answer")

    def _connect(self) -> None:
        try:
            super()._connect()
        except PermissionDenied as error:
            if self._starting:
                raise
            # An operator may correct the group or mode of the socket at any time.
            self._log(error)
            self._postpone()

    def _read(self, sock: socket.socket) -> None:
        super()._read(sock)
        if self._logged and self._stream.flowing:
            self._logged.clear()
            LOG.info("Receiving notifications from %s again", self.path)

    def _handle_failure(self, error: RelayUnavailable) -> None:
        if not self._closed:
            self._log(error)
        super()._handle_failure(error)

    def _log(self, error: RelayError) -> None:
        if type(error) not in self._logged:
            self._logged.add(type(error))
            LOG.warning("%s; retrying", error)
