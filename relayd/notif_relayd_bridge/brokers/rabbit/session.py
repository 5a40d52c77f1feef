# SPDX-License-Identifier: Apache-2.0
"""Publishes on one connection to the broker, and notes what becomes of the messages.

Messages are published with many unconfirmed. Some errors concern a single message, but the broker
does not always say which: it closes the channel, with everything that follows on it. The pipeline
then sends the unconfirmed messages again, and they are published one at a time until the one in
question is found. Only that one is refused.

If the broker rejects a message for now, such as for a full queue, the connection ends as well, and
the message is sent alone after each pause. Otherwise, messages that follow it would overtake it
when the queue has room, or, if they are for other queues, arrive once more with each attempt.

An error in a topic that a record names also concerns only this record: any local producer can name
any topic. An error in the topic of the configuration, or in the exchange, is one of the
configuration. It ends the connection and is reported until it has been corrected.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from amqp import AccessRefused, ChannelError, PreconditionFailed, spec
from amqp.exceptions import ContentTooLarge
from amqp.serialization import dumps

from notif_relay import Notification
from notif_relay.messaging.envelope import DEFAULT_TOPIC
from notif_relayd.escaping import printable
from notif_relayd_bridge.brokers.rabbit.connection import BrokerConnection, BrokerError, Waker
from notif_relayd_bridge.brokers.rabbit.driver import Driver
from notif_relayd_bridge.brokers.rabbit.ledger import Ledger, Record, UnexpectedConfirmationError
from notif_relayd_bridge.brokers.rabbit.message import (
    Address,
    Body,
    UnsendableRecordError,
    contents,
)
from notif_relayd_bridge.brokers.target import Events

LOG = logging.getLogger(__name__)

MAX_QUEUES = 256
"""Maximum number of queues for topics that records name, while the bridge runs. A producer could
otherwise create any number of queues in the broker."""

_MAX_UNSENT = 64 * 1024
"""Bytes in the output buffer from which no message is added."""

_METHOD = 1
"""Type of the frame in which a message begins."""

_OF_QUEUES = (spec.Queue.Declare, spec.Queue.Bind)
"""Methods whose failure concerns one queue."""

_PERSISTENT = 2
"""Delivery mode of the driver's messages."""


class _UnroutableError(BrokerError):
    """The broker has returned a message."""


class _RejectedError(BrokerError):
    """The broker has rejected a message that it may accept later."""


@dataclass(slots=True)
class Memory:
    """What the target remembers from one connection to the next."""

    queue: deque[Notification] = field(default_factory=deque)
    """Messages to publish."""
    cautious: int = 0
    """Number of messages to publish one at a time, to find the one that closed the channel."""
    queues: set[str] = field(default_factory=set)
    """Queues that were declared for topics that records name."""
    reported: set[str] = field(default_factory=set)
    """Queues that exist with other properties, which has been logged."""


