# SPDX-License-Identifier: Apache-2.0
"""One connection of a listener: reads notifications and passes them to oslo.messaging's executor.

The queue of the executor is unbounded, and oslo.messaging's own polling adapter fills it without
a limit, so a slow consumer would grow until it is killed. A reader keeps at most a window of
notifications in that queue. Further notifications remain in the relay, which limits them and
reports those that it drops, or hands them to other members of the group.

A gap record is passed to the endpoints like any other notification. It is logged as well, because
an endpoint may have filtered it out, and there may be no endpoint for warnings.

A stopped reader reads no more, but remains connected until its last message is handled. The relay
would otherwise hand these messages to other members of the group.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from oslo_utils import excutils

from notif_relay import records
from notif_relay.errors import BadFilter, WrongProcess
from notif_relay.escaping import printable
from notif_relay.messaging.envelope import DEFAULT_TOPIC, Envelope, unseal
from notif_relay.messaging.groups import Share
from notif_relay.messaging.message import RelayedMessage
from notif_relay.messaging.requeue import PausedMessages
from notif_relay.messaging.subscriber import ListeningSubscriber
from notif_relay.notification import Gap, Notification

LOG = logging.getLogger(__name__)

OnIncoming = Callable[[list[RelayedMessage]], object]


class Reader:
    """Reads one share of the notifications in a thread.

    Args:
        subscriber: the connection; the reader closes it.
        share: the notifications to pass on.
        priorities: their priorities.
        limit: maximum number of unhandled notifications. The last batch may exceed it.
        batch_size: maximum number of notifications in a batch.
        batch_timeout: maximum time in seconds to wait for further notifications after the first
            one of a batch; None: no limit.
        on_incoming: called with each batch, in a thread of the reader.
    """

    def __init__(
        self,
        subscriber: ListeningSubscriber,
        share: Share,
        priorities: frozenset[str],
        limit: int,
        batch_size: int,
        batch_timeout: float | None,
        on_incoming: OnIncoming,
    ) -> None:
        self._subscriber = subscriber
        self._share = share
        self._priorities = priorities
        self._limit = limit
        self._batch_size = batch_size
        self._batch_timeout = batch_timeout
        self._on_incoming = on_incoming
        self._paused = PausedMessages(batch_size, on_incoming, self._forget)
        self._changed = threading.Condition()
        """Notified when one of the next two attributes changes."""
        self._unhandled = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="notif_relay listener")
        self._thread.daemon = True

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop reading; disconnect now, or when the last message is handled."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._subscriber.interrupt()
        self._thread.join()
        self._subscriber.release_interruption()
        self._paused.stop()
        self._close_if_handled()

    def close(self) -> None:
        """Disconnect, although messages may be unhandled."""
        self._subscriber.close()

    # Called by messages, in any thread

    def note_handled(self, message: RelayedMessage) -> None:
        """Note that the endpoints have handled a message; report it to the relay."""
        message.notification.done()
        self._forget(message)

    def requeue(self, message: RelayedMessage) -> None:
        """Pass a message to the endpoints again, after a pause.

        If the connection that it came from has ended, the relay sends it again.
        """
        if self._share.group is not None and message.connection != self._subscriber.connection:
            self._forget(message)
        else:
            self._paused.add(message)

    def _forget(self, _message: RelayedMessage) -> None:
        with self._changed:
            self._unhandled -= 1
            self._changed.notify_all()
        self._close_if_handled()

    def _close_if_handled(self) -> None:
        if self._stopping and self._unhandled == 0 and not self._thread.is_alive():
            self._subscriber.close()

    # In the thread

    @excutils.forever_retry_uncaught_exceptions  # type: ignore[misc, unused-ignore]
    def _run(self) -> None:
        reason = ""
        try:
            while self._wait_until_below_limit():
                batch = self._batch()
                if batch:
                    with self._changed:
                        self._unhandled += len(batch)
                    self._on_incoming(batch)
        except BadFilter as error:
            # A relay of another version was started, which does not know the request.
            reason = f"Stopped listening for notifications: {error}"
        except WrongProcess as error:
            # With eventlet, a child process continues the green threads of its parent.
            reason = f"Stopped listening for notifications in a child process: {error}"
        # Not in an exception handler: oslo.log appends the exception being handled to a message.
        if reason:
            LOG.error("%s", reason)

    def _wait_until_below_limit(self) -> bool:
        """Wait until another batch may be passed on; return False if the reader stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._unhandled < self._limit)
            return not self._stopping

    def _batch(self) -> list[RelayedMessage]:
        """Return the next batch; incomplete after ``batch_timeout`` or at the end."""
        batch: list[RelayedMessage] = []
        subscriber = self._subscriber
        subscriber.until = None
        try:
            for notification in subscriber:
                if self._stopping and self._share.group is not None:
                    break  # it is unfinished, so another member gets it
                envelope = self._envelope(notification)
                if envelope is None:
                    notification.done()
                    continue
                batch.append(RelayedMessage(envelope, notification, self, subscriber.connection))
                if len(batch) == self._batch_size:
                    break
                if len(batch) == 1 and self._batch_timeout:
                    subscriber.until = time.monotonic() + self._batch_timeout
        except TimeoutError:
            pass
        return batch

    def _envelope(self, notification: Notification) -> Envelope | None:
        """Return the content of a notification, or None if it is not to be passed on."""
        if isinstance(notification, Gap):
            dropped = "Some" if notification.dropped is None else notification.dropped
            LOG.warning("%s notifications were lost: %s", dropped, notification.reason)
        elif _is_control_record(notification.event_type):
            return None
        problem = ""
        try:
            envelope = unseal(notification.raw)
        except ValueError as error:
            problem = str(error)
        if problem:
            LOG.warning("Ignored an unreadable record: %s", problem)
            return None
        if envelope.priority not in self._priorities:
            return None
        topics = envelope.topics or {DEFAULT_TOPIC}
        if not isinstance(notification, Gap) and self._share.topics.isdisjoint(topics):
            return None
        if notification.redelivered:
            found = map(envelope.message.get, ("message_id", "event_type", "publisher_id"))
            names = (printable(each) if isinstance(each, str) else "?" for each in found)
            LOG.info(
                "Notification %s (%s of %s) was delivered before and not finished; it may have been"
                " handled already",
                *names,
            )
        return envelope


def _is_control_record(event_type: str) -> bool:
    """Return whether a record is an answer of the relay, or of a reserved type not yet defined."""
    return event_type.startswith(records.EVENT_TYPE_PREFIX) and event_type != records.GAP
