# SPDX-License-Identifier: Apache-2.0
"""Consumes a queue on one connection to the broker."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from amqp import ConsumerCancelled

from notif_relayd_bridge.brokers.envelope import UnreadableMessageError
from notif_relayd_bridge.brokers.rabbit.connection import BrokerConnection, BrokerError, Waker
from notif_relayd_bridge.brokers.rabbit.deliveries import Deliveries, Delivery
from notif_relayd_bridge.brokers.rabbit.notification import to_record
from notif_relayd_bridge.brokers.source import (
    MAX_MESSAGE_SIZE,
    MAX_UNACKNOWLEDGED_BYTES,
    SourceEvents,
)

MAX_UNACKNOWLEDGED = 1000
"""Maximum number of messages that the broker delivers without an acknowledgement (prefetch)."""

MAX_REPORT_TIME = 0.2
"""Time in seconds after which messages are acknowledged, and a heartbeat is sent if it is due.
Masking takes some seconds for each MiB of a message that consists of names of secrets."""


class Consumer:
    """The consumer of one connection.

    Args:
        connection: the connection.
        acknowledgements: numbers of messages to acknowledge; another thread appends to it.
        prefetch: maximum number of unacknowledged messages.
    """

    def __init__(
        self, connection: BrokerConnection, acknowledgements: deque[int], prefetch: int
    ) -> None:
        self.has_acknowledged = False
        """Whether any message was acknowledged."""
        self._connection = connection
        self._prefetch = prefetch
        self._acknowledgements = acknowledgements
        self._channel = connection.channel()
        self._deliveries = Deliveries(self._receive, MAX_MESSAGE_SIZE)
        self._unreported: deque[Delivery] = deque()
        self._unreported_size = 0
        self._received = self._acknowledged = 0
        """Number of the last message."""
        self._sizes: deque[int] = deque()
        """Sizes of the records that are reported and unacknowledged."""
        self._size = 0

    @property
    def next_prefetch(self) -> int:
        """Number of messages for the next connection.

        RabbitMQ closes a connection on which nothing is read for 15 seconds (``send_timeout``). It
        must not send more large messages than fit in memory a second time.
        """
        received = len(self._sizes) + len(self._unreported)
        return received if self._connection.is_paused else MAX_UNACKNOWLEDGED

    def start(self, queue: str, arguments: dict[str, Any]) -> None:
        """Ask the broker for the messages of a queue.

        Raises:
            One of `FAILURES`, or ClosingError.
        """
        self._connection.deliveries = (self._channel.channel_id, self._deliveries)
        self._channel.basic_qos(0, self._prefetch, False)
        self._channel.basic_consume(queue, arguments=arguments)

    def run(self, events: SourceEvents, waker: Waker) -> None:
        """Report messages and acknowledge them.

        Raises:
            One of `FAILURES`: the connection cannot be used any longer.
            ClosingError: the source is being closed.
        """
        connection = self._connection
        while True:
            self._process_input()
            self._report(events)
            was_paused = connection.is_paused
            self._acknowledge()
            if self._unreported and not self._is_full:
                connection.keep_alive()
                continue
            if was_paused and not connection.is_paused:
                continue  # Messages may have been read from the network already.
            waker.is_armed = True
            if waker.is_closing or not self._acknowledgements:
                connection.wait_for_event()
            waker.is_armed = False

    def stop(self) -> None:
        """Send the acknowledgements; further messages are ignored."""
        self._deliveries.max_size = -1
        self._connection.is_paused = False
        self._acknowledge()

    def _process_input(self) -> None:
        try:
            self._connection.process_input()
        except ConsumerCancelled as error:  # Its text is only the name of the consumer.
            raise BrokerError("the queue has been deleted, or has another leader") from error

    def _receive(self, delivery: Delivery) -> None:
        self._received += 1
        if delivery.number != self._received:
            raise BrokerError("the broker has skipped a message")
        self._unreported.append(delivery)
        self._unreported_size += len(delivery.body)
        self._pause_if_full()

    def _report(self, events: SourceEvents) -> None:
        """Report messages for a limited time; one message more may exceed it.

        The record of a compressed message may be much larger, and takes its place in memory.
        """
        deadline = time.monotonic() + MAX_REPORT_TIME
        while self._unreported and not self._is_full and time.monotonic() < deadline:
            delivery = self._unreported.popleft()
            self._unreported_size -= len(delivery.body)
            size = 0
            try:
                record = to_record(delivery)
            except UnreadableMessageError as error:
                events.unreadable(str(error))
            else:
                events.received(record)
                size = len(record)
            self._sizes.append(size)
            self._size += size
        self._pause_if_full()

    @property
    def _is_full(self) -> bool:
        """Whether no message can be reported until others are acknowledged."""
        return self._size >= MAX_UNACKNOWLEDGED_BYTES

    def _pause_if_full(self) -> None:
        size = self._size + self._unreported_size
        self._connection.is_paused = size >= MAX_UNACKNOWLEDGED_BYTES

    def _acknowledge(self) -> None:
        before = self._acknowledged
        while self._acknowledgements:
            self._acknowledged += self._acknowledgements.popleft()
        if self._acknowledged == before:
            return
        for _ in range(self._acknowledged - before):
            self._size -= self._sizes.popleft()
        self._pause_if_full()
        self._channel.basic_ack(self._acknowledged, multiple=True)
        self.has_acknowledged = True
