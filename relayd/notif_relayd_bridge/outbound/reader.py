# SPDX-License-Identifier: Apache-2.0
"""Reads the notifications of the relay in a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from notif_relay import Notification, RelayError, Subscriber
from notif_relayd_bridge.configuration import Subscription
from notif_relayd_bridge.outbound.interfaces import MAX_HELD_BYTES

LOG = logging.getLogger(__name__)

CLOSE_TIMEOUT = 2.0
"""Maximum time, in seconds, to wait for the thread; a relay that is stopped may block it."""


class Reader:
    """The member of a group that reads for the bridge.

    Args:
        subscription: what to request from the relay.
        reconnect: whether to connect again after a failure.
        put: called with each notification.
        subscribed: called when the relay has answered for the first time.
        ended: called with the reason if the relay refuses the subscriber, if it is not available
            and ``reconnect`` is off, or after an unexpected error, such as without a descriptor.
    """

    def __init__(
        self,
        subscription: Subscription,
        reconnect: bool,
        put: Callable[[Notification], None],
        subscribed: Callable[[], None],
        ended: Callable[[str], None],
    ) -> None:
        self._subscription = subscription
        self._reconnect = reconnect
        self._put = put
        self._subscribed = subscribed
        self._ended = ended
        self._taken = 0
        """Total size of the notifications that were read, in bytes."""
        self._released = 0
        """Total size of those that are finished, in bytes."""
        self._room = threading.Event()
        self._stopped = False
        self._subscriber: Subscriber | None = None
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def release(self, size: int) -> None:
        """Continue reading if there is room.

        Args:
            size: total size of the finished notifications, in bytes.
        """
        self._released = size
        if not self._is_full():
            self._room.set()

    def stop(self) -> None:
        """Read no further notifications; those that were read can still be finished."""
        self._stopped = True
        self._room.set()

    def close(self) -> None:
        """Report what is finished, and disconnect."""
        self.stop()
        if self._subscriber is not None:
            self._subscriber.close()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        try:
            self._subscriber = self._subscribe()
            self._subscribed()
            for notification in self._subscriber:
                if self._stopped:
                    return
                self._taken += len(notification.raw)
                self._put(notification)
                if self._is_full():
                    self._wait_for_room()
        except RelayError as error:
            self._ended(str(error))
        except Exception:
            # Without this, the bridge would run on, and read nothing.
            LOG.exception("unhandled exception while reading from the relay")
            self._ended("unhandled exception while reading from the relay, see the log")

    def _subscribe(self) -> Subscriber:
        requested = self._subscription
        return Subscriber(
            requested.path,
            event_type=requested.event_type,
            priority=requested.priority,
            publisher_id=requested.publisher_id,
            payload=requested.payload,
            group=requested.group,
            window=requested.window,
            hold=requested.hold,
            auto_done=False,
            reconnect=self._reconnect,
        )

    def _is_full(self) -> bool:
        return self._taken - self._released >= MAX_HELD_BYTES

    def _wait_for_room(self) -> None:
        # Cleared before the comparison, so that a release in between is not missed.
        while not self._stopped:
            self._room.clear()
            if self._stopped or not self._is_full():
                return
            self._room.wait()
