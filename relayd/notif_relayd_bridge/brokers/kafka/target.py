# SPDX-License-Identifier: Apache-2.0
"""Sends messages to Kafka with confluent-kafka, in a thread that handles the delivery reports.

The client connects again by itself, and repeats requests without duplicates. A session here ends
only when the client gives a message up. The next one has a new producer, since a failed one may be
of no further use; messages that the client still has are purged first, because the pipeline sends
them again.

The thread polls the client only while a message is unconfirmed. The threads of the client itself
wake up about once a second.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections import deque

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from notif_relay import Notification
from notif_relayd_bridge.brokers.answers import Answers
from notif_relayd_bridge.brokers.backoff import Backoff
from notif_relayd_bridge.brokers.kafka.errors import (
    ALL_BROKERS_DOWN,
    AUTHENTICATION,
    Lost,
    error_text,
)
from notif_relayd_bridge.brokers.kafka.settings import Settings
from notif_relayd_bridge.brokers.target import Events
from notif_relayd_bridge.errors import StartError

LOG = logging.getLogger(__name__)

REFUSALS = (
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_RECORD,
)
"""Errors of a message that the topic will never accept, or of a batch that contains one. A batch
may also be too large by itself."""

POLL_TIMEOUT = 0.1
"""Seconds that the thread waits for delivery reports: how late it notices that it is to end."""

IDLE_TIMEOUT = 60.0
"""Seconds after which an idle thread handles the errors that the client has queued. They would
become more and more while the broker is away."""

CONNECT_STEP = 0.5
"""Seconds for one request of metadata, of several while the client connects."""

CLOSE_TIMEOUT = 5.0
"""Seconds to wait for the client's threads to end; it takes longer if a name is being resolved."""

BURST = 500
"""Messages that the client gets before the thread handles delivery reports."""


def check(settings: Settings) -> None:
    """Check the properties, without connecting.

    Raises:
        StartError: the client does not accept them.
    """
    properties = {**settings.properties}
    del properties["bootstrap.servers"]
    try:
        Producer(properties)
    except KafkaException as error:
        raise StartError(f"[kafka] {error_text(error.args[0], settings.hide)}") from None


