# SPDX-License-Identifier: Apache-2.0
"""Sends messages to JetStream with nats-py, in a thread with an event loop.

The client's own way to reconnect keeps what is unsent and sends it again, in an order of its own.
Therefore a connection here is never repaired: a new one follows it, and the pipeline sends again
what is unconfirmed.

Each message has a reply subject with its number, and one subscription receives all replies, so that
many messages are on their way at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
from collections import deque

import nats.aio.client
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from notif_relay import Notification
from notif_relayd.escaping import printable
from notif_relayd_bridge.brokers.address import Server
from notif_relayd_bridge.brokers.answers import Answers
from notif_relayd_bridge.brokers.backoff import Backoff
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

MAX_REASON = 200
"""Length at which the text of an error is cut: the server chooses it."""

CLOSE_TIMEOUT = 1.0
"""Seconds to wait for the client to close. It closes at once, because nothing is flushed, except
after a failed TLS handshake."""

BURST = 64
"""Messages after which the event loop has the opportunity to write, and to read answers."""

_NUMBER = re.compile("[0-9]{1,18}")
_HEADERS_SIZE = len("NATS/1.0\r\n\r\n")
_HEADER_SIZE = len(": \r\n")


class _Lost(Exception):  # noqa: N818 (no error by itself)
    """The connection is of no use any more; the message is the reason."""


class _Client(nats.aio.client.Client):
    """The client, with what it lacks.

    Args:
        tls: whether to send nothing to a server without TLS. The client uses TLS only if the first
            line of the server, which is not encrypted, requires it.
    """

    def __init__(self, tls: bool) -> None:
        super().__init__()
        self._tls = tls

    def _connect_command(self) -> bytes:
        """Return the command that contains the credentials."""
        offered = self._server_info.get("tls_required") or self.options["tls_handshake_first"]
        if self._tls and not offered:
            raise nats.errors.Error("the server does not offer TLS")
        return super()._connect_command()

    def abort(self) -> None:
        """Close the connection at once. ``close`` waits until the server has read everything."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


