# SPDX-License-Identifier: Apache-2.0
"""Reads messages from Kafka with confluent-kafka, as a member of a group of consumers.

Only one thread uses the client, which is not made for more. It reads messages, and commits the
offsets of those that the bridge has acknowledged; the next member of the group begins there.

A rebalance may take partitions away. If unacknowledged messages are among theirs, the bridge must
forget all that it has, and the thread reads those of the remaining partitions again. The same
happens if no broker can be reached. The client connects again by itself and may keep its partitions
then; a new member would have to wait until the session of this one has timed out.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from notif_relayd_bridge.brokers.backoff import Backoff
from notif_relayd_bridge.brokers.envelope import UnreadableMessageError, to_record
from notif_relayd_bridge.brokers.kafka.errors import (
    ALL_BROKERS_DOWN,
    AUTHENTICATION,
    COMMIT_AGAIN,
    HARMLESS,
    MISSING_TOPIC,
    Lost,
    error_text,
)
from notif_relayd_bridge.brokers.kafka.positions import Partition, Positions
from notif_relayd_bridge.brokers.kafka.source_settings import SourceSettings
from notif_relayd_bridge.brokers.source import MAX_UNACKNOWLEDGED_BYTES, SourceEvents
from notif_relayd_bridge.errors import StartError

LOG = logging.getLogger(__name__)

BATCH = 500
"""Messages that are taken from the client at once."""

POLL_TIMEOUT = 0.5
"""Seconds that the thread waits for messages: how late it notices that it is to end. An idle broker
answers the client's requests as often, see ``fetch.wait.max.ms``."""

COMMIT_INTERVAL = 1.0
"""Minimum interval, in seconds, between two commits. If the bridge is killed, the messages of this
time are delivered again."""

STALL_TIME = 1.0
"""Seconds without an acknowledgement after which the client stops fetching. It drops what it has
fetched in advance then. It must be polled as often, or the group regards it as failed."""

CONNECT_STEP = 0.5
"""Seconds for one request of metadata, of several while the client connects."""

MAX_PROBE_PAUSE = 5.0
"""Maximum pause, in seconds, between two requests of metadata while no broker can be reached. The
client must be polled meanwhile."""

CLOSE_TIMEOUT = 5.0
"""Seconds to wait for the client to leave the group, which takes longer if no broker answers."""


def check(settings: SourceSettings) -> None:
    """Check the properties and the topics, without connecting.

    Raises:
        StartError: the client does not accept them.
    """
    properties = {**settings.properties}
    del properties["bootstrap.servers"]
    try:
        consumer = Consumer(properties)
    except KafkaException as error:
        raise StartError(f"[kafka] {error_text(error.args[0], settings.hide)}") from None
    try:
        consumer.subscribe(settings.topics)
    except KafkaException:  # The client states no reason.
        raise StartError("[bridge] topics has an invalid pattern: correct it") from None
    finally:
        consumer.close()


class _Acknowledgements:
    """Counts what the bridge acknowledges, in any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._is_open = True

    def add(self, count: int) -> None:
        """Count acknowledged messages, and wake the thread that waits."""
        with self._changed:
            if self._is_open:
                self._count += count
            self._changed.notify()

    def take(self) -> int:
        """Return the number since the last call."""
        with self._changed:
            count, self._count = self._count, 0
            return count

    def take_last(self) -> int:
        """Return the number since the last call, and ignore further ones until ``reopen``."""
        with self._changed:
            count, self._count = self._count, 0
            self._is_open = False
            return count

    def reopen(self) -> None:
        """Count again."""
        with self._changed:
            self._is_open = True

    def wait(self, timeout: float) -> bool:
        """Wait for an acknowledgement; return whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count, timeout) > 0


