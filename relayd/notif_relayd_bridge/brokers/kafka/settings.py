# SPDX-License-Identifier: Apache-2.0
"""Options of the target for Kafka, and the topic and key of a message."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from oslo_config import cfg

from notif_relay import Notification
from notif_relay.errors import UnreadableRecord
from notif_relay.notification import decode
from notif_relayd_bridge.brokers import address, template
from notif_relayd_bridge.brokers.heads import ByHead
from notif_relayd_bridge.errors import StartError
from notif_relayd_bridge.redaction import Redaction

SECTION = "kafka"

PORT = 9092
"""Default port of a broker."""

MAX_TOPIC = 249
"""Maximum length of a topic in Kafka."""

MAX_KEY = 1024
"""Length at which a key is cut: a publisher's name is longer only by mistake or by intent."""

DEFAULT_TOPIC = "notifications"
"""Value of the field ``{topic}`` for a record without ``_topic``."""

_FORBIDDEN = re.compile("[^a-zA-Z0-9._-]")

_SECRET = re.compile(r"password|secret|\.pem$|oauthbearer\.config")
"""Properties whose values are secret."""

_COMMON_PROPERTIES = """
    client.id client.rack client.dns.lookup receive.message.max.bytes allow.auto.create.topics
    retry.backoff.ms retry.backoff.max.ms
    metadata.max.age.ms metadata.recovery.strategy metadata.recovery.rebootstrap.trigger.ms
    topic.metadata.refresh.interval.ms topic.metadata.refresh.fast.interval.ms
    topic.metadata.refresh.sparse topic.metadata.propagation.max.ms
    socket.timeout.ms socket.send.buffer.bytes socket.receive.buffer.bytes socket.keepalive.enable
    socket.nagle.disable socket.max.fails socket.connection.setup.timeout.ms broker.address.ttl
    broker.address.family connections.max.idle.ms reconnect.backoff.ms reconnect.backoff.max.ms
    api.version.request api.version.request.timeout.ms api.version.fallback.ms
    broker.version.fallback enable.metrics.push
    security.protocol ssl.cipher.suites ssl.curves.list ssl.sigalgs.list ssl.key.location
    ssl.key.password ssl.key.pem ssl.certificate.location ssl.certificate.pem ssl.ca.location
    ssl.ca.pem ssl.crl.location ssl.keystore.location ssl.keystore.password ssl.providers
    enable.ssl.certificate.verification ssl.endpoint.identification.algorithm
    https.ca.location https.ca.pem
    sasl.mechanism sasl.mechanisms sasl.username sasl.password sasl.kerberos.service.name
    sasl.kerberos.principal sasl.kerberos.kinit.cmd sasl.kerberos.keytab
    sasl.kerberos.min.time.before.relogin sasl.oauthbearer.config sasl.oauthbearer.method
    sasl.oauthbearer.client.id sasl.oauthbearer.client.secret sasl.oauthbearer.scope
    sasl.oauthbearer.extensions sasl.oauthbearer.token.endpoint.url
    enable.sasl.oauthbearer.unsecure.jwt
"""

_PRODUCER_PROPERTIES = """
    message.max.bytes message.copy.max.bytes message.timeout.ms delivery.timeout.ms
    request.timeout.ms batch.num.messages batch.size linger.ms queue.buffering.max.ms
    queue.buffering.max.kbytes queue.buffering.max.messages queue.buffering.backpressure.threshold
    message.send.max.retries retries max.in.flight max.in.flight.requests.per.connection
    compression.type compression.codec compression.level partitioner sticky.partitioning.linger.ms
"""

_CONSUMER_PROPERTIES = """
    group.instance.id group.protocol group.remote.assignor partition.assignment.strategy
    session.timeout.ms heartbeat.interval.ms max.poll.interval.ms coordinator.query.interval.ms
    auto.offset.reset isolation.level check.crcs topic.blacklist
    fetch.min.bytes fetch.max.bytes fetch.message.max.bytes max.partition.fetch.bytes
    fetch.wait.max.ms fetch.error.backoff.ms fetch.queue.backoff.ms
    queued.min.messages queued.max.messages.kbytes
"""

PROPERTIES = (*_COMMON_PROPERTIES.split(), *_PRODUCER_PROPERTIES.split())
"""The properties of librdkafka for a producer, except those that the target itself sets, those for
callbacks, and those for tests."""

SOURCE_PROPERTIES = (*_COMMON_PROPERTIES.split(), *_CONSUMER_PROPERTIES.split())
"""Likewise for a consumer."""

DEFAULTS = {
    "client.id": "notif-relayd-bridge",
    "compression.type": "lz4",
    # Then the records go to the spool. The default of librdkafka is 5 minutes.
    "message.timeout.ms": "30000",
    # Memory for messages; further ones wait in the pipeline. The default is 1 GiB.
    "queue.buffering.max.kbytes": "65536",
    # Sends figures about the client to the broker.
    "enable.metrics.push": "false",
}
"""Properties whose defaults differ from those of librdkafka."""

ALIASES = {
    "compression.type": ("compression.codec",),
    "message.timeout.ms": ("delivery.timeout.ms",),
    "fetch.message.max.bytes": ("max.partition.fetch.bytes",),
    "sasl.mechanism": ("sasl.mechanisms",),
}
"""Other names of properties that have a default here."""

