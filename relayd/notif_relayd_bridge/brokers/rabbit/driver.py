# SPDX-License-Identifier: Apache-2.0
"""oslo.messaging's RabbitMQ driver, as far as the target uses it.

The driver parses the URL and its options and declares exchanges and queues. It neither connects
nor publishes here: its way of doing so blocks, repeats by itself, waits for one confirmation at a
time and needs a second thread for heartbeats.
"""

from __future__ import annotations

import os
import socket
from typing import Any
from urllib.parse import quote, urlsplit

from amqp import AMQPError
from kombu import compression
from kombu.transport import pyamqp
from oslo_config import cfg
from oslo_messaging import InvalidTransportURL, TransportHost, TransportURL
from oslo_messaging._drivers import amqp as amqp_driver
from oslo_messaging._drivers import common, impl_rabbit
from oslo_messaging.transport import _transport_opts

from notif_relayd.escaping import printable
from notif_relayd_bridge.brokers.address import Server
from notif_relayd_bridge.brokers.rabbit.connection import BrokerConnection, BrokerError, Waker
from notif_relayd_bridge.errors import StartError
from notif_relayd_bridge.redaction import Redaction

GROUP = "oslo_messaging_rabbit"

FAILURES = (OSError, AMQPError, BrokerError, UnicodeError)
"""Exceptions after which the target connects again. The last: the name of a host is invalid."""

_MAX_REASON = 400
"""Maximum length of the reason for a failure, in characters; the broker chooses a part of it."""

_FILES = ("ssl_ca_file", "ssl_cert_file", "ssl_key_file")

_USAGE = (
    "rabbit://USER:PASSWORD@HOST:PORT/VHOST is expected, with any of /?#,:@% in the user name and"
    " the password percent-encoded"
)


def options() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the sections and options of the driver."""
    exchange = [each for each in _transport_opts if each.name == "control_exchange"]
    return [("DEFAULT", exchange), (GROUP, [*impl_rabbit.rabbit_opts, *amqp_driver.amqp_opts])]


def create(url: str, conf: cfg.ConfigOpts) -> Driver:
    """Return the driver for a URL.

    Raises:
        StartError: the URL or an option is invalid.
    """
    try:
        parsed = TransportURL.parse(conf, url)
        if "@" in urlsplit(url).path:  # A slash in a password ends the host before its time.
            raise ValueError
    except (InvalidTransportURL, ValueError):
        # Not the cause, which can contain a part of the password.
        raise StartError(f"invalid URL of the broker: {_USAGE}") from None
    for group, opts in options():
        conf.register_opts(opts, group=group)
    try:
        driver = Driver(common.ConfigOptsProxy(conf, parsed, GROUP), parsed)
    except (cfg.Error, RuntimeError, ValueError) as error:
        raise StartError(f"invalid option in [{GROUP}]: {error}") from None
    _check(driver)
    return driver


def _check(driver: Driver) -> None:
    """Check what the driver would only find out later.

    Raises:
        StartError: an option is invalid.
    """
    if driver.rabbit_quorum_queue and driver.rabbit_ha_queues:
        raise StartError(f"set only one in [{GROUP}]: rabbit_quorum_queue or rabbit_ha_queues")
    if driver.kombu_compression:
        try:
            compression.get_encoder(driver.kombu_compression)
        except KeyError:
            raise StartError(f"unknown method in [{GROUP}]: kombu_compression") from None
    for name in _FILES if driver.ssl else ():
        path = getattr(driver, name)
        if path and not os.access(path, os.R_OK):
            raise StartError(f"{name} in [{GROUP}]: cannot read {path}")


class _Transport(pyamqp.Transport):  # type: ignore[misc]
    Connection = BrokerConnection


class Driver(impl_rabbit.Connection):  # type: ignore[misc]
    """The driver's connection, which does not connect.

    Args:
        conf: the configuration with the options of the URL.
        url: the parsed URL.
    """

    def __init__(self, conf: Any, url: TransportURL) -> None:
        # The driver starts no thread for a connection that only listens.
        super().__init__(conf, url, common.PURPOSE_LISTEN)
        self.exchange: str = conf.control_exchange
        self._hide = Redaction("", (each.password for each in url.hosts if each.password))

    @property
    def hosts(self) -> int:
        """Number of hosts in the URL, at least 1."""
        return max(len(self.connection.alt), 1)

    @property
    def address(self) -> str:
        """Host and port to which `connect` connects."""
        return str(Server(self.connection.hostname, self.connection.port))

    def connect(self, waker: Waker) -> BrokerConnection:
        """Connect to the current host.

        Raises:
            One of `FAILURES`, or ClosingError.
        """
        # The driver's own value: py-amqp's ends a connection after a second without an answer.
        unanswered = {socket.TCP_USER_TIMEOUT: int(self.heartbeat_timeout_threshold * 1000)}
        ssl = self.connection.ssl
        client = self.connection.clone(
            transport=_Transport,
            ssl=dict(ssl) if isinstance(ssl, dict) else ssl,  # py-amqp adds the name of the host
            transport_options={
                "client_properties": self.connection.transport_options["client_properties"],
                "heartbeat_rate": self.heartbeat_rate,
                "socket_settings": unanswered,
                "waker": waker,
            },
        )
        connection: BrokerConnection = client.transport.establish_connection()
        return connection

    def next_host(self) -> None:
        """Let `connect` use the next host of the URL."""
        self.connection.maybe_switch_next()

    def declare(self, channel: Any, routing_key: str) -> None:
        """Declare the exchange and the queue for a routing key as a service does.

        Raises:
            One of `FAILURES`, or ClosingError.
        """
        self.channel = channel
        self._declared_queues.clear()
        try:
            self.notify_send(self.exchange, routing_key, None)
        finally:
            self.channel = None

    def describe(self, error: BaseException) -> str:
        """Return why the connection failed, without passwords."""
        text = self._hide(str(error) or type(error).__name__)
        return printable(f"{self.address}: {text}")[:_MAX_REASON]

    def _transform_transport_url(
        self, url: TransportURL, host: TransportHost, *defaults: str, **named_defaults: str
    ) -> str:
        """Return a URL for kombu; a slash is encoded as well, unlike in the base class."""
        transformed: str = super()._transform_transport_url(url, host, *defaults, **named_defaults)
        start, slashes, rest = transformed.partition("://")
        login, at, address = rest.partition("@")
        return start + slashes + quote(login, safe=":%") + at + address

    def ensure_connection(self) -> None:
        """Do not connect; the base class calls this when it is created."""

    def _ensure_publishing(
        self, method: Any, exchange: Any, msg: Any, routing_key: str | None = None, **_: Any
    ) -> None:
        """Call the method once, which declares and then publishes."""
        method(exchange, msg, routing_key)

    def _publish(self, *_: Any, **__: Any) -> None:
        """Do not publish."""
