# SPDX-License-Identifier: Apache-2.0
"""The listener of a server: one reader for each group that it is a member of."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from dataclasses import replace

from oslo_messaging import MessagingException
from oslo_messaging._drivers import base

from notif_relay.errors import BadFilter, PermissionDenied, SubscriptionRefused
from notif_relay.group import permitted_hold
from notif_relay.messaging.groups import Share, Sharing, shares
from notif_relay.messaging.reader import OnIncoming, Reader
from notif_relay.messaging.subscriber import ListeningSubscriber

LOG = logging.getLogger(__name__)


class RelayListener(base.Listener):  # type: ignore[misc]
    """Reads from the public socket for one server, from its start to its stop.

    Args:
        path: path of the relay's public socket.
        addresses: pairs of a topic and a priority for which there are endpoints.
        pool: the pool of the listener, if any.
        sharing: how listeners share notifications.
        batch_size: maximum number of notifications in a batch; None: that of the window.
        batch_timeout: maximum time in seconds to wait for further notifications after the first
            one of a batch; None: no limit.
    """

    def __init__(
        self,
        path: str,
        addresses: Collection[tuple[str, str]],
        pool: str | None,
        sharing: Sharing,
        batch_size: int | None,
        batch_timeout: float | None,
    ) -> None:
        sharing = sharing.for_batches(batch_size or 1)
        super().__init__(min(batch_size or sharing.window, sharing.window), batch_timeout)
        self._path = path
        self._sharing = sharing
        self._priorities = frozenset(priority for _, priority in addresses)
        topics = {topic for topic, _ in addresses}
        # Without endpoints only gaps are received, and logged.
        self._shares = shares(sharing, pool, topics) if topics else [Share(None, frozenset())]
        self._pid = os.getpid()
        """The process that started the listener."""
        self._readers: list[Reader] = []

    def start(self, on_incoming_callback: OnIncoming) -> None:
        """Connect and start threads that pass on all notifications emitted from now on.

        If the relay is not running, the threads wait for it.

        Raises:
            MessagingException: the process is not allowed to connect, the relay refused the
                subscriber or its request, or it did not answer.
        """
        problem = ""
        subscribers: list[ListeningSubscriber] = []
        try:
            for share in self._shares:
                subscribers.append(self._subscribe(share))
        except (BadFilter, PermissionDenied, SubscriptionRefused, TimeoutError) as error:
            problem = str(error)
        if problem:
            for each in subscribers:
                each.close()
            LOG.error("Cannot listen for notifications: %s", problem)
            raise MessagingException(problem)
        super().start(on_incoming_callback)
        self._pid = os.getpid()
        self._readers = [
            Reader(
                *(subscriber, share, self._priorities, self._sharing.window),
                *(self.batch_size, self.batch_timeout, on_incoming_callback),
            )
            for subscriber, share in zip(subscribers, self._shares, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    def _subscribe(self, share: Share) -> ListeningSubscriber:
        """Connect and join a group; for a shorter time than the default if the relay requires it.

        Raises:
            RelayError: see ``ListeningSubscriber``.
        """
        priorities = sorted(self._priorities)
        try:
            return ListeningSubscriber(self._path, priorities, share.group, self._sharing)
        except SubscriptionRefused as error:
            hold = permitted_hold(error.reason) if self._sharing.may_hold_less else None
            if hold is None:
                raise
        self._sharing = replace(self._sharing, hold=hold)
        return ListeningSubscriber(self._path, priorities, share.group, self._sharing)

    def stop(self) -> None:
        """Stop reading; after this returns, no more notifications are passed on.

        A connection remains open until the endpoints have handled what was passed on.

        A child process closes only its copy of the sockets; the listener of its parent continues.
        """
        # In a child without the readers' locks, which a thread of the parent may have held, and
        # without the threads, which this process does not have.
        for reader in self._readers:
            if os.getpid() == self._pid:
                reader.stop()
            else:
                reader.close()
        super().stop()

    def cleanup(self) -> None:
        """Stop the listener, if it is running, and disconnect."""
        self.stop()
        for reader in self._readers:
            reader.close()
        self._readers = []