FIXED = {
    "enable.idempotence": "true",
    "acks": "all",
    # Errors are reported to the target, and the log would go to standard error.
    "log_level": "0",
}
"""Properties on which the guarantees of the target depend."""


def options() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the section of the target."""
    own: list[cfg.Opt] = [
        cfg.StrOpt(
            "topic",
            default="notifications.{priority}",
            help="Topic of a message; {priority}, {event_type} and {topic}, the record's _topic, "
            "are replaced. Characters that a topic cannot contain become underscores.",
        ),
        cfg.IntOpt(
            "max_unconfirmed",
            default=10_000,
            min=1,
            max=1_000_000,
            help="Number of messages that may be sent without a confirmation.",
        ),
        connect_timeout_option(),
    ]
    return [(SECTION, own + property_options(PROPERTIES))]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is configured. The client validates the properties."""

    route: Callable[[Notification], tuple[str, bytes | None]]
    """Returns the topic and the key of a message."""
    properties: dict[str, str] = field(repr=False)
    max_unconfirmed: int
    connect_timeout: float
    hide: Redaction
    """Removes secrets from a text."""


class Topic:
    """Returns the topic of a message.

    Args:
        text: the template.
    """

    def __init__(self, text: str) -> None:
        fields = {
            "priority": template.priority,
            "event_type": template.event_type,
            "topic": _topic_field,
        }
        self._template = template.parse("[kafka] topic", text, fields)
        for literal, _ in self._template.parts:
            if _FORBIDDEN.search(literal) or len(literal) > MAX_TOPIC:
                raise StartError(
                    "[kafka] topic contains something that a topic cannot contain: use letters, "
                    "digits, dots, dashes and underscores"
                )
        self.depends_on_head = "{topic}" not in text
        """Whether publisher, event type and priority determine the topic."""

    def __call__(self, notification: Notification) -> str:
        """Return a valid topic."""
        return _clean(self._template.fill(notification)[:MAX_TOPIC])


def _clean(topic: str) -> str:
    topic = _FORBIDDEN.sub("_", topic)
    return topic if topic.strip(".") or len(topic) > 2 else "_"  # noqa: PLR2004 (. and ..)


def _topic_field(notification: Notification) -> str:
    try:
        value = decode(notification.raw).get("_topic")
    except UnreadableRecord:
        value = None
    return value if isinstance(value, str) and value else DEFAULT_TOPIC


def key(notification: Notification) -> bytes | None:
    """Return the key of a message; ``None`` if the record names no publisher."""
    return notification.publisher_id[:MAX_KEY].encode(errors="replace") or None


def routing(topic: Topic) -> Callable[[Notification], tuple[str, bytes | None]]:
    """Return a function that returns the topic and the key of a message."""
    if topic.depends_on_head:
        return ByHead(lambda notification: (topic(notification), key(notification)))
    cached_key = ByHead(key)
    return lambda notification: (topic(notification), cached_key(notification))


def settings(url: str, conf: cfg.ConfigOpts) -> Settings:
    """Return the settings.

    Raises:
        StartError: the URL or an option of the target itself is invalid.
    """
    section = conf.kafka
    properties = client_properties(url, section, PROPERTIES, DEFAULTS) | FIXED
    return Settings(
        routing(Topic(section.topic)),
        properties,
        section.max_unconfirmed,
        section.connect_timeout,
        redaction(url, properties),
    )


def client_properties(
    url: str, section: cfg.ConfigOpts.GroupAttr, names: Iterable[str], defaults: Mapping[str, str]
) -> dict[str, str]:
    """Return the properties of a client.

    Args:
        url: the URL of the broker.
        section: the values of the options.
        names: the options that are properties.
        defaults: the defaults that differ from those of librdkafka.

    Raises:
        StartError: the URL is invalid.
    """
    parsed = address.parse(url, SECTION, PORT)
    configured = {name: section[name] for name in names if section[name] is not None}
    defaults = dict(defaults)
    if parsed.user is not None:
        if parsed.password is None:
            raise StartError("the URL of the broker has a user without a password: add it")
        # Not without TLS, unless security.protocol says so.
        defaults |= {"security.protocol": "sasl_ssl", "sasl.mechanism": "PLAIN"}
        configured |= {"sasl.username": parsed.user, "sasl.password": parsed.password}
    defaults = {
        name: value
        for name, value in defaults.items()
        if not any(alias in configured for alias in ALIASES.get(name, ()))
    }
    servers = ",".join(map(str, parsed.servers))
    return defaults | configured | {"bootstrap.servers": servers}


def redaction(url: str, properties: Mapping[str, str]) -> Redaction:
    """Return what removes the secrets among the properties of a client from a text."""
    return Redaction(url, (each for name, each in properties.items() if _SECRET.search(name)))


def property_options(names: Iterable[str]) -> list[cfg.Opt]:
    """Return the options for properties of librdkafka."""
    return [
        cfg.StrOpt(name, secret=bool(_SECRET.search(name)), help="As in librdkafka.")
        for name in names
    ]


def connect_timeout_option() -> cfg.Opt:
    """Return the option for the time in which a broker must answer."""
    return cfg.FloatOpt(
        "connect_timeout",
        default=10.0,
        min=0.1,
        help="Seconds after which an attempt to connect has failed.",
    )
