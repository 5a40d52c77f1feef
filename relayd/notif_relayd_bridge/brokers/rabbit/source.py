# SPDX-License-Identifier: Apache-2.0
"""The source for RabbitMQ: consumes the queue of a pool."""

from __future__ import annotations

from collections import deque

from notif_relayd_bridge.brokers.rabbit.client import Client
from notif_relayd_bridge.brokers.rabbit.connection import BrokerConnection, ClosingError
from notif_relayd_bridge.brokers.rabbit.consumer import MAX_UNACKNOWLEDGED, Consumer
from notif_relayd_bridge.brokers.rabbit.driver import Driver
from notif_relayd_bridge.brokers.rabbit.pool import Pool
from notif_relayd_bridge.brokers.source import SourceEvents


class RabbitSource(Client[SourceEvents]):
    """Consumes notifications from RabbitMQ; see `Source`.

    Args:
        driver: oslo.messaging's driver.
        pool: the queue.
    """

    def __init__(self, driver: Driver, pool: Pool) -> None:
        super().__init__(driver)
        self.max_unacknowledged = MAX_UNACKNOWLEDGED
        self._pool = pool
        self._acknowledgements: deque[int] = deque()
        self._prefetch = MAX_UNACKNOWLEDGED

    def acknowledge(self, count: int) -> None:
        """Acknowledge messages; the thread does it."""
        self._acknowledgements.append(count)
        self._waker.wake()

    def _use(self, connection: BrokerConnection, events: SourceEvents) -> None:
        self._acknowledgements.clear()
        consumer = Consumer(connection, self._acknowledgements, self._prefetch)
        self._pool.declare(connection)
        consumer.start(self._pool.queue, self._pool.arguments)
        events.connected()
        try:
            consumer.run(events, self._waker)
        except ClosingError:
            consumer.stop()
            raise
        finally:
            self._prefetch = consumer.next_prefetch
            if consumer.has_acknowledged:
                self._backoff.reset()
