# SPDX-License-Identifier: Apache-2.0
"""Reads notifications from the relay and passes them to oslo.messaging's executor.

The queue of the executor is unbounded, and oslo.messaging's own polling adapter fills it without
a limit, so a slow consumer would grow until it is killed. This listener keeps at most
``MAX_UNHANDLED`` notifications in that queue. Further notifications remain in the relay, which
limits them and reports those that it drops.

A gap record is passed to the endpoints like any other notification. It is logged as well, because
an endpoint may have filtered it out, and there may be no endpoint for warnings.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection

from oslo_messaging import MessagingException
from oslo_messaging._drivers import base
from oslo_utils import excutils

from notif_relay import records
from notif_relay.errors import BadFilter, PermissionDenied, SubscriptionRefused, WrongProcess
from notif_relay.messaging.envelope import Envelope, unseal
from notif_relay.messaging.subscriber import ListeningSubscriber
from notif_relay.notification import Gap, Notification

LOG = logging.getLogger(__name__)

MAX_UNHANDLED = 256
"""Notifications in the executor that it has not handled: four for each of its 64 threads.

The last batch may exceed the limit, because a batch is passed as a whole.
"""

NO_REQUEUE = (
    "The unix transport cannot requeue a notification, because the relay does not store it."
    " Do not set allow_requeue, and let endpoints return None or HANDLED."
)

OnIncoming = Callable[[list["RelayedMessage"]], object]


class RelayedMessage(base.IncomingMessage):  # type: ignore[misc]
    """A notification that is passed to the endpoints.

    Args:
        envelope: the notification.
        on_handled: called when the endpoints have handled it. The relay is not informed.
    """

    def __init__(self, envelope: Envelope, on_handled: Callable[[], None]) -> None:
        super().__init__(envelope.context, envelope.message)
        self._on_handled = on_handled

    def acknowledge(self) -> None:
        """Note that the endpoints have handled the notification."""
        self._on_handled()

    def requeue(self) -> None:
        """Refuse to requeue the notification.

        Raises:
            NotImplementedError: always.
        """
        self._on_handled()
        raise NotImplementedError(NO_REQUEUE)


class RelayListener(base.Listener):  # type: ignore[misc]
    """Reads from the public socket for one server, from its start to its stop.

    Args:
        path: path of the relay's public socket.
        addresses: pairs of a topic and a priority for which there are endpoints.
        batch_size: maximum number of notifications in a batch; None: ``MAX_UNHANDLED``.
        batch_timeout: maximum time in seconds to wait for further notifications after the first
            one of a batch; None: no limit.
    """

    def __init__(
        self,
        path: str,
        addresses: Collection[tuple[str, str]],
        batch_size: int | None,
        batch_timeout: float | None,
    ) -> None:
        super().__init__(batch_size or MAX_UNHANDLED, batch_timeout)
        self._path = path
        self._addresses = frozenset(addresses)
        self._priorities = frozenset(priority for _, priority in addresses)
        self._pid = os.getpid()
        """The process that started the listener."""
        self._subscriber: ListeningSubscriber | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        """Notified when one of the next two attributes changes."""
        self._unhandled = 0
        self._stopping = False

    def start(self, on_incoming_callback: OnIncoming) -> None:
        """Connect and start a thread that passes on all notifications emitted from now on.

        If the relay is not running, the thread waits for it.

        Raises:
            NotImplementedError: the server was created with ``allow_requeue``.
            MessagingException: the process is not allowed to connect, the relay refused the
                subscriber or its request, or it did not answer.
        """
        # oslo.messaging has require_features() for this purpose, but does not call it.
        if getattr(getattr(on_incoming_callback, "__self__", None), "_allow_requeue", False):
            raise NotImplementedError(NO_REQUEUE)
        try:
            # Without endpoints only gaps are received, and logged.
            subscriber = ListeningSubscriber(self._path, sorted(self._priorities))
        except (BadFilter, PermissionDenied, SubscriptionRefused, TimeoutError) as error:
            LOG.error("Cannot listen for notifications: %s", error)
            raise MessagingException(str(error)) from error
        super().start(on_incoming_callback)
        self._pid = os.getpid()
        self._subscriber = subscriber
        self._thread = threading.Thread(
            target=self._run, args=(subscriber, on_incoming_callback), name="notif_relay listener"
        )
        self._thread.daemon = True
        self._thread.start()

    def stop(self) -> None:
        """Disconnect; after this returns, no more notifications are passed on.

        A child process closes only its copy of the socket; the listener of its parent continues.
        """
        if os.getpid() != self._pid:
            # Without the lock, which a thread of the parent may have held, and without the thread,
            # which this process does not have.
            if self._subscriber is not None:
                self._subscriber.close()
            super().stop()
            return
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._subscriber is not None and self._thread is not None:
            self._subscriber.close()
            self._thread.join()
        super().stop()

    def cleanup(self) -> None:
        """Stop the listener, if it is running."""
        self.stop()

    @excutils.forever_retry_uncaught_exceptions  # type: ignore[misc, unused-ignore]
    def _run(self, subscriber: ListeningSubscriber, on_incoming: OnIncoming) -> None:
        try:
            while self._wait_until_below_limit():
                batch = self._batch(subscriber)
                if batch:
                    on_incoming(batch)
                    self._add_unhandled(len(batch))
        except BadFilter as error:
            # A different version of the relay was started, with other rules for requests.
            LOG.error("Stopped listening for notifications: %s", error)
        except WrongProcess as error:
            # With eventlet, a child process continues the green threads of its parent.
            LOG.error("Stopped listening for notifications in a child process: %s", error)

    def _wait_until_below_limit(self) -> bool:
        """Wait until another batch may be passed on; return False if the listener stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._unhandled < MAX_UNHANDLED)
            return not self._stopping

    def _add_unhandled(self, number: int) -> None:
        with self._changed:
            self._unhandled += number
            self._changed.notify_all()

    def _batch(self, subscriber: ListeningSubscriber) -> list[RelayedMessage]:
        """Return the next batch; incomplete after ``batch_timeout`` or at the end."""
        batch: list[RelayedMessage] = []
        subscriber.until = None
        try:
            for notification in subscriber:
                envelope = self._envelope(notification)
                if envelope is None:
                    continue
                batch.append(RelayedMessage(envelope, lambda: self._add_unhandled(-1)))
                if len(batch) == self.batch_size:
                    break
                if len(batch) == 1 and self.batch_timeout:
                    subscriber.until = time.monotonic() + self.batch_timeout
        except TimeoutError:
            pass
        return batch

    def _envelope(self, notification: Notification) -> Envelope | None:
        """Return the content of a notification, or None if there is no endpoint for it."""
        if isinstance(notification, Gap):
            dropped = "Some" if notification.dropped is None else notification.dropped
            LOG.warning("%s notifications were lost: %s", dropped, notification.reason)
        elif _is_control_record(notification.event_type):
            return None
        try:
            envelope = unseal(notification.raw)
        except ValueError as error:
            LOG.warning("Ignored an unreadable record: %s", error)
            return None
        wanted = (
            envelope.priority in self._priorities
            if envelope.topic is None
            else (envelope.topic, envelope.priority) in self._addresses
        )
        return envelope if wanted else None


def _is_control_record(event_type: str) -> bool:
    """Return whether a record is an answer of the relay, or of a reserved type not yet defined."""
    return event_type.startswith(records.EVENT_TYPE_PREFIX) and event_type != records.GAP