class KafkaTarget:
    """The target for Kafka; see `target.Target`."""

    def __init__(self, settings: Settings) -> None:
        self.max_unconfirmed = settings.max_unconfirmed
        self._settings = settings
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._session: _Session

    def start(self, events: Events) -> None:
        """Connect in the background."""
        # A daemon thread: the client may resolve a name for longer than close() waits.
        self._thread = threading.Thread(target=self._run, args=(events,), name="kafka", daemon=True)
        self._thread.start()

    def send(self, notification: Notification) -> None:
        """Send a message; without effect if the session has failed.

        The thread of the target gives it to the client. If this thread did, both would compete for
        the interpreter with each delivery report.
        """
        session = self._session
        session.backlog.append(notification)
        if not session.is_awake:
            session.wake()

    def close(self) -> None:
        """Disconnect and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._closing.set()
        with contextlib.suppress(AttributeError):  # no session yet
            self._session.wake()
        thread.join(CLOSE_TIMEOUT)

    def _run(self, events: Events) -> None:
        backoff = Backoff()
        alone = 0
        while not self._closing.is_set():
            alone = self._use_session(events, backoff, alone)
            self._closing.wait(backoff.pause())

    def _use_session(self, events: Events, backoff: Backoff, alone: int) -> int:
        """Use a session until it has failed; return how many messages the next one sends alone."""
        session = reason = None
        try:
            session = self._session = _Session(self._settings, events, self._closing, alone)
            session.connect()
            events.connected()
            session.serve(backoff)
        except Lost as lost:
            reason = str(lost)
        except Exception:
            # Without this, nothing would be sent any more.
            LOG.exception("unhandled exception in the client of Kafka, connecting again")
            reason = "unhandled exception, see the log"
        if session is not None:
            session.end()
        if reason is not None and not self._closing.is_set():
            events.failed(reason)
        if session is None:
            return alone
        session.close()
        return session.alone


class _Session:
    """One producer and the messages that are sent with it.

    Args:
        settings: what is configured.
        events: is told of the answers.
        closing: is set when the session is to end.
        alone: number of messages of which each is sent alone.
    """

    def __init__(
        self, settings: Settings, events: Events, closing: threading.Event, alone: int
    ) -> None:
        self.alone = alone
        self.backlog: deque[Notification] = deque()
        """Messages that the client does not have yet."""
        self.is_awake = True
        """Whether the thread looks at the backlog without a call of ``wake``."""
        self._settings = settings
        self._events = events
        self._closing = closing
        self._answers = Answers()
        self._is_over = False
        self._failure = ""
        self._is_batch_refused = False
        self._last_error = ""
        self._is_unreachable = False
        self._wake = threading.Event()
        self._producer = Producer({**settings.properties, "error_cb": self._on_error})

    def connect(self) -> None:
        """Wait until a broker has answered.

        Raises:
            Lost: none does, or the target is being closed.
        """
        deadline = time.monotonic() + self._settings.connect_timeout
        while not self._closing.is_set():
            try:
                self._producer.list_topics(timeout=CONNECT_STEP)
            except KafkaException as error:
                self._producer.poll(0)
                self._last_error = self._last_error or self._text(error.args[0])
            else:
                return
            if self._failure or self._is_unreachable or time.monotonic() > deadline:
                break
        raise Lost(self._last_error)

    def wake(self) -> None:
        """Let the thread of the target look at the backlog, or notice that it is to end."""
        self._wake.set()

    def _hand_over(self) -> bool:
        """Give the client some of the messages; return whether it could take more at once."""
        backlog, route, answers = self.backlog, self._settings.route, self._answers
        produce, on_delivery = self._producer.produce, self._on_delivery
        burst = BURST
        if self.alone:
            burst = 0 if answers.unanswered else 1
        for _ in range(burst):
            if not backlog:
                return False
            notification = backlog[0]
            topic, key = route(notification)
            payload = notification.raw.rstrip(b"\n")
            number = answers.sent()
            try:
                produce(topic, payload, key, -1, functools.partial(on_delivery, number))
            except BufferError:
                answers.take_back()
                return False
            except KafkaException as error:
                self._reject(number, error.args[0])
            backlog.popleft()
        return not self.alone

    def _reject(self, number: int, error: KafkaError) -> None:
        """Note that the client itself does not accept a message."""
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            maximum = self._settings.properties.get("message.max.bytes", "1000000")
            self._answers.answer(number, f"exceeds message.max.bytes of the client, {maximum}")
        else:
            self._failure = self._failure or self._text(error)

    def _on_delivery(self, number: int, error: KafkaError | None, _: Message) -> None:
        """Handle a delivery report, in the thread that polls."""
        if error is None:
            self._answers.answer(number)
        elif self._is_over or self._failure:
            pass  # the first failure is the reason of the others
        elif error.code() not in REFUSALS:
            self._failure = self._text(error)
            if self._last_error:
                self._failure += f" ({self._last_error})"
        elif self._answers.unanswered == 1:
            self._answers.answer(number, self._text(error))
        else:
            self._is_batch_refused = True
            self._failure = f"{self._text(error)}: sending its messages one by one"

    def _on_error(self, error: KafkaError) -> None:
        """Note an error of the client, in the thread that polls."""
        self._is_unreachable = error.code() == ALL_BROKERS_DOWN
        if not self._is_unreachable or not self._last_error:
            self._last_error = self._text(error)
        if error.fatal() or error.code() == AUTHENTICATION:
            self._failure = self._failure or self._last_error

    def _text(self, error: KafkaError) -> str:
        return error_text(error, self._settings.hide)

    def serve(self, backoff: Backoff) -> None:
        """Report answers until the target is closed.

        Raises:
            Lost: the client gives up a message.
        """
        while not self._closing.is_set():
            has_room = self._hand_over()
            self._report(backoff)
            if self._answers.unanswered:
                self._producer.poll(0 if has_room else POLL_TIMEOUT)
                self._report(backoff)
            if self._failure:
                if self._is_batch_refused:
                    self.alone = self._answers.unanswered
                raise Lost(self._failure)
            if not (self._answers.unanswered or self.backlog):
                self._sleep()

    def _sleep(self) -> None:
        self.is_awake = False
        # A message that is sent after this check sets the event.
        if not self.backlog and not self._closing.is_set():
            self._wake.wait(IDLE_TIMEOUT)
            self._producer.poll(0)
        self.is_awake = True
        self._wake.clear()

    def _report(self, backoff: Backoff) -> None:
        if self._answers.report(self._events):
            self.alone = max(0, self.alone - 1)  # if not 0, this was one message
            self._last_error = ""
            backoff.reset()

    def end(self) -> None:
        """Ignore further messages, and purge those that the client has.

        It would send them later, in addition to the copies of the pipeline.
        """
        self._is_over = True
        self._producer.purge()

    def close(self) -> None:
        """End the client."""
        self.end()
        self._producer.poll(0)
        # Its threads end when nothing refers to it, and it refers to this object.
        del self._producer
