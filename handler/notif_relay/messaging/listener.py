# SPDX-License-Identifier: Apache-2.0
"""Takes notifications from the relay and hands them to oslo.messaging's executor.

oslo.messaging's own adapter for polling would do the same with a thread, but takes whatever there
is: its executor has a queue without an end, and a consumer that is slower than its notifications
would grow until it is killed. Here no more than ``MOST_UNHANDLED`` are ever in that queue. What
comes meanwhile stays with the relay, which has a limit of its own and tells what it had to drop.

A relay's gap record goes to the endpoints like any other notification, and to the log as well,
because an endpoint may have filtered it out, or none may take warnings.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from oslo_messaging import MessagingException
from oslo_messaging._drivers import base
from oslo_utils import excutils

from notif_relay import records
from notif_relay.errors import BadFilter, PermissionDenied
from notif_relay.messaging.envelope import Envelope, unseal
from notif_relay.messaging.subscriber import ListeningSubscriber
from notif_relay.notification import Gap, Notification

LOG = logging.getLogger(__name__)

MOST_UNHANDLED = 256
"""Notifications given to the executor before it has handled one: four for each of its threads.

The last batch may exceed it, as a batch is given as a whole.
"""

NO_REQUEUE = (
    "The unix transport cannot requeue a notification: the relay stores none."
    " Do without allow_requeue, and let endpoints return nothing or HANDLED."
)

OnIncoming = Callable[[list["RelayedMessage"]], object]


class RelayedMessage(base.IncomingMessage):  # type: ignore[misc]
    """A notification on its way to the endpoints.

    To the relay it does not matter what becomes of it; the listener only counts it.
    """

    def __init__(self, envelope: Envelope, handled: Callable[[], None]) -> None:
        super().__init__(envelope.context, envelope.message)
        self._handled = handled

    def acknowledge(self) -> None:
        """The endpoints are done with it."""
        self._handled()

    def requeue(self) -> None:
        """Refuse to.

        Raises:
            NotImplementedError: always.
        """
        self._handled()
        raise NotImplementedError(NO_REQUEUE)


class RelayListener(base.Listener):  # type: ignore[misc]
    """Reads from the public socket at ``path`` for one server, between its start and its stop.

    Args:
        path: the relay's public socket.
        addresses: topics, each with a priority, that there are endpoints for.
        batch_size: notifications to hand over at once; None: as many as may be unhandled.
        batch_timeout: seconds after the first of a batch to wait for the others; None: for ever.
    """

    def __init__(
        self,
        path: str,
        addresses: Collection[tuple[str, str]],
        batch_size: int | None,
        batch_timeout: float | None,
    ) -> None:
        super().__init__(batch_size or MOST_UNHANDLED, batch_timeout)
        self._path = path
        self._addresses = frozenset(addresses)
        self._priorities = frozenset(priority for _, priority in addresses)
        self._subscriber: ListeningSubscriber | None = None
        self._thread: threading.Thread | None = None
        self._counting = threading.Condition()
        self._unhandled = 0
        self._stopping = False

    def start(self, on_incoming_callback: OnIncoming) -> None:
        """Connect, and hand over all that is emitted from now on.

        Without a relay it waits in the background for one to come.

        Raises:
            NotImplementedError: the server wants to requeue.
            MessagingException: the process may not connect, or the relay is of no use.
        """
        # Nobody else tells: oslo.messaging has a flag for it that it does not ask for.
        if getattr(getattr(on_incoming_callback, "__self__", None), "_allow_requeue", False):
            raise NotImplementedError(NO_REQUEUE)
        try:
            # An empty pattern matches no notification: without endpoints only gaps are logged.
            subscriber = ListeningSubscriber(self._path, sorted(self._priorities) or [""])
        except (BadFilter, PermissionDenied, TimeoutError) as error:
            LOG.error("Cannot listen for notifications: %s", error)
            raise MessagingException(str(error)) from error
        super().start(on_incoming_callback)
        self._subscriber = subscriber
        self._thread = threading.Thread(
            target=self._run, args=(subscriber, on_incoming_callback), name="notif_relay listener"
        )
        self._thread.daemon = True
        self._thread.start()

    def stop(self) -> None:
        """Disconnect, and hand over nothing any more once this returns."""
        with self._counting:
            self._stopping = True
            self._counting.notify_all()
        if self._subscriber is not None and self._thread is not None:
            self._subscriber.close()
            self._thread.join()
        super().stop()

    def cleanup(self) -> None:
        """Leave nothing open, whether it was stopped or not."""
        self.stop()

    @excutils.forever_retry_uncaught_exceptions  # type: ignore[misc, unused-ignore]
    def _run(self, subscriber: ListeningSubscriber, on_incoming: OnIncoming) -> None:
        try:
            while self._has_room():
                batch = self._batch(subscriber)
                if batch:
                    on_incoming(batch)
                    self._count(len(batch))
        except BadFilter as error:
            # Another relay has come that has other ideas of a request.
            LOG.error("No more notifications come: %s", error)

    def _has_room(self) -> bool:
        """Wait until more may be handed over; whether that will ever be."""
        with self._counting:
            self._counting.wait_for(lambda: self._stopping or self._unhandled < MOST_UNHANDLED)
            return not self._stopping

    def _count(self, handed_over: int) -> None:
        with self._counting:
            self._unhandled += handed_over
            self._counting.notify_all()

    def _batch(self, subscriber: ListeningSubscriber) -> list[RelayedMessage]:
        """The next notifications, as many as make a batch or came in time or before the end."""
        batch: list[RelayedMessage] = []
        subscriber.until = None
        try:
            for notification in subscriber:
                envelope = self._wanted(notification)
                if envelope is None:
                    continue
                batch.append(RelayedMessage(envelope, lambda: self._count(-1)))
                if len(batch) == self.batch_size:
                    break
                if len(batch) == 1 and self.batch_timeout:
                    subscriber.until = time.monotonic() + self.batch_timeout
        except TimeoutError:
            pass
        return batch

    def _wanted(self, notification: Notification) -> Envelope | None:
        """What a notification carries, if an endpoint is to have it."""
        if isinstance(notification, Gap):
            dropped = "Some" if notification.dropped is None else notification.dropped
            LOG.warning("%s notifications were lost on their way: %s", dropped, notification.reason)
        elif _is_for_subscriber(notification.event_type):
            return None
        try:
            envelope = unseal(notification.raw)
        except ValueError as error:
            LOG.warning("A record that cannot be read was left out: %s", error)
            return None
        wanted = (
            envelope.priority in self._priorities
            if envelope.topic is None
            else (envelope.topic, envelope.priority) in self._addresses
        )
        return envelope if wanted else None


def _is_for_subscriber(event_type: str) -> bool:
    """Whether a record is the relay's answer to its subscriber, or of a type still to come."""
    return event_type.startswith(records.EVENT_TYPE_PREFIX) and event_type != records.GAP
