# SPDX-License-Identifier: Apache-2.0
"""The library's subscriber, as a listener needs it: it does not give up, and it tells the log.

A program that reads for itself is told by exceptions what is wrong. Behind a listener nobody
catches any: once the endpoints are waiting, the log is all that an operator sees. So what keeps
the notifications away is logged, once for each kind of trouble until they flow again. Before that,
in the beginning, what waiting will not mend is raised, where the consumer is started.
"""

import logging
import socket
import time
from collections.abc import Iterable

from notif_relay.errors import PermissionDenied, RelayError, RelayUnavailable
from notif_relay.subscriber import Subscriber

LOG = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds that a relay may take to answer in the beginning: systemd may have to start it first."""


class ListeningSubscriber(Subscriber):
    """Reads what has one of the priorities, and waits for the relay whenever it is away.

    Raises:
        PermissionDenied: the process may not read.
        BadFilter: the relay does not understand the request.
        TimeoutError: there is a relay, but it does not answer.
    """

    def __init__(self, path: str, priorities: Iterable[str]) -> None:
        self._told: set[type[RelayError]] = set()
        self._beginning = True
        self.until: float | None = time.monotonic() + PATIENCE
        """When to stop waiting for the next notification, by the monotonic clock."""
        super().__init__(path, priority=priorities)
        self._beginning = False
        self.until = None

    def _deadline(self) -> float | None:
        return self.until

    def _overdue(self) -> TimeoutError:
        return TimeoutError(f"the relay at {self.path} does not answer")

    def _connect(self) -> None:
        try:
            super()._connect()
        except PermissionDenied as error:
            if self._beginning:
                raise
            # The socket's group or mode may be put right while the consumer runs.
            self._tell(error)
            self._postpone()

    def _read(self, sock: socket.socket) -> None:
        super()._read(sock)
        if self._told and self._stream.flowing:
            self._told.clear()
            LOG.info("Notifications come from %s again", self.path)

    def _fail(self, error: RelayUnavailable) -> None:
        if not self._closed:
            self._tell(error)
        super()._fail(error)

    def _tell(self, error: RelayError) -> None:
        if type(error) not in self._told:
            self._told.add(type(error))
            LOG.warning("%s; trying again until notifications come", error)
