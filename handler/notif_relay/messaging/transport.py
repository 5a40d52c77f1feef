# SPDX-License-Identifier: Apache-2.0
"""The transport ``unix``: notifications of oslo.messaging to the relay, and from it.

With it, consumers that were written for a message broker read from the relay, and notifiers of
the drivers ``messaging`` and ``messagingv2`` send to it, by no more than a URL:
``transport_url = unix:///run/notif-relayd/notifications.sock``.

A broker stores, and may make its user wait. The relay does neither, so this transport cannot
promise all that the interface asks for: a notification goes out at once or is dropped, whatever
``retry`` says, and is told to the subscribers as missing. What needs a broker is refused: remote
procedure calls, and to put a notification back.
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

from notif_relay.errors import RecordTooLarge
from notif_relay.messaging import options
from notif_relay.messaging.envelope import seal
from notif_relay.messaging.listener import NO_REQUEUE, RelayListener
from notif_relay.messaging.producer import Producer
from notif_relay.messaging.serialization import dump
from notif_relay.messaging.url import socket_path, usable
from notif_relay.paths import INGEST_SOCKET

LOG = logging.getLogger(__name__)

NO_RPC = (
    "The unix transport carries notifications only, no remote procedure calls:"
    f" name it as transport_url in [{options.GROUP}], and a broker in [DEFAULT]."
)


class UnixTransportDriver(base.BaseDriver):  # type: ignore[misc]
    """What oslo.messaging makes of a ``transport_url`` that begins with ``unix:``.

    Raises:
        InvalidTransportURL: the URL does not name a socket.
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
        beside = os.path.join(os.path.dirname(self._path), INGEST_SOCKET)
        self._ingest_path = usable(url, conf[options.GROUP].ingest_path or beside)
        self._producer: Producer | None = None
        self._listeners: weakref.WeakSet[RelayListener] = weakref.WeakSet()

    def require_features(self, requeue: bool = False) -> None:
        """Refuse what the relay cannot do.

        Raises:
            NotImplementedError: requeueing is asked for.
        """
        if requeue:
            raise NotImplementedError(NO_REQUEUE)

    def send_notification(
        self,
        target: Target,
        ctxt: Any,
        message: Mapping[str, Any],
        version: float,  # noqa: ARG002 (an envelope would hide the notification from others)
        retry: int | None = None,  # noqa: ARG002 (a service never waits for the relay)
    ) -> None:
        """Send one notification, or drop it, in ten milliseconds at most.

        Raises:
            TypeError, ValueError, RecursionError: it cannot be written as JSON.
        """
        record = dump(seal(target.topic, ctxt, message))
        producer = self._producer
        if producer is None:
            # Not before: a consumer has no business at the private socket.
            producer = self._producer = Producer.shared(self._ingest_path)
        try:
            producer.send(record)
        except RecordTooLarge as error:
            # Raised, it would get the whole notification into the service's log.
            LOG.warning("%s of %s: %s", message["event_type"], message["publisher_id"], error)

    def listen_for_notifications(
        self,
        targets_and_priorities: Collection[tuple[Target, str]],
        pool: str | None,  # noqa: ARG002 (every listener has its own copy anyway)
        batch_size: int | None,
        batch_timeout: float | None,
    ) -> RelayListener:
        """Make a listener, which connects when it is started.

        A target's exchange is not looked at: as with Kafka, topics alone are addresses.
        """
        addresses = {(target.topic, priority) for target, priority in targets_and_priorities}
        listener = RelayListener(self._path, addresses, batch_size, batch_timeout)
        self._listeners.add(listener)
        return listener

    def send(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to call anything.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(NO_RPC)

    def listen(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to serve calls.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(NO_RPC)

    def cleanup(self) -> None:
        """Stop the listeners that are left, and disconnect if nobody else sends."""
        for listener in list(self._listeners):
            listener.cleanup()
        self._producer = None
