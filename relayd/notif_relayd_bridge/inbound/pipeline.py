# SPDX-License-Identifier: Apache-2.0
"""Keeps the messages between a broker and the relay, and decides which are acknowledged.

A message is acknowledged when the relay has read its record from the socket. It is kept until then,
so nothing is dropped while the relay is slow or not available: the broker delivers no more than a
limited number of unacknowledged messages. If the connection to the relay ends, the records that it
has not read, and one that was partly written, are written to the next connection. If the connection
to the broker fails, the unacknowledged messages are forgotten, because the broker delivers them
again.

A gap record takes the place of messages that are no notifications, one for consecutive ones.

The pipeline knows no sockets, threads or brokers.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from notif_relay.warning_limit import WarningLimit
from notif_relayd.escaping import printable
from notif_relayd_bridge.inbound.record import UnreadableRecordError, lost, prepare

LOG = logging.getLogger(__name__)

MAX_CHUNK = 64 * 1024
"""Bytes that are written to the relay at once; a single record may exceed it."""

MAX_LOGGED = 200
"""Maximum number of characters of a reason in the log."""


class Acknowledger(Protocol):
    """The part of a source that the pipeline uses."""

    def acknowledge(self, count: int) -> None:
        """Acknowledge the oldest messages."""


@dataclass(slots=True)
class Counters:
    """What a pipeline has done since its start."""

    confirmed: int = 0
    """Messages that the relay has read, and that were acknowledged."""
    repeated: int = 0
    """Messages that were unacknowledged when the connection failed; the broker delivers them again.
    """
    refused: int = 0
    """Messages that are no notifications that the relay accepts."""


@dataclass(slots=True)
class _Item:
    """What is written to the relay for one message or several."""

    data: bytes
    messages: int
    """Number of messages to acknowledge; 0 if the broker delivers them again."""
    is_loss: bool = False
    """Whether it is the gap record for unreadable messages."""


class Pipeline:
    """The messages between a broker and the relay.

    Args:
        name: the name of the bridge.
        max_record_size: maximum size of a record of the relay, in bytes.
        source: acknowledges messages.
        clock: returns the time in seconds, which does not go back.
    """

    def __init__(
        self,
        name: str,
        max_record_size: int,
        source: Acknowledger,
        clock: Callable[[], float],
    ) -> None:
        self.counters = Counters()
        self.connected = False
        """Whether the source is connected."""
        self.failed = False
        """Whether the source has failed and has not been connected since."""
        self.unacknowledged = 0
        """Number of messages that the relay has not read."""
        self._name = name
        self._max_record_size = max_record_size
        self._source = source
        self._warning_limit = WarningLimit(clock)
        self._waiting: deque[_Item] = deque()
        """What is not written completely."""
        self._offset = 0
        """Number of bytes of the first item of ``_waiting`` that the socket has taken."""
        self._written: deque[_Item] = deque()
        """What is written, and may not be read."""

    @property
    def idle(self) -> bool:
        """Whether nothing is to be written or read."""
        return not (self._waiting or self._written)

    @property
    def unwritten(self) -> bool:
        """Whether anything is to be written."""
        return bool(self._waiting)

    @property
    def unread(self) -> bool:
        """Whether the relay may not have read everything that was written."""
        return bool(self._written) or self._offset > 0

    def report(self) -> dict[str, object]:
        """Return the figures for the status of the bridge; any thread may call this."""
        waiting = len(self._waiting)
        return {
            "connected": self.connected,
            **asdict(self.counters),
            "skipped": 0,
            "spooled": 0,
            "unconfirmed": max(self.unacknowledged - waiting, 0),
            "waiting": waiting,
            "spool": None,
        }

    def connect(self) -> None:
        """Note that the source is connected."""
        LOG.info("connected to the broker")
        self.connected = True
        self.failed = False

    def receive(self, record: bytes) -> None:
        """Take a message of the broker."""
        try:
            data = prepare(record, self._name, self._max_record_size)
        except UnreadableRecordError as error:
            self.refuse(f"{len(record)} bytes, {error}")
        else:
            self.unacknowledged += 1
            self._waiting.append(_Item(data, 1))

    def refuse(self, reason: str) -> None:
        """Take a message that is no notification.

        Args:
            reason: why, for the log.
        """
        self.unacknowledged += 1
        self.counters.refused += 1
        if self._warning_limit.allows():
            LOG.warning(
                "%d messages of the broker are no notifications that the relay accepts; the last "
                "one: %s",
                self.counters.refused,
                printable(reason[:MAX_LOGGED]),
            )
        messages = 1
        if self._waiting and self._waiting[-1].is_loss and not self._is_begun(self._waiting[-1]):
            messages += self._waiting.pop().messages
        self._waiting.append(_Item(lost(messages, self._name), messages, is_loss=True))

    def fail(self, reason: str) -> None:
        """Note that the connection to the broker is lost.

        Args:
            reason: why, for the log, which contains the first of several failures.
        """
        if not self.failed:
            LOG.warning("waiting for the broker: %s", printable(reason[:MAX_LOGGED]))
        self.connected = False
        self.failed = True
        self.counters.repeated += self.unacknowledged
        self.unacknowledged = 0
        self._written.clear()
        # The relay has a part of the first record, so it is completed.
        begun = [each for each in self._waiting if self._is_begun(each)]
        for each in begun:
            each.messages = 0
        self._waiting = deque(begun)

    def chunk(self) -> bytes:
        """Return what is to be written next; nothing if there is nothing."""
        size = -self._offset
        taken: list[bytes] = []
        for item in self._waiting:
            if taken and size + len(item.data) > MAX_CHUNK:
                break
            taken.append(item.data)
            size += len(item.data)
        return b"".join(taken)[self._offset :]

    def write(self, size: int) -> None:
        """Note that the relay's socket has taken the first bytes of ``chunk``.

        Args:
            size: number of bytes.
        """
        self._offset += size
        while self._waiting and self._offset >= len(self._waiting[0].data):
            item = self._waiting.popleft()
            self._offset -= len(item.data)
            self._written.append(item)

    def read(self) -> None:
        """Note that the relay has read everything that was written."""
        messages = sum(each.messages for each in self._written)
        self._written.clear()
        if messages:
            self.unacknowledged -= messages
            self.counters.confirmed += messages
            self._source.acknowledge(messages)

    def restart(self) -> None:
        """Note that the connection to the relay has ended: write again what may not be read."""
        again = [each for each in (*self._written, *self._waiting) if each.messages]
        self._written.clear()
        self._waiting = deque(again)
        self._offset = 0

    def _is_begun(self, item: _Item) -> bool:
        return self._offset > 0 and item is self._waiting[0]
