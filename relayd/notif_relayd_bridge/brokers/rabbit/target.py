# SPDX-License-Identifier: Apache-2.0
"""The target for RabbitMQ: a thread that connects, publishes, and connects again."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from notif_relay import Notification
from notif_relayd_bridge.brokers.backoff import MAX_BACKOFF, Backoff
from notif_relayd_bridge.brokers.rabbit.connection import ClosingError, Waker
from notif_relayd_bridge.brokers.rabbit.driver import FAILURES, Driver
from notif_relayd_bridge.brokers.rabbit.session import Memory, Session
from notif_relayd_bridge.brokers.target import Events

LOG = logging.getLogger(__name__)

MAX_UNCONFIRMED = 1000
"""Maximum number of unconfirmed messages."""

_CLOSE_TIMEOUT = 30.0
"""Maximum time in seconds that `close` waits for the thread. The thread can only be late while it
looks up the address of a host or connects."""


class RabbitTarget:
    """Sends notifications to RabbitMQ; see `Target`.

    Args:
        driver: oslo.messaging's driver.
    """

    def __init__(self, driver: Driver) -> None:
        self.max_unconfirmed = MAX_UNCONFIRMED
        self._driver = driver
        self._waker = Waker()
        self._memory = Memory()
        self._backoff = Backoff()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def start(self, events: Events) -> None:
        """Connect in the background."""
        self._thread = threading.Thread(
            target=self._run, args=(events,), name="rabbit", daemon=True
        )
        self._thread.start()

    def send(self, notification: Notification) -> None:
        """Send a message; the thread does it."""
        self._memory.queue.append(notification)
        self._waker.wake()

    def close(self) -> None:
        """Disconnect and end the thread."""
        if self._is_closed:
            return
        self._is_closed = True
        self._waker.wake_to_close()
        if self._thread is not None:
            self._thread.join(_CLOSE_TIMEOUT)
            if self._thread.is_alive():
                return  # It still uses the descriptor.
        self._waker.close()

    def _run(self, events: Events) -> None:
        while not self._waker.is_closing:
            reason = self._connect(events)
            if reason is None or self._waker.is_closing:
                return
            events.failed(reason)
            self._driver.next_host()
            # The limit is that of the pause between two attempts with the same host.
            self._waker.pause(self._backoff.pause() / self._driver.hosts)

    def _connect(self, events: Events) -> str | None:
        """Connect and send until that fails; return why, or None if the target is being closed."""
        started = time.monotonic()
        try:
            self._use_connection(events)
        except ClosingError:
            return None
        except FAILURES as error:
            if time.monotonic() - started > MAX_BACKOFF:
                self._backoff.reset()
            return self._driver.describe(error)
        except Exception:
            LOG.exception("unhandled exception in the client of RabbitMQ, connecting again")
            return "unhandled exception, see the log"
        return None

    def _use_connection(self, events: Events) -> None:
        connection = self._driver.connect(self._waker)
        try:
            session = Session(self._driver, connection, self._memory)
            self._memory.queue.clear()
            events.connected()
            try:
                session.run(events, self._waker)
            finally:
                if session.has_answered:
                    self._backoff.reset()
        except ClosingError:
            with contextlib.suppress(*FAILURES):
                connection.finish()
            raise
        finally:
            connection.collect()
