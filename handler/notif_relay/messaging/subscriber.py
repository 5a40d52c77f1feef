# SPDX-License-Identifier: Apache-2.0
"""The subscriber of a listener: reconnects after every failure and logs failures.

The listener's thread has no caller that handles exceptions, so the log is the only information
for an operator. Each type of failure is logged once until notifications arrive again. Only the
constructor raises exceptions, for failures that do not resolve themselves. Later, an operator may
correct the permissions of the socket, the allow lists or the limits at any time.
"""

import logging
import socket
import time
from collections.abc import Iterable

from notif_relay import records
from notif_relay.errors import PermissionDenied, RelayUnavailable, SubscriptionRefused
from notif_relay.group import checked_membership, permitted_hold
from notif_relay.messaging.groups import Sharing
from notif_relay.messaging.interruption import Interruption
from notif_relay.request import filter_request
from notif_relay.subscriber import Subscriber

LOG = logging.getLogger(__name__)

ANSWER_TIMEOUT = 30.0
"""Maximum time in seconds for the first answer of the relay, which systemd may have to start."""


class ListeningSubscriber(Subscriber):
    """Read the notifications of some priorities; wait for the relay while it is unavailable.

    Args:
        path: path of the public socket.
        priorities: the priorities; none to receive gaps only.
        group: the group to join; None for all notifications.
        sharing: the window and the hold of the group.

    Raises:
        PermissionDenied: the process is not allowed to connect.
        SubscriptionRefused: the relay refused the subscriber.
        BadFilter: the relay refused the request.
        TimeoutError: the relay accepted the connection and did not answer.
    """

    def __init__(
        self, path: str, priorities: Iterable[str], group: str | None, sharing: Sharing
    ) -> None:
        self._starting = True
        self._interruption = Interruption()
        self.until: float | None = time.monotonic() + ANSWER_TIMEOUT
        """Time at which to stop waiting for the next notification, on the monotonic clock."""
        self._priorities = list(priorities)
        self._group = group
        self._sharing = sharing
        super().__init__(
            path,
            event_type=None if self._priorities else records.GAP,
            priority=self._priorities or None,
            group=group,
            window=None if group is None else sharing.window,
            hold=None if group is None else sharing.hold,
            auto_done=group is None,
        )
        self._starting = False
        self.until = None

    @property
    def connection(self) -> int:
        """Number of the connection among those that the relay has answered."""
        return self._stream.times_flowed

    def interrupt(self) -> None:
        """End the reading in its thread with a TimeoutError; the connection remains open.

        Disconnect if there is nothing to report: while the relay is not available.
        """
        self._interruption.set()
        if not self.connected:
            self.close()

    def release_interruption(self) -> None:
        """Close the descriptor for ``interrupt``; no thread may read any more."""
        self._interruption.close()

    def _read(self, sock: socket.socket) -> None:
        if not self._interruption.wait_readable(sock, sock.gettimeout()):
            raise TimeoutError
        super()._read(sock)

    def _connect_until(self, deadline: float | None) -> None:
        if self._interruption.is_set:
            raise self._timeout_error()
        super()._connect_until(deadline)

    def _deadline(self) -> float | None:
        return self.until

    def _timeout_error(self) -> TimeoutError:
        return TimeoutError(f"the relay at {self.path} does not answer")

    def _connect(self) -> None:
        failure = None
        try:
            super()._connect()
        except PermissionDenied as error:
            if self._starting:
                raise
            failure = error
        # Not in an exception handler: oslo.log appends the exception being handled to a message.
        if failure is not None:
            self._log_failure(failure)
            self._postpone()

    def _handle_failure(self, error: RelayUnavailable) -> None:
        hold = permitted_hold(error.reason) if self._sharing.may_hold_less else None
        if hold is not None and self._group is not None:
            # The next attempt asks for less: the relay's limit is below the default.
            membership = checked_membership(self._group, self._sharing.window, hold, False)
            self._request = filter_request(None, self._priorities, None, membership)
        super()._handle_failure(error)

    def _is_final(self, error: RelayUnavailable) -> bool:
        return self._starting and isinstance(error, SubscriptionRefused)

    def _log_failure(self, error: RelayUnavailable | PermissionDenied) -> None:
        if type(error) not in self._logged:
            self._logged.add(type(error))
            LOG.warning("%s; retrying", error)

    def _log_connected(self) -> None:
        LOG.info("Receiving notifications from %s again", self.path)