class KafkaSource:
    """The source for Kafka; see `brokers.source.Source`."""

    def __init__(self, settings: SourceSettings) -> None:
        self.max_unacknowledged = settings.max_unacknowledged
        self._settings = settings
        self._acknowledgements = _Acknowledgements()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, events: SourceEvents) -> None:
        """Connect in the background."""
        # A daemon thread: the client may wait for a broker for longer than close() waits.
        self._thread = threading.Thread(target=self._run, args=(events,), name="kafka", daemon=True)
        self._thread.start()

    def acknowledge(self, count: int) -> None:
        """Note what the relay has taken."""
        self._acknowledgements.add(count)

    def close(self) -> None:
        """Commit, leave the group, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._closing.set()
        self._acknowledgements.add(0)
        thread.join(CLOSE_TIMEOUT)

    def _run(self, events: SourceEvents) -> None:
        backoff = Backoff()
        while not self._closing.is_set():
            session = _Session(self._settings, events, self._acknowledgements, self._closing)
            try:
                session.run(backoff)
            except Lost as lost:
                session.lose(str(lost))
            except Exception:
                # Without this, the client would keep its partitions, and no messages would arrive.
                LOG.exception("unhandled exception in the client of Kafka, connecting again")
                session.lose("unhandled exception, see the log")
            session.close()
            self._closing.wait(backoff.pause())


class _Session:
    """One member of the group, from connecting until it leaves.

    Args:
        settings: what is configured.
        events: is told of the messages.
        acknowledgements: what the bridge has acknowledged.
        closing: is set when the session is to end.
    """

    def __init__(
        self,
        settings: SourceSettings,
        events: SourceEvents,
        acknowledgements: _Acknowledgements,
        closing: threading.Event,
    ) -> None:
        self._settings = settings
        self._events = events
        self._acknowledgements = acknowledgements
        self._closing = closing
        self._positions = Positions()
        self._has_assignment = False
        self._is_delivering = False
        self._is_paused = False
        self._is_committing = False
        self._committed_at = 0.0
        self._has_progress = False
        self._is_unreachable = False
        self._last_error = ""
        self._failure = ""
        self._missing_topics: set[str] = set()
        self._consumer: Consumer

    def run(self, backoff: Backoff) -> None:
        """Join the group, and report messages until the source is closed.

        Raises:
            Lost: the client cannot continue.
        """
        callbacks = {"error_cb": self._on_error, "on_commit": self._on_commit}
        try:
            self._consumer = Consumer({**self._settings.properties, **callbacks})
            self._connect()
            self._consumer.subscribe(
                self._settings.topics,
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
            while not self._closing.is_set():
                self._advance(backoff)
        except KafkaException as error:
            raise Lost(self._text(error.args[0])) from None

    def _connect(self) -> None:
        """Wait until a broker has answered.

        Raises:
            Lost: none does.
        """
        deadline = time.monotonic() + self._settings.connect_timeout
        while not self._closing.is_set():
            if self._is_reachable():
                return
            if self._failure or self._is_unreachable or time.monotonic() > deadline:
                raise Lost(self._failure or self._last_error)

    def _is_reachable(self) -> bool:
        try:
            self._consumer.list_topics(timeout=CONNECT_STEP)
        except KafkaException as error:
            self._poll(0)
            self._last_error = self._last_error or self._text(error.args[0])
            return False
        self._is_unreachable = False
        self._last_error = ""
        return True

    def _advance(self, backoff: Backoff) -> None:
        """Handle what has happened, and wait for the next message or acknowledgement.

        Raises:
            Lost: the client cannot continue.
        """
        self._finish(self._acknowledgements.take())
        if self._has_progress:
            self._has_progress = False
            backoff.reset()
        if self._failure:
            raise Lost(self._failure)
        if self._is_unreachable:
            self._suspend(self._last_error)
            if not self._is_reachable():
                self._closing.wait(min(backoff.pause(), MAX_PROBE_PAUSE))
            return
        if self._has_assignment and not self._is_delivering:
            self._deliver()
        room = self._settings.max_unacknowledged - len(self._positions)
        if room > 0 and self._positions.size < MAX_UNACKNOWLEDGED_BYTES:
            self._resume()
            if self._poll(0, min(room, BATCH)) == 0:
                self._poll(POLL_TIMEOUT)
        elif not self._acknowledgements.wait(STALL_TIME):
            self._pause()
            self._poll(0)

    def _poll(self, timeout: float, count: int = 1) -> int:
        """Serve the callbacks, and handle messages; return their number."""
        messages = self._consumer.consume(count, timeout)
        for message in messages:
            self._take(message)
        return len(messages)

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            self._take_error(error)
            return
        topic, number, offset = message.topic(), message.partition(), message.offset()
        if topic is None or number is None or offset is None:
            return  # Not without an error; for the types.
        if not self._is_delivering:
            self._positions.skipped((topic, number), offset)
            return
        value = message.value()
        self._positions.received((topic, number), offset, len(value or b""))
        try:
            record = to_record(value, topic)
        except UnreadableMessageError as unreadable:
            self._events.unreadable(str(unreadable))
        else:
            self._events.received(record)

    def _take_error(self, error: KafkaError) -> None:
        if error.code() in MISSING_TOPIC:
            text = self._text(error)
            if text not in self._missing_topics:
                self._missing_topics.add(text)
                LOG.warning("waiting for a topic of Kafka: %s", text)
        elif error.fatal() or error.code() not in HARMLESS:
            self._failure = self._failure or self._text(error)

    def _on_error(self, error: KafkaError) -> None:
        """Note an error of the client."""
        if error.code() == ALL_BROKERS_DOWN:
            self._is_unreachable = True
            self._last_error = self._last_error or self._text(error)
            return
        self._last_error = self._text(error)
        if error.fatal() or error.code() == AUTHENTICATION:
            self._failure = self._failure or self._last_error

    def _finish(self, acknowledged: int) -> None:
        """Commit what is acknowledged, if it is time to."""
        self._positions.acknowledged(acknowledged)
        if time.monotonic() >= self._committed_at + COMMIT_INTERVAL and not self._is_committing:
            self._commit()

    def _commit(self) -> None:
        """Send the offsets of what is acknowledged; ``_on_commit`` gets the answer."""
        if not self._positions.can_commit:
            return
        self._committed_at = time.monotonic()
        finished = self._positions.take_finished()
        try:
            self._consumer.commit(
                offsets=[TopicPartition(*partition, at) for partition, at in finished.items()],
                asynchronous=True,
            )
        except KafkaException as error:
            self._positions.restore_finished(finished)
            self._check_commit(error.args[0])
        else:
            self._is_committing = True

    def _on_commit(self, error: KafkaError | None, partitions: Iterable[TopicPartition]) -> None:
        self._is_committing = False
        failed = {}
        for each in partitions:
            each_error = each.error or error
            if each_error is not None:
                failed[each.topic, each.partition] = each.offset
                self._check_commit(each_error)
        if error is not None:
            self._check_commit(error)
        self._has_progress = self._has_progress or not failed
        self._positions.restore_finished(failed)

    def _check_commit(self, error: KafkaError) -> None:
        if not (error.retriable() or error.code() in COMMIT_AGAIN):
            self._failure = self._failure or f"commit: {self._text(error)}"

    def _on_assign(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._positions.assign(_names(partitions))
        self._has_assignment = True
        self._is_paused = False

    def _on_revoke(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        # The broker gets this commit before it gives the partitions to another member.
        self._positions.acknowledged(self._acknowledgements.take())
        self._commit()
        self._revoke(partitions)

    def _on_lost(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        # Another member may have them already, so it is too late for a commit.
        self._revoke(partitions)

    def _revoke(self, partitions: Sequence[TopicPartition]) -> None:
        if self._positions.revoke(_names(partitions)):
            self._suspend("the group has given partitions to another consumer")
        self._has_assignment = bool(self._positions.assigned)
        self._is_paused = False

    def _suspend(self, reason: str) -> None:
        """Report a failure, after which the bridge forgets all unacknowledged messages."""
        if self._is_delivering:
            self._is_delivering = False
            self._positions.acknowledged(self._acknowledgements.take_last())
            self._positions.forget()
            self._report_failure(reason)

    def _report_failure(self, reason: str) -> None:
        if not self._closing.is_set():
            self._events.failed(reason)
        self._acknowledgements.reopen()

    def _deliver(self) -> None:
        """Report messages, beginning with the oldest unacknowledged one of each partition."""
        for partition, offset in self._positions.take_rewind().items():
            self._consumer.seek(TopicPartition(*partition, offset))
        self._is_delivering = True
        self._events.connected()

    def _pause(self) -> None:
        if not self._is_paused:
            self._consumer.pause(self._assigned())
            self._is_paused = True

    def _resume(self) -> None:
        if self._is_paused:
            self._consumer.resume(self._assigned())
            self._is_paused = False

    def _assigned(self) -> list[TopicPartition]:
        return [TopicPartition(*each) for each in self._positions.assigned]

    def lose(self, reason: str) -> None:
        """Report that the session has failed."""
        if self._is_delivering:
            self._suspend(reason)
        else:
            self._report_failure(reason)

    def close(self) -> None:
        """Commit what is acknowledged, and leave the group."""
        self._positions.acknowledged(self._acknowledgements.take())
        self._is_delivering = False
        with contextlib.suppress(AttributeError):  # The client could not be created.
            self._commit()
            self._consumer.close()

    def _text(self, error: KafkaError) -> str:
        return error_text(error, self._settings.hide)


def _names(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [(each.topic, each.partition) for each in partitions]
