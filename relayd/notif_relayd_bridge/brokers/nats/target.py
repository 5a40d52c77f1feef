# SPDX-License-Identifier: Apache-2.0
"""Sends messages to JetStream with nats-py, in a thread with an event loop.

A connection is never repaired, see `link`: a new one follows it, and the pipeline sends again what
is unconfirmed.

Each message has a reply subject with its number, and one subscription receives all replies, so that
many messages are on their way at the same time.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque

import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from notif_relay import Notification
from notif_relayd_bridge.brokers.address import Server
from notif_relayd_bridge.brokers.answers import Answers
from notif_relayd_bridge.brokers.backoff import Backoff
from notif_relayd_bridge.brokers.nats.link import Link, LinkThread, Lost, reason, shown
from notif_relayd_bridge.brokers.nats.settings import Settings, Stream
from notif_relayd_bridge.brokers.target import Events

MESSAGE_ID = "Nats-Msg-Id"
EXPECTED_STREAM = "Nats-Expected-Stream"
STATUS = "Status"

NO_RESPONDERS = "503"
"""Status of the server's reply if no stream has the subject."""

MESSAGE_EXCEEDS_MAXIMUM = 10054
"""Error code of JetStream: the message is larger than ``max_msg_size`` of the stream."""

MAX_MESSAGE_ID = 256
"""Maximum length of a message id that is sent as a header; UUIDs have 36 characters."""

MAX_ANSWER = 64 * 1024
"""Maximum size of an answer in bytes; those of JetStream have a few hundred."""

BURST = 64
"""Messages after which the event loop has the opportunity to write, and to read answers."""

_NUMBER = re.compile("[0-9]{1,18}")
_HEADERS_SIZE = len("NATS/1.0\r\n\r\n")
_HEADER_SIZE = len(": \r\n")