class Session:
    """One connection to the broker.

    Args:
        driver: declares queues.
        connection: the connection.
        memory: what outlasts it.
    """

    def __init__(self, driver: Driver, connection: BrokerConnection, memory: Memory) -> None:
        self._driver = driver
        self._connection = connection
        self._memory = memory
        self._ledger = Ledger()
        self._declared: dict[str, bytes] = {}
        """Arguments for publishing by the names of the queues."""
        self._was_blocked = False
        self.has_answered = False
        """Whether any message was confirmed or refused."""
        self.is_rejected = False
        """Whether the broker has rejected a message for now."""
        self._channel = connection.channel()
        # A failed declaration closes its channel, so it has one of its own.
        self._declaring = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._confirm)
        self._channel.events["basic_nack"].add(self._nack)
        self._channel.events["basic_return"].add(self._return)

    def run(self, events: Events, waker: Waker) -> None:
        """Publish the messages of the queue and report what becomes of them.

        Raises:
            One of `FAILURES`: the connection cannot be used any longer.
            ClosingError: the target is being closed.
        """
        connection = self._connection
        try:
            while True:
                self._publish()
                connection.flush()
                self._report(events)
                waker.is_armed = True
                if waker.is_closing or not self._can_publish():
                    connection.wait_for_event()
                waker.is_armed = False
                self._process_input()
        except (ChannelError, _UnroutableError, _RejectedError):
            # A message that was being published is not in the ledger.
            self._memory.cautious = len(self._ledger) + 1
            raise

    def _can_publish(self) -> bool:
        return (
            bool(self._memory.queue)
            and not self._connection.is_blocked
            and self._connection.unsent < _MAX_UNSENT
            and not (self._memory.cautious and self._ledger)
        )

    def _publish(self) -> None:
        queue = self._memory.queue
        while self._can_publish():
            try:
                self._publish_one(queue[0].raw)
            except UnsendableRecordError as error:
                self._ledger.add_refused(str(error))
            queue.popleft()

    def _publish_one(self, record: bytes) -> None:
        found = contents(record, DEFAULT_TOPIC)
        # All of them first: either all messages of a record are published, or none.
        bodies = [found.body(self._driver.kombu_compression) for _ in found.addresses]
        for address in found.addresses:
            if address.routing_key not in self._declared:
                self._declare(address)
        for address, body in zip(found.addresses, bodies, strict=True):
            self._send(address.routing_key, body)
        self._ledger.add(len(bodies), found.addresses[0].from_record)

    def _send(self, key: str, body: Body) -> None:
        message = self._channel.prepare_message(
            body.data,
            priority=0,
            content_type=body.content_type,
            content_encoding=body.content_encoding,
            headers=body.headers,
            properties={"delivery_mode": _PERSISTENT},
        )
        # As `Channel.send_method`, but with arguments that are encoded once for each queue.
        self._connection.frame_writer(
            _METHOD, self._channel.channel_id, spec.Basic.Publish, self._declared[key], message
        )

    def _declare(self, address: Address) -> None:
        """Declare the queue of a message.

        Raises:
            UnsendableRecordError: there can be no such queue.
        """
        name, queues = address.routing_key, self._memory.queues
        if address.from_record and name not in queues:
            if len(queues) >= MAX_QUEUES:
                raise UnsendableRecordError(f"records have named {MAX_QUEUES} other topics")
            queues.add(name)
        try:
            self._declare_or_bind(name)
        except ChannelError as error:
            if not address.from_record or error.method_sig not in _OF_QUEUES:
                raise
            raise UnsendableRecordError(f"queue {printable(name)}: {_text(error)}") from error
        # Mandatory: without a queue for it, the message comes back.
        arguments = (0, self._driver.exchange, name, True, False)
        self._declared[name] = dumps("Bssbb", arguments)

    def _declare_or_bind(self, name: str) -> None:
        """Declare a queue; if it exists with other properties than the options say, bind it."""
        try:
            self._driver.declare(self._declaring, name)
        except PreconditionFailed as error:
            if error.method_sig != spec.Queue.Declare:
                raise
            if name not in self._memory.reported:
                self._memory.reported.add(name)
                LOG.warning(
                    "queue %s exists with other properties and is used as is: %s",
                    name,
                    _text(error),
                )
            self._declaring.queue_bind(name, self._driver.exchange, name)

    def _process_input(self) -> None:
        try:
            self._connection.process_input()
        except ChannelError as error:
            record = self._ledger.single()
            if record is None or not _is_final(error, record):
                raise
            record.refuse(_text(error))
            self._ledger.restart()
            # py-amqp has opened the channel again.
            self._channel.confirm_select()
        if self._was_blocked != self._connection.is_blocked:
            self._was_blocked = self._connection.is_blocked
            if self._was_blocked:
                LOG.warning("the broker accepts no messages: it is short of memory or disk space")
            else:
                LOG.info("the broker accepts messages again")

    def _report(self, events: Events) -> None:
        before = len(self._ledger)
        if self._ledger.report(events):
            self.has_answered = True
            answered = before - len(self._ledger)
            self._memory.cautious = max(self._memory.cautious - answered, 0)

    def _confirm(self, number: int, multiple: bool) -> None:
        try:
            self._ledger.confirm(number, multiple)
        except UnexpectedConfirmationError as error:
            raise BrokerError(str(error)) from error

    def _nack(self, *_: Any) -> None:
        # The queue is full, or a node of the cluster has failed.
        self.is_rejected = True
        raise _RejectedError("the broker has rejected a message that it may accept later")

    def _return(self, _: Any, __: str, routing_key: str, ___: Any) -> None:
        """Note that a message has no queue; the broker confirms it after this."""
        name = printable(routing_key)
        record = self._ledger.single()
        if self._memory.cautious and record is not None:
            record.refuse(f"exchange {self._driver.exchange} has no queue for {name}")
        else:
            raise _UnroutableError(f"queue {name} has been deleted; it is declared again")


def _is_final(error: ChannelError, record: Record) -> bool:
    """Return whether the broker will never accept the record."""
    if error.method_sig != spec.Basic.Publish:
        return False
    if isinstance(error, AccessRefused):
        return record.names_topic
    return isinstance(error, (ContentTooLarge, PreconditionFailed))


def _text(error: ChannelError) -> str:
    return printable(error.reply_text or type(error).__name__)[:200]
