# SPDX-License-Identifier: Apache-2.0
"""Reads messages of JetStream with nats-py, in a thread with an event loop.

The bridge requests messages from a durable consumer, at most as many and as much as it has room
for. The client's own ``fetch`` limits only their number, and waits for one request at a time.

The server delivers a message again if it has not heard of it for ``ack_wait``. While the relay is
slow, the bridge therefore reports that its messages are in progress. After a failure of the
connection or of the bridge, the server would deliver newer messages first. Therefore a new
connection waits for ``ack_wait`` if messages are outstanding: then they come first. The server
delivers them in the order in which it has noticed that they are to be delivered again, so they are
collected and sorted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from nats.aio.msg import Msg

from notif_relay.messaging.envelope import DEFAULT_TOPIC
from notif_relayd_bridge.brokers.address import Server
from notif_relayd_bridge.brokers.backoff import Backoff
from notif_relayd_bridge.brokers.envelope import UnreadableMessageError, to_record
from notif_relayd_bridge.brokers.nats.consumer import DurableConsumer, prepare
from notif_relayd_bridge.brokers.nats.link import Link, LinkThread, Lost, reason, shown
from notif_relayd_bridge.brokers.nats.source_settings import SourceSettings
from notif_relayd_bridge.brokers.source import MAX_UNACKNOWLEDGED_BYTES, SourceEvents

ACK_PREFIX = "$JS.ACK."
"""Start of the reply subject of a message of a stream; answers to requests have none."""

ACK = b"+ACK"
IN_PROGRESS = b"+WPI"

MAX_REQUESTS = 2
"""Number of requests for messages that are open at the same time, so that none is waited for."""

OVERHEAD = 64 * 1024
"""Bytes of a message that the server counts beyond its content: subjects and headers."""

REQUEST_TIMEOUT = 300.0
"""Seconds after which the server ends a request, and the bridge makes another one."""

HEARTBEAT_INTERVAL = 30.0
"""Interval, in seconds, in which the server reports that a request is still open."""

MAX_SILENCE = 75.0
"""Seconds without a message or heartbeat after which the connection is given up."""

REDELIVERY_MARGIN = 0.2
"""Seconds beyond ``ack_wait`` until the server has noticed that it is over."""

FLUSH_TIMEOUT = 0.5
"""Seconds to wait at the end until the server has read the acknowledgements."""

BURST = 64
"""Messages to the server after which the event loop has the opportunity to read and write."""

_NANOSECONDS = 1_000_000_000


class NatsSource:
    """The source for NATS; see `brokers.source.Source`."""

    def __init__(self, settings: SourceSettings) -> None:
        self.max_unacknowledged = settings.max_unacknowledged
        self._settings = settings
        self._events: SourceEvents
        self._thread: LinkThread | None = None
        self._connection: _Connection | None = None

    def start(self, events: SourceEvents) -> None:
        """Connect in the background."""
        self._events = events
        self._thread = LinkThread(self._settings, self._use, events.failed)

    def acknowledge(self, count: int) -> None:
        """Note what the relay has taken."""
        thread = self._thread
        if thread is not None:
            thread.call(self._acknowledge, count)

    def close(self) -> None:
        """Send the acknowledgements, disconnect and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def _acknowledge(self, count: int) -> None:
        if self._connection is not None:
            self._connection.acknowledge(count)

    async def _use(self, link: Link, server: Server, backoff: Backoff) -> None:
        """Connect to a server, and report messages until the connection is lost.

        Raises:
            Lost: always.
        """
        connection = _Connection(self._settings, self._events, link, backoff)
        try:
            await link.open(server, connection.prepare)
            self._connection = connection
            connection.start()
            raise Lost(await link.lost)
        finally:
            self._connection = None
            await connection.close()


@dataclass(slots=True)
class _Message:
    """A message that is not acknowledged."""

    reply: str
    size: int
    heard_at: float
    """When the server was told of it last."""


@dataclass(slots=True)
class _Request:
    """A request for messages that the server has not fulfilled."""

    number: int
    messages: int
    """Number of messages that are still to come."""
    size: int
    """Maximum size of the messages."""
    is_used: bool = False