class NatsTarget:
    """The target for NATS; see `brokers.target.Target`."""

    def __init__(self, settings: Settings) -> None:
        self.max_unconfirmed = settings.max_unconfirmed
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._main: asyncio.Task[None]
        self._unsent: deque[Notification] = deque()
        self._wake: asyncio.Event
        self._is_woken = False

    def start(self, events: Events) -> None:
        """Connect in the background."""
        ready = threading.Event()
        # A daemon thread, so that an error before close() does not keep the process.
        self._thread = threading.Thread(
            target=self._run, args=(events, ready), name="nats", daemon=True
        )
        self._thread.start()
        ready.wait()

    def send(self, notification: Notification) -> None:
        """Send a message."""
        self._unsent.append(notification)
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._wake.set)

    def close(self) -> None:
        """Disconnect and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(RuntimeError):  # the thread has ended
            self._loop.call_soon_threadsafe(self._main.cancel)
        thread.join(2 * CLOSE_TIMEOUT)

    def _run(self, events: Events, ready: threading.Event) -> None:
        # Not asyncio.run, which waits for a name to be resolved, however long that takes.
        self._loop = asyncio.new_event_loop()
        try:
            self._wake = asyncio.Event()
            self._main = self._loop.create_task(self._connect_repeatedly(events))
            ready.set()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._main)
            self._loop.run_until_complete(_end_tasks())
        finally:
            self._loop.close()

    async def _connect_repeatedly(self, events: Events) -> None:
        backoff = Backoff()
        servers = deque(self._settings.address.servers)
        while True:
            server = servers[0]
            servers.rotate(-1)
            connection = _Connection(self._settings, events, backoff)
            try:
                await self._use(connection, server)
            except _Lost as lost:
                events.failed(f"{server}: {lost}")
            # Messages that were sent before the report of the failure; they are sent again.
            self._unsent.clear()
            await asyncio.sleep(backoff.pause())

    async def _use(self, connection: _Connection, server: Server) -> None:
        """Connect to a server, and send messages until the connection is lost.

        Raises:
            _Lost: always.
        """
        sending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await connection.open(server)
            sending = asyncio.ensure_future(self._send_all(connection))
            sending.add_done_callback(connection.on_sender_end)
            connection.events.connected()
            raise _Lost(await connection.lost)
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


async def _end_tasks() -> None:
    """End the tasks that the client has left behind."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class _Connection:
    """One connection and the messages that are sent over it.

    Args:
        settings: what is configured.
        events: is told of the answers.
        backoff: is reset with each confirmation.
    """

    def __init__(self, settings: Settings, events: Events, backoff: Backoff) -> None:
        self.events = events
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._settings = settings
        self._backoff = backoff
        self._client = _Client(settings.tls)
        self._answers = Answers()
        self._reporting = False
        self._inbox = ""
        self._is_open = False
        self._watch: asyncio.TimerHandle | None = None
        self._answered_at = 0.0

    async def open(self, server: Server) -> None:
        """Connect and prepare for answers.

        Raises:
            _Lost: this is not possible.
        """
        timeout = self._settings.client["connect_timeout"]
        try:
            # The client limits each step, and not their sum.
            await asyncio.wait_for(self._connect(server), 4 * timeout)
            if self._settings.stream is not None and self._settings.stream.create:
                await self._create(self._settings.stream)
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._inbox}.*", cb=self._take)
        except asyncio.TimeoutError:
            raise _Lost(f"no answer within {timeout:g} seconds") from None
        except Exception as error:
            # Of any type: the client does not check the types of what the server sends.
            raise _Lost(_reason(error)) from error
        self._is_open = True

    async def _connect(self, server: Server) -> None:
        await self._client.connect(
            [f"nats://{server}"],
            allow_reconnect=False,
            error_cb=self._on_error,
            closed_cb=self._on_close,
            **self._settings.client,
        )

    async def close(self) -> None:
        """Report the last answers and disconnect, without waiting for the server."""
        self._report()
        self._is_open = False
        if self._watch is not None:
            self._watch.cancel()
        self._client.abort()
        # Of any type: after a failed attempt, the client lacks a part of what it closes.
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._client.close(), CLOSE_TIMEOUT)

    async def _on_error(self, error: Exception) -> None:
        if not self._is_open:
            # Raised again by connect(), which would otherwise attempt it for ever.
            raise error
        self._lose(_reason(error))

    async def _on_close(self) -> None:
        error = self._client.last_error
        self._lose("the server closed the connection" if error is None else _reason(error))

    def on_sender_end(self, sending: asyncio.Future[None]) -> None:
        """Lose the connection if the task that sends has failed."""
        if not sending.cancelled() and (error := sending.exception()) is not None:
            self._lose(_reason(error))

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

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
            self._lose("no stream has the subject: create one, or correct [nats] subject")
            return
        try:
            refusal = _refusal(message.data)
        except _Lost as lost:
            self._lose(str(lost))
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
        if self._is_open and self._answers.report(self.events):
            self._backoff.reset()
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
            self._lose(f"no confirmation within {timeout:g} seconds")


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
        _Lost: JetStream cannot store it now, or this is no answer of JetStream.
    """
    if len(data) > MAX_ANSWER:
        raise _Lost(f"an answer has {len(data)} bytes: is the subject used for something else?")
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        error = answer.get("error")
        if isinstance(error, dict):
            text = _printable(str(error.get("description")))
            if error.get("err_code") == MESSAGE_EXCEEDS_MAXIMUM:
                return f"{text} (max_msg_size of the stream)"
            raise _Lost(f"JetStream: {text}")
        if isinstance(answer.get("stream"), str) and isinstance(answer.get("seq"), int):
            return None
    raise _Lost("an answer is not of JetStream: is the subject used for something else?")


def _reason(error: BaseException) -> str:
    if isinstance(error, nats.js.errors.APIError):
        if isinstance(error, nats.js.errors.ServiceUnavailableError):
            return "JetStream is not available: enable it in the server's configuration"
        return f"JetStream: {_printable(str(error.description))}"
    if isinstance(error, asyncio.TimeoutError):  # its text is empty
        return "no answer in time"
    return _printable(str(error) or type(error).__name__)


def _printable(text: str) -> str:
    return printable(text[:MAX_REASON])
