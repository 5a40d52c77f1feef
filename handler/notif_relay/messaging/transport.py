# SPDX-License-Identifier: Apache-2.0
"""The transport driver ``unix``, which sends notifications to the relay and reads them.

With ``transport_url = unix:///run/notif-relayd/notifications.sock``, consumers that were written
for a message broker read from the relay, and notifiers with the drivers ``messaging`` and
``messagingv2`` send to it.

A broker stores messages and may block its users. The relay does neither, so this driver does not
provide all features of the interface. A notification is sent immediately or dropped, whatever
``retry`` says, and a gap record announces the drop to subscribers. The driver refuses remote
procedure calls.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from oslo_config import cfg
from oslo_messaging import Target, TransportURL
from oslo_messaging._drivers import base

from notif_relay.errors import InvalidRecord, RecordTooLarge
from notif_relay.messaging import options
from notif_relay.messaging.envelope import seal
from notif_relay.messaging.listener import RelayListener
from notif_relay.messaging.producer import Producer
from notif_relay.messaging.url import checked_socket_path, sharing, socket_path
from notif_relay.paths import INGEST_SOCKET

LOG = logging.getLogger(__name__)

NO_RPC = (
    "The unix transport carries notifications only, not remote procedure calls:"
    f" set transport_url = unix:// in [{options.GROUP}], and name a broker in [DEFAULT]."
)


class UnixTransportDriver(base.BaseDriver):  # type: ignore[misc]
    """The driver that oslo.messaging creates for a ``transport_url`` that starts with ``unix:``.

    Args:
        conf: the configuration of the service.
        url: the URL, which names the public socket.
        default_exchange: ignored.
        allowed_remote_exmods: ignored.

    Raises:
        InvalidTransportURL: the URL does not name a socket, or has an invalid query.
    """

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        url: TransportURL,
        default_exchange: str | None = None,
        allowed_remote_exmods: list[str] | None = None,
    ) -> None:
        super().__init__(conf, url, default_exchange, allowed_remote_exmods)
        for group, opts in options.list_opts():
            conf.register_opts(opts, group=group)
        self._path = socket_path(url)
        self._sharing = sharing(url)
        default = os.path.join(os.path.dirname(self._path), INGEST_SOCKET)
        self._ingest_path = checked_socket_path(url, conf[options.GROUP].ingest_path or default)
        self._producer: Producer | None = None
        self._listeners: weakref.WeakSet[RelayListener] = weakref.WeakSet()

    def require_features(self, requeue: bool = False) -> None:
        """Accept all features: requeueing is the only one."""

    def send_notification(
        self,
        target: Target,
        ctxt: Any,
        message: Mapping[str, Any],
        version: float,  # noqa: ARG002 (an envelope would hide the fields from other subscribers)
        retry: int | None = None,  # noqa: ARG002 (a service never waits for the relay)
    ) -> None:
        """Send one notification or drop it; this takes at most 10 ms.

        A notification that is too large, that the relay would reject, or that cannot be written as
        JSON is dropped with a warning.
        """
        fields = seal(target.topic, ctxt, message)
        producer = self._producer
        if producer is None:
            # Created on first use, because consumers do not use the private socket.
            producer = self._producer = Producer.shared(self._ingest_path)
        problem: InvalidRecord | RecordTooLarge | None = None
        try:
            producer.send(fields)
        except (InvalidRecord, RecordTooLarge) as error:
            # The notifier would log the exception together with the whole notification.
            problem = error
        # Not in an exception handler: oslo.log appends the exception being handled to a message.
        if problem is not None:
            producer.warn(LOG, message, problem)

    def listen_for_notifications(
        self,
        targets_and_priorities: Collection[tuple[Target, str]],
        pool: str | None,
        batch_size: int | None,
        batch_timeout: float | None,
    ) -> RelayListener:
        """Return a listener, which connects when it is started.

        The exchange of a target is ignored. As with Kafka, only topics are addresses.
        """
        addresses = {(target.topic, priority) for target, priority in targets_and_priorities}
        listener = RelayListener(
            self._path, addresses, pool, self._sharing, batch_size, batch_timeout
        )
        self._listeners.add(listener)
        return listener

    def send(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to make a remote procedure call.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(NO_RPC)

    def listen(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to serve remote procedure calls.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(NO_RPC)

    def cleanup(self) -> None:
        """Stop all listeners; disconnect from the private socket if no other driver uses it."""
        for listener in list(self._listeners):
            listener.cleanup()
        self._producer = None
