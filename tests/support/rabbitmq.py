# SPDX-License-Identifier: Apache-2.0
"""A real RabbitMQ for the tests of the bridge, and a client that reads its queues."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import kombu.compression
import oslo_messaging
import pytest
from oslo_config import cfg
from oslo_context.context import RequestContext

from compare import rabbitmq
from compare.ports import free_port
from notif_relay.messaging.envelope import seal
from notif_relayd_bridge.brokers.schemes import SCHEMES
from support.bridge_targets import SimplePipeline
from support.waiting import TIMEOUT, wait_until

REQUIRED = os.environ.get("NOTIF_RELAYD_BROKER_TESTS") == "required"

needs_rabbitmq = pytest.mark.skipif(
    bool(rabbitmq.missing()) and not REQUIRED, reason="no rabbitmq-server; make test installs it"
)

MAX_MESSAGE_SIZE = 100_000
"""Maximum size of a message that the broker of the tests accepts, in bytes."""

OPENSSL = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
[server]
subjectAltName = IP:127.0.0.1
"""


def record(number: int = 0, **fields: Any) -> bytes:
    """Return a record as the log driver writes it."""
    message = {
        "message_id": f"00000000-0000-0000-0000-{number:012}",
        "publisher_id": "compute.host-1",
        "event_type": "compute.instance.update",
        "priority": "INFO",
        "payload": {"number": number},
        "timestamp": "2026-01-31 12:00:00.123456",
        **fields,
    }
    return json.dumps(message).encode() + b"\n"


class Broker(rabbitmq.Broker):
    """A RabbitMQ with the users, policies and certificates that the tests need."""

    def __init__(self, directory: Path) -> None:
        make_certificates(directory)
        self.authority = directory / "ca.pem"
        self.tls_port = free_port()
        definitions = directory / "definitions.json"
        definitions.write_text(json.dumps(_definitions()))
        super().__init__(
            directory,
            f"""
max_message_size = {MAX_MESSAGE_SIZE}
load_definitions = {definitions}
listeners.ssl.1 = 127.0.0.1:{self.tls_port}
ssl_options.cacertfile = {self.authority}
ssl_options.certfile = {directory}/server.pem
ssl_options.keyfile = {directory}/key.pem
ssl_options.verify = verify_none
""",
        )

    def __enter__(self) -> Broker:
        super().__enter__()
        return self

    @contextlib.contextmanager
    def channel(self) -> Iterator[amqp.Channel]:
        """Yield a channel of a connection of the test."""
        connection = amqp.Connection(f"127.0.0.1:{self.port}", connect_timeout=TIMEOUT)
        connection.connect()
        try:
            yield connection.channel()
        finally:
            connection.close()

    def messages(self, queue: str, number: int) -> list[amqp.Message]:
        """Take a number of messages out of a queue, which must contain no more."""
        found: list[amqp.Message] = []
        with self.channel() as channel:

            def take() -> bool:
                while message := channel.basic_get(queue, no_ack=True):
                    found.append(message)
                return len(found) >= number

            wait_until(take, f"{number} messages in {queue}")
        assert len(found) == number
        return found

    def numbers(self, queue: str) -> list[int]:
        """Take all messages out of a queue; return the numbers of their records."""
        found = []
        with self.channel() as channel:
            while message := channel.basic_get(queue, no_ack=True):
                found.append(notification(message)["payload"]["number"])
        return found


def notification(message: amqp.Message) -> dict[str, Any]:
    """Return the notification in an envelope."""
    body = json.loads(message.body)
    assert body["oslo.version"] == "2.0"
    fields: dict[str, Any] = json.loads(body["oslo.message"])
    return fields


