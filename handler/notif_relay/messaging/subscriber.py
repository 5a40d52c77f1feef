# SPDX-License-Identifier: Apache-2.0
"""The subscriber of a listener: reconnects after every failure and logs failures.

The listener's thread has no caller that handles exceptions, so the log is the only information
for an operator. Each type of failure is logged once until notifications arrive again. Only the
constructor raises exceptions, for failures that do not resolve themselves. Later, an operator may
correct the permissions of the socket, the allow lists or the limits at any time.
"""

import logging
import time
from collections.abc import Iterable

from notif_relay import records
from notif_relay.errors import PermissionDenied, RelayUnavailable, SubscriptionRefused
from notif_relay.subscriber import Subscriber

LOG = logging.getLogger(__name__)

ANSWER_TIMEOUT = 30.0
"""Maximum time in seconds for the first answer of the relay, which systemd may have to start."""


class ListeningSubscriber(Subscriber):
    """Read the notifications of some priorities; wait for the relay while it is unavailable.

    Args:
        path: path of the public socket.
        priorities: the priorities; none to receive gaps only.

    Raises:
        PermissionDenied: the process is not allowed to connect.
        SubscriptionRefused: the relay refused the subscriber.
        BadFilter: the relay refused the request.
        TimeoutError: the relay accepted the connection and did not answer.
    """

    def __init__(self, path: str, priorities: Iterable[str]) -> None:
        self._starting = True
        self.until: float | None = time.monotonic() + ANSWER_TIMEOUT
        """Time at which to stop waiting for the next notification, on the monotonic clock."""
        priorities = list(priorities)
        super().__init__(
            path,
            event_type=None if priorities else records.GAP,
            priority=priorities or None,
        )
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
            self._log_failure(error)
            self._postpone()

    def _is_final(self, error: RelayUnavailable) -> bool:
        return self._starting and isinstance(error, SubscriptionRefused)

    def _log_failure(self, error: RelayUnavailable | PermissionDenied) -> None:
        if type(error) not in self._logged:
            self._logged.add(type(error))
            LOG.warning("%s; retrying", error)

    def _log_connected(self) -> None:
        LOG.info("Receiving notifications from %s again", self.path)