class NatsTarget:
    """The target for NATS; see `brokers.target.Target`."""

    def __init__(self, settings: Settings) -> None:
        self.max_unconfirmed = settings.max_unconfirmed
        self._settings = settings
        self._events: Events
        self._thread: LinkThread | None = None
        self._unsent: deque[Notification] = deque()
        self._wake = asyncio.Event()
        self._is_woken = False

    def start(self, events: Events) -> None:
        """Connect in the background."""
        self._events = events
        self._thread = LinkThread(self._settings, self._use, self._fail)

    def send(self, notification: Notification) -> None:
        """Send a message."""
        self._unsent.append(notification)
        if not self._is_woken and self._thread is not None:
            self._is_woken = True
            self._thread.call(self._wake.set)

    def close(self) -> None:
        """Disconnect and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def _fail(self, reason: str) -> None:
        self._events.failed(reason)
        # Messages that were sent before the report of the failure; they are sent again.
        self._unsent.clear()

    async def _use(self, link: Link, server: Server, backoff: Backoff) -> None:
        """Connect to a server, and send messages until the connection is lost.

        Raises:
            Lost: always.
        """
        connection = _Connection(self._settings, self._events, link, backoff)
        sending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await link.open(server, connection.prepare)
            sending = asyncio.ensure_future(self._send_all(connection))
            sending.add_done_callback(connection.on_sender_end)
            self._events.connected()
            raise Lost(await link.lost)
        finally:
            await connection.close()
            # The client swallows a cancellation while it waits for its buffer to be written.
            while not sending.done():
                sending.cancel()
                await asyncio.sleep(0)

    async def _send_all(self, connection: _Connection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._is_woken = False
            while self._unsent:
                for _ in range(min(BURST, len(self._unsent))):
                    await connection.publish(self._unsent.popleft())
                await asyncio.sleep(0)


class _Connection:
    """One connection and the messages that are sent over it.

    Args:
        settings: what is configured.
        events: is told of the answers.
        link: the connection itself.
        backoff: is reset at the end if messages were confirmed and none was rejected for now. A
            stream that is full again and again would otherwise cause many connections.
    """

    def __init__(self, settings: Settings, events: Events, link: Link, backoff: Backoff) -> None:
        self._settings = settings
        self._events = events
        self._link = link
        self._client = link.client
        self._backoff = backoff
        self._answers = Answers()
        self._reporting = False
        self._has_answered = False
        self._has_rejected = False
        self._inbox = ""
        self._watch: asyncio.TimerHandle | None = None
        self._answered_at = 0.0

    async def prepare(self) -> None:
        """Prepare for answers."""
        if self._settings.stream is not None and self._settings.stream.create:
            await self._create(self._settings.stream)
        self._inbox = self._client.new_inbox()
        await self._client.subscribe(f"{self._inbox}.*", cb=self._take)

    async def close(self) -> None:
        """Report the last answers and disconnect."""
        self._report()
        if self._has_answered and not self._has_rejected:
            self._backoff.reset()
        if self._watch is not None:
            self._watch.cancel()
        await self._link.close()

    def on_sender_end(self, sending: asyncio.Future[None]) -> None:
        """Lose the connection if the task that sends has failed."""
        if not sending.cancelled() and (error := sending.exception()) is not None:
            self._link.lose(reason(error))

    async def _create(self, stream: Stream) -> None:
        manager = self._client.jsm()
        try:
            await manager.stream_info(stream.name)
        except nats.js.errors.NotFoundError:
            await manager.add_stream(
                StreamConfig(
                    name=stream.name,
                    subjects=[stream.subjects],
                    max_bytes=stream.max_bytes,
                    max_age=stream.max_age,
                )
            )

    async def publish(self, notification: Notification) -> None:
        """Send a message, or refuse one that the server would refuse.

        Raises:
            nats.errors.Error: the connection is closed.
        """
        if not self._answers.unanswered:
            self._answered_at = asyncio.get_running_loop().time()
        number = self._answers.sent()
        headers = self._headers(notification)
        payload = notification.raw.rstrip(b"\n")
        # The server counts the headers, but the client does not, and disconnects for this.
        size = len(payload) + _HEADERS_SIZE
        for name, value in headers.items():
            size += len(name) + len(value) + _HEADER_SIZE
        if size > self._client.max_payload:
            maximum = self._client.max_payload
            self._answer(number, f"{size} bytes exceed max_payload of the server, {maximum}")
            return
        reply = f"{self._inbox}.{number}"
        subject = self._settings.subject(notification)
        await self._client.publish(subject, payload, reply, headers or None)
        if self._watch is None:
            self._watch_answers(self._settings.ack_timeout)

    def _headers(self, notification: Notification) -> dict[str, str]:
        headers = {}
        message_id = notification.message_id
        if _is_valid_id(message_id):
            headers[MESSAGE_ID] = message_id
        if self._settings.stream is not None:
            headers[EXPECTED_STREAM] = self._settings.stream.name
        return headers

    async def _take(self, message: Msg) -> None:
        number = message.subject[len(self._inbox) + 1 :]
        if not _NUMBER.fullmatch(number):
            return
        if (message.headers or {}).get(STATUS) == NO_RESPONDERS:
            self._link.lose("no stream has the subject: create one, or correct [nats] subject")
            return
        try:
            refusal = _refusal(message.data)
        except Lost as lost:
            self._has_rejected = True
            self._link.lose(str(lost))
            return
        self._answer(int(number), refusal)

    def _answer(self, number: int, refusal: str | None) -> None:
        self._answers.answer(number, refusal)
        if not self._reporting:
            self._reporting = True
            asyncio.get_running_loop().call_soon(self._report)

    def _report(self) -> None:
        """Report the answers that arrived together."""
        self._reporting = False
        if self._link.is_open and self._answers.report(self._events):
            self._has_answered = True
            self._answered_at = asyncio.get_running_loop().time()

    def _watch_answers(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(seconds, self._check_answers)

    def _check_answers(self) -> None:
        """Lose the connection if the oldest message has had no answer for too long.

        The server sends an answer only once. It is lost if the leader of the stream changes.
        """
        self._watch = None
        if not self._answers.unanswered:
            return
        timeout = self._settings.ack_timeout
        remaining = self._answered_at + timeout - asyncio.get_running_loop().time()
        if remaining > 0:
            self._watch_answers(remaining)
        else:
            self._link.lose(f"no confirmation within {timeout:g} seconds")


def _is_valid_id(message_id: str) -> bool:
    """Return whether a message id is sent, so that it cannot add headers, or become another one.

    The duplicates of a message without it stay.
    """
    return (
        0 < len(message_id) <= MAX_MESSAGE_ID
        and message_id.isascii()
        and message_id.isprintable()
        and message_id.strip() == message_id
    )


def _refusal(data: bytes) -> str | None:
    """Return why JetStream refuses a message; ``None`` if it has stored it.

    Raises:
        Lost: JetStream cannot store it now, or this is no answer of JetStream.
    """
    if len(data) > MAX_ANSWER:
        raise Lost(f"an answer has {len(data)} bytes: is the subject used for something else?")
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        error = answer.get("error")
        if isinstance(error, dict):
            text = shown(str(error.get("description")))
            if error.get("err_code") == MESSAGE_EXCEEDS_MAXIMUM:
                return f"{text} (max_msg_size of the stream)"
            raise Lost(f"JetStream: {text}")
        if isinstance(answer.get("stream"), str) and isinstance(answer.get("seq"), int):
            return None
    raise Lost("an answer is not of JetStream: is the subject used for something else?")