@contextlib.contextmanager
def pipeline_to(url: str, **options: Any) -> Iterator[SimplePipeline]:
    """Yield a pipeline with a target for a URL.

    Args:
        url: the URL of the broker.
        options: of [oslo_messaging_rabbit].
    """
    conf = cfg.ConfigOpts()
    conf([], project="bridge-test", default_config_files=[])
    for group, opts in SCHEMES["rabbit"].options():
        conf.register_opts(opts, group=group)
    for name, value in options.items():
        conf.set_override(name, value, group="oslo_messaging_rabbit")
    with SimplePipeline(SCHEMES["rabbit"].create(url, conf)) as pipeline:
        yield pipeline


@contextlib.contextmanager
def rabbit_transport(url: str, **options: Any) -> Iterator[oslo_messaging.NotificationTransport]:
    """Yield oslo.messaging's transport with options of [oslo_messaging_rabbit]."""
    conf = cfg.ConfigOpts()
    conf([], project="service", default_config_files=[])
    transport = oslo_messaging.get_notification_transport(conf, url=url)
    for name, value in options.items():
        conf.set_override(name, value, group="oslo_messaging_rabbit")
    try:
        yield transport
    finally:
        transport.cleanup()


def record_of(message: Any, key: str = "notifications.error") -> bytes:
    """Return the record that the transport ``unix`` writes for a service's notification."""
    fields = json.loads(json.loads(content(message))["oslo.message"])
    context = {
        name.removeprefix("_context_"): fields.pop(name)
        for name in list(fields)
        if name.startswith("_context_")
    }
    del fields["_unique_id"]
    assert len(fields) == 6
    assert context or "redacted" not in dir(RequestContext)
    return json.dumps(seal(key, context, fields)).encode() + b"\n"


def content(message: Any) -> bytes:
    """Return the body of a message, decompressed."""
    method = message.headers.get("compression")
    data = kombu.compression.decompress(message.body, method) if method else message.body
    return data if isinstance(data, bytes) else data.encode()


def make_certificates(directory: Path) -> None:
    """Create an authority (ca.pem) and a server's certificate for 127.0.0.1."""
    (directory / "openssl.cnf").write_text(OPENSSL)

    def make(section: str, *arguments: str) -> None:
        command = ("openssl", "req", "-x509", "-config", "openssl.cnf", "-extensions", section)
        options = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        subprocess.run(
            [*command, *options, "-days", "2", "-subj", f"/CN={section}", *arguments],
            cwd=directory,
            check=True,
            capture_output=True,
            timeout=TIMEOUT,
        )

    make("authority", "-keyout", "ca-key.pem", "-out", "ca.pem")
    make("server", "-keyout", "key.pem", "-out", "server.pem", "-CA", "ca.pem", "-CAkey",
         "ca-key.pem")  # fmt: skip


def _definitions() -> dict[str, Any]:
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    own = "^(openstack|(notifications|unwritable|unreadable)\\..*)$"
    return {
        "vhosts": [{"name": "/"}],
        "users": [
            _user("guest", "guest"),
            _user("limited", "p4ssword"),  # only the exchange and some queues
            _user("powerless", "p4ssword"),
        ],
        "permissions": [
            {"user": "guest", "vhost": "/", **everything},
            {"user": "limited", "vhost": "/", **everything, "configure": own},
            {"user": "powerless", "vhost": "/", "configure": "^$", "write": "^$", "read": "^$"},
        ],
        "topic_permissions": [
            {
                "user": "limited",
                "vhost": "/",
                "exchange": "openstack",
                "write": "^notifications\\.",
                "read": "^(?!unreadable)",
            }
        ],
        "policies": [
            {
                "vhost": "/",
                "name": "full",
                "pattern": "^full\\.",
                "apply-to": "queues",
                "priority": 0,
                "definition": {"max-length": 1, "overflow": "reject-publish"},
            }
        ],
    }


def _user(name: str, password: str) -> dict[str, Any]:
    salt = b"salt"
    hashed = salt + hashlib.sha256(salt + password.encode()).digest()
    return {
        "name": name,
        "password_hash": base64.b64encode(hashed).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "administrator" if name == "guest" else "",
    }
