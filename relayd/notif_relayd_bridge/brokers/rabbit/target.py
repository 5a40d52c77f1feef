# SPDX-License-Identifier: Apache-2.0
"""The target for RabbitMQ: publishes what the pipeline sends."""

from __future__ import annotations

from notif_relay import Notification
from notif_relayd_bridge.brokers.rabbit.client import Client
from notif_relayd_bridge.brokers.rabbit.connection import BrokerConnection
from notif_relayd_bridge.brokers.rabbit.driver import Driver
from notif_relayd_bridge.brokers.rabbit.session import Memory, Session
from notif_relayd_bridge.brokers.target import Events

MAX_UNCONFIRMED = 1000
"""Maximum number of unconfirmed messages."""


class RabbitTarget(Client[Events]):
    """Sends notifications to RabbitMQ; see `Target`.

    Args:
        driver: oslo.messaging's driver.
    """

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.max_unconfirmed = MAX_UNCONFIRMED
        self._memory = Memory()

    def send(self, notification: Notification) -> None:
        """Send a message; the thread does it."""
        self._memory.queue.append(notification)
        self._waker.wake()

    def _use(self, connection: BrokerConnection, events: Events) -> None:
        session = Session(self._driver, connection, self._memory)
        self._memory.queue.clear()
        events.connected()
        try:
            session.run(events, self._waker)
        finally:
            # A queue that is full again and again would otherwise cause many connections.
            if session.has_answered and not session.is_rejected:
                self._backoff.reset()
