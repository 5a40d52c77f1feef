# SPDX-License-Identifier: Apache-2.0
"""A notification that is passed to the endpoints, and what becomes of it."""

from __future__ import annotations

from typing import Protocol

from oslo_messaging._drivers import base

from notif_relay.messaging.envelope import Envelope
from notif_relay.notification import Notification


class Source(Protocol):
    """The connection that a message came from."""

    def note_handled(self, message: RelayedMessage) -> None:
        """Note that the endpoints have handled a message."""

    def requeue(self, message: RelayedMessage) -> None:
        """Pass a message to the endpoints again, after a pause."""


class RelayedMessage(base.IncomingMessage):  # type: ignore[misc]
    """A notification that is passed to the endpoints.

    Args:
        envelope: the content of the notification.
        notification: the notification.
        source: the connection that it came from.
        connection: number of the connection among those of the source.
    """

    def __init__(
        self, envelope: Envelope, notification: Notification, source: Source, connection: int
    ) -> None:
        super().__init__(envelope.context, envelope.message)
        self.notification = notification
        self.connection = connection
        self.attempts = 0
        """Number of times that it was requeued."""
        self._source = source

    def acknowledge(self) -> None:
        """Note that the endpoints have handled the notification; the relay is told."""
        self._source.note_handled(self)

    def requeue(self) -> None:
        """Pass the notification to the endpoints again, after a pause.

        It remains unfinished in the relay, so another listener gets it if this one ends before.
        """
        self._source.requeue(self)