class _Connection:
    """One connection and the messages that are read over it.

    Args:
        settings: what is configured.
        events: is told of the messages.
        link: the connection itself.
        backoff: is reset with each acknowledgement.
    """

    def __init__(
        self, settings: SourceSettings, events: SourceEvents, link: Link, backoff: Backoff
    ) -> None:
        self._settings = settings
        self._events = events
        self._link = link
        self._client = link.client
        self._backoff = backoff
        self._loop = asyncio.get_running_loop()
        self._consumer: DurableConsumer
        self._inbox = ""
        self._messages: dict[int, _Message] = {}
        """By their number in the stream, in the order of their arrival."""
        self._size = 0
        self._finished: OrderedDict[int, None] = OrderedDict()
        """The last acknowledged ones, at most as many as can be unacknowledged."""
        self._outstanding: dict[int, Msg] | None = None
        """Messages that are delivered again, by their number, until all have arrived."""
        self._requests: deque[_Request] = deque()
        self._last_request = 0
        self._is_delivering = False
        self._is_large = False
        self._heard_at = 0.0
        self._unsent: deque[tuple[str, bytes, str]] = deque()
        self._wake = asyncio.Event()
        self._timers: list[asyncio.TimerHandle] = []
        self._is_reporting = False
        self._sending: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Create the consumer, and prepare for messages."""
        self._consumer = await prepare(self._client.jsm(), self._settings)
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._take)

    def start(self) -> None:
        """Request messages, now or when those that are outstanding come first."""
        self._sending = asyncio.create_task(self._send_all())
        self._sending.add_done_callback(self._on_sender_end)
        if self._consumer.pending:
            self._outstanding = {}
            self._later(self._settings.ack_wait + REDELIVERY_MARGIN, self._deliver)
        else:
            self._deliver()

    def _deliver(self) -> None:
        self._is_delivering = True
        self._events.connected()
        self._heard_at = self._loop.time()
        self._request()
        self._check_silence()
        if self._outstanding is not None:
            self._later(REDELIVERY_MARGIN, self._check_outstanding)

    async def close(self) -> None:
        """Send the last acknowledgements and disconnect."""
        self._is_delivering = False
        for timer in self._timers:
            timer.cancel()
        sending = self._sending
        if sending is not None:
            # Of any type: the connection may be lost.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._flush(), FLUSH_TIMEOUT)
        await self._link.close()
        # The client swallows a cancellation while it waits for its buffer to be written.
        while sending is not None and not sending.done():
            sending.cancel()
            await asyncio.sleep(0)

    async def _flush(self) -> None:
        while self._unsent:
            await self._send(self._unsent.popleft())
        await self._client.flush()

    def _later(self, seconds: float, function: Callable[[], None]) -> None:
        now = self._loop.time()
        self._timers = [each for each in self._timers if each.when() > now]
        self._timers.append(self._loop.call_later(seconds, function))

    async def _take(self, message: Msg) -> None:
        """Take a message of the stream, or an answer to a request."""
        self._heard_at = self._loop.time()
        if not self._is_delivering:
            return
        if message.reply.startswith(ACK_PREFIX):
            self._receive(message)
        else:
            self._take_answer(message)
        self._request()

    def _receive(self, message: Msg) -> None:
        self._count()
        outstanding = self._outstanding
        if outstanding is None:
            self._report(message)
            return
        is_new = _deliveries(message.reply) == 1
        if not is_new:
            outstanding[_sequence(message.reply)] = message
        # Another bridge of the pool may have some of them.
        if is_new or not self._requests or len(outstanding) >= self._consumer.pending:
            self._report_outstanding()
        if is_new:
            self._report(message)

    def _check_outstanding(self) -> None:
        """Do not wait for further outstanding messages if none has arrived for some time."""
        if self._outstanding is None:
            return
        if self._loop.time() >= self._heard_at + REDELIVERY_MARGIN:
            self._report_outstanding()
        else:
            self._later(REDELIVERY_MARGIN, self._check_outstanding)

    def _report_outstanding(self) -> None:
        outstanding, self._outstanding = self._outstanding or {}, None
        for number in sorted(outstanding):
            self._report(outstanding[number])

    def _report(self, message: Msg) -> None:
        number = _sequence(message.reply)
        held = self._messages.get(number)
        if held is not None:
            # Delivered again, because the server has not heard of it in time.
            held.reply = message.reply
            held.heard_at = self._heard_at
            return
        if number in self._finished:  # Likewise, and the acknowledgement was on its way.
            self._put(message.reply, ACK)
            return
        size = len(message.data)
        self._messages[number] = _Message(message.reply, size, self._heard_at)
        self._size += size
        if not self._is_reporting:
            self._is_reporting = True
            self._later(self._settings.ack_wait / 3, self._report_progress)
        try:
            record = to_record(message.data, DEFAULT_TOPIC)
        except UnreadableMessageError as unreadable:
            self._events.unreadable(str(unreadable))
        else:
            self._events.received(record)

    def _count(self) -> None:
        """Count a message as part of the oldest request."""
        if self._requests:
            request = self._requests[0]
            request.is_used = True
            request.messages -= 1
            if request.messages <= 0:
                self._requests.popleft()

    def _take_answer(self, message: Msg) -> None:
        headers = message.headers or {}
        status, text = headers.get("Status"), headers.get("Description", "")
        if status == "100":  # A heartbeat.
            return
        ended = [each for each in self._requests if message.subject == self._subject(each)]
        for request in ended:
            self._requests.remove(request)
            self._is_large = text.startswith("Message Size") and not request.is_used
        if status == "503":
            self._link.lose("JetStream does not answer: does the consumer still exist?")
        elif status == "409" and not text.startswith(("Message Size", "Batch Completed")):
            self._link.lose(f"JetStream: {shown(text)}")

    def _subject(self, request: _Request) -> str:
        return f"{self._inbox}.{request.number}"

    def _request(self) -> None:
        """Request messages if there is room for them."""
        maximum = self._settings.max_unacknowledged
        batch = max(1, maximum // MAX_REQUESTS)
        size = max(MAX_UNACKNOWLEDGED_BYTES // MAX_REQUESTS, self._client.max_payload + OVERHEAD)
        outstanding = (self._outstanding or {}).values()
        messages = len(self._messages) + len(outstanding)
        messages += sum(each.messages for each in self._requests)
        total = self._size + sum(len(each.data) for each in outstanding)
        total += sum(each.size for each in self._requests)
        while (
            len(self._requests) < MAX_REQUESTS
            and messages + batch <= maximum
            and total + size <= MAX_REQUESTS * size
        ):
            self._last_request += 1
            request = _Request(self._last_request, 1 if self._is_large else batch, size)
            self._requests.append(request)
            self._put(self._next_subject(), self._body(request), self._subject(request))
            messages += request.messages
            total += size
            self._is_large = False

    def _next_subject(self) -> str:
        return f"$JS.API.CONSUMER.MSG.NEXT.{self._consumer.stream}.{self._consumer.name}"

    def _body(self, request: _Request) -> bytes:
        fields = {
            "batch": request.messages,
            "expires": int(REQUEST_TIMEOUT * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_INTERVAL * _NANOSECONDS),
        }
        if not self._is_large:  # A larger message than the server accepts now.
            fields["max_bytes"] = request.size
        return json.dumps(fields).encode()

    def acknowledge(self, count: int) -> None:
        """Acknowledge the oldest messages."""
        for number in [*itertools.islice(self._messages, count)]:
            message = self._messages.pop(number)
            self._size -= message.size
            self._finished[number] = None
            self._put(message.reply, ACK)
        while len(self._finished) > self._settings.max_unacknowledged:
            self._finished.popitem(last=False)
        self._backoff.reset()
        self._request()

    def _report_progress(self) -> None:
        """Report the messages in progress of which the server has not heard for some time."""
        self._is_reporting = bool(self._messages)
        if not self._is_reporting:
            return
        interval = self._settings.ack_wait / 3
        now = self._loop.time()
        for message in self._messages.values():
            if message.heard_at <= now - interval / 2:
                message.heard_at = now
                self._put(message.reply, IN_PROGRESS)
        self._later(interval, self._report_progress)

    def _check_silence(self) -> None:
        """Lose the connection if the server does not report that a request is open."""
        if self._requests and self._loop.time() > self._heard_at + MAX_SILENCE:
            self._link.lose(f"no message and no heartbeat within {MAX_SILENCE:g} seconds")
        self._later(MAX_SILENCE, self._check_silence)

    def _put(self, subject: str, data: bytes, reply: str = "") -> None:
        self._unsent.append((subject, data, reply))
        self._wake.set()

    async def _send_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._unsent:
                for _ in range(min(BURST, len(self._unsent))):
                    await self._send(self._unsent.popleft())
                await asyncio.sleep(0)

    async def _send(self, entry: tuple[str, bytes, str]) -> None:
        subject, data, reply = entry
        await self._client.publish(subject, data, reply)

    def _on_sender_end(self, sending: asyncio.Task[None]) -> None:
        if not sending.cancelled() and (error := sending.exception()) is not None:
            self._link.lose(reason(error))


def _deliveries(reply: str) -> int:
    """Return how many times a message was delivered; for the argument, see `_sequence`."""
    tokens = reply.split(".")
    return int(tokens[4] if len(tokens) == 9 else tokens[6])  # noqa: PLR2004


def _sequence(reply: str) -> int:
    """Return the number of a message in its stream.

    Args:
        reply: ``$JS.ACK.``, in newer formats domain and account, and then stream, consumer, number
            of deliveries, this number, and others.
    """
    tokens = reply.split(".")
    return int(tokens[5] if len(tokens) == 9 else tokens[7])  # noqa: PLR2004
