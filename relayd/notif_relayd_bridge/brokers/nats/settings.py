# SPDX-License-Identifier: Apache-2.0
"""Options of the target for NATS, and the subject of a message."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, field
from typing import Any

from oslo_config import cfg

from notif_relay import Notification
from notif_relayd_bridge.brokers import address, template
from notif_relayd_bridge.brokers.address import Address
from notif_relayd_bridge.brokers.heads import ByHead
from notif_relayd_bridge.brokers.template import Template
from notif_relayd_bridge.errors import StartError

SECTION = "nats"

PORT = 4222
"""Default port of a server."""

MAX_SUBJECT = 1024
"""Length at which a subject is cut. A server disconnects a client whose command has more than
``max_control_line`` bytes, 4096 by default."""

_FORBIDDEN = re.compile(r"[^!-~]|[*>]")
"""What a token cannot contain: white space, control characters and wildcards. NATS recommends
ASCII."""

_RESERVED = ("$", "_INBOX.", "*", ">")
"""Beginnings of subjects that a message must not have: those of the server and of replies."""


def _client_options() -> list[cfg.Opt]:
    """Return the options that the client has under the same name, except those of TLS."""
    return [
        cfg.StrOpt("name", help="Name of the connection in the server's monitoring."),
        cfg.FloatOpt("connect_timeout", default=2.0, min=0.1, help="In seconds, for each step."),
        cfg.FloatOpt("ping_interval", default=120.0, min=0.1, help="In seconds."),
        cfg.IntOpt(
            "max_outstanding_pings",
            default=2,
            min=1,
            help="Number of unanswered pings after which the connection is closed.",
        ),
        cfg.StrOpt("inbox_prefix", default="_INBOX", help="Prefix of the subject of replies."),
        cfg.StrOpt("token", secret=True, help="Token to log in with."),
        cfg.StrOpt("user_credentials", metavar="FILE", help="File with a user's JWT and seed."),
        cfg.StrOpt("nkeys_seed", metavar="FILE", help="File with the seed of an nkey."),
        cfg.StrOpt("nkeys_seed_str", secret=True, help="Seed of an nkey."),
    ]


def _tls_options() -> list[cfg.Opt]:
    return [
        cfg.BoolOpt(
            "tls",
            default=False,
            help="Send nothing, credentials included, to a server without TLS. The default is to "
            "use TLS if the server requires it. A tls_* option implies this one.",
        ),
        cfg.StrOpt("tls_ca_file", metavar="FILE", help="Certificates of the trusted authorities."),
        cfg.StrOpt("tls_cert_file", metavar="FILE", help="The bridge's certificate."),
        cfg.StrOpt("tls_key_file", metavar="FILE", help="The key, if not in tls_cert_file."),
        cfg.StrOpt("tls_hostname", help="Name in the server's certificate, if not the host."),
        cfg.BoolOpt("tls_handshake_first", default=False, help="As the server's handshake_first."),
    ]


def _message_options() -> list[cfg.Opt]:
    return [
        cfg.StrOpt(
            "subject",
            default="notifications.{event_type}",
            help="Subject of a message; {event_type} and {priority} are replaced. Characters that "
            "a subject cannot contain become underscores.",
        ),
        cfg.StrOpt(
            "stream",
            help="Stream that must receive the messages. The default is the one that the server "
            "finds by the subject.",
        ),
        cfg.BoolOpt(
            "create_stream",
            default=False,
            help="Create the stream if it does not exist, for all subjects of the template.",
        ),
        cfg.IntOpt(
            "stream_max_bytes",
            default=1 << 30,
            min=1,
            help="Size of a created stream; the oldest messages are removed.",
        ),
        cfg.FloatOpt(
            "stream_max_age",
            default=7 * 86400.0,
            min=1,
            help="Age, in seconds, at which a created stream removes messages.",
        ),
        cfg.FloatOpt(
            "ack_timeout",
            default=30.0,
            min=0.1,
            help="Seconds without a confirmation after which the bridge connects again.",
        ),
        cfg.IntOpt(
            "max_unconfirmed",
            default=1000,
            min=1,
            max=100_000,
            help="Number of messages that may be sent without a confirmation.",
        ),
    ]


def options() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the section of the target."""
    return [(SECTION, [*_message_options(), *connection_options()])]


def connection_options() -> list[cfg.Opt]:
    """Return the options that determine how to connect."""
    return [*_client_options(), *_tls_options()]


@dataclass(frozen=True, slots=True)
class Stream:
    """The stream that must receive the messages."""

    name: str
    create: bool
    subjects: str
    max_bytes: int
    max_age: float


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How to connect, validated."""

    address: Address
    client: dict[str, Any] = field(repr=False)
    """Arguments of the client's ``connect``."""
    tls: bool


@dataclass(frozen=True, slots=True)
class Settings(ConnectionSettings):
    """What is configured, validated."""

    subject: Subject
    stream: Stream | None
    ack_timeout: float
    max_unconfirmed: int


class Subject:
    """Returns the subject of a message."""

    def __init__(self, text: str) -> None:
        fields = {"event_type": template.event_type, "priority": template.priority}
        self._template = template.parse("[nats] subject", text, fields)
        _check(self._template)
        self._subject = ByHead(self._fill)

    def __call__(self, notification: Notification) -> str:
        """Return a valid subject that begins with the first token of the template."""
        return self._subject(notification)

    def _fill(self, notification: Notification) -> str:
        return _clean(self._template.fill(notification)[:MAX_SUBJECT])

    @property
    def wildcard(self) -> str:
        """The subjects that the template can result in, for a stream."""
        if self._template.is_literal:
            return self._template.prefix
        return self._template.prefix.rpartition(".")[0] + ".>"


def _clean(subject: str) -> str:
    return ".".join(token or "_" for token in _FORBIDDEN.sub("_", subject).split("."))


def _check(subject: Template) -> None:
    """Check that producers, who choose the values, cannot choose the first token.

    Otherwise, they could send requests to the server, such as to delete the stream.
    """
    literal = "".join(text for text, _ in subject.parts)
    if (
        _FORBIDDEN.search(literal)
        or subject.prefix.startswith((".", *_RESERVED))
        or not (subject.is_literal or "." in subject.prefix)
        or len(literal) > MAX_SUBJECT // 2
        or (subject.is_literal and _clean(literal) != literal)
    ):
        raise StartError(
            "[nats] subject must begin with a fixed token, as in notifications.{event_type}, "
            "without spaces, wildcards and reserved names"
        )


def settings(url: str, conf: cfg.ConfigOpts) -> Settings:
    """Return the settings.

    Raises:
        StartError: the URL or an option is invalid.
    """
    section = conf.nats
    subject = Subject(section.subject)
    connection = connection_settings(url, section)
    return Settings(
        connection.address,
        connection.client,
        connection.tls,
        subject,
        _stream(section, subject),
        section.ack_timeout,
        section.max_unconfirmed,
    )


def connection_settings(url: str, section: cfg.ConfigOpts.GroupAttr) -> ConnectionSettings:
    """Return how to connect.

    Args:
        url: the URL of the broker.
        section: the values of the options.

    Raises:
        StartError: the URL or an option is invalid.
    """
    parsed = address.parse(url, SECTION, PORT)
    client = {opt.dest: section[opt.dest] for opt in _client_options()}
    # The user of a URL without a password is a token, as in other clients of NATS.
    if parsed.password is not None:
        client |= {"user": parsed.user, "password": parsed.password}
    elif parsed.user is not None:
        client["token"] = parsed.user
    _check_files(section)
    tls = _tls(section)
    if tls is not None:
        client["tls"] = tls
    for name in ("tls_hostname", "tls_handshake_first"):
        client[name] = section[name]
    return ConnectionSettings(
        parsed,
        {name: value for name, value in client.items() if value is not None},
        section.tls or any(section[opt.dest] for opt in _tls_options()),
    )


def _stream(section: cfg.ConfigOpts.GroupAttr, subject: Subject) -> Stream | None:
    if section.stream is None:
        if section.create_stream:
            raise StartError("[nats] create_stream is set without a name: set stream as well")
        return None
    return Stream(
        stream_name(section),
        section.create_stream,
        subject.wildcard,
        section.stream_max_bytes,
        section.stream_max_age,
    )


def stream_name(section: cfg.ConfigOpts.GroupAttr) -> str:
    """Return the name of the stream.

    Raises:
        StartError: it is not valid.
    """
    name: str = section.stream
    if not name or re.search(r"[^!-~]|[.*>/\\]", name):
        raise StartError("[nats] stream is not a valid name: use letters, digits, - and _")
    return name


def _check_files(section: cfg.ConfigOpts.GroupAttr) -> None:
    """Check what the client would only find out when a server asks for it."""
    for name in ("user_credentials", "nkeys_seed"):
        path = section[name]
        if path is not None and not os.access(path, os.R_OK):
            raise StartError(f"[nats] {name}: cannot read {path}")
    if section.tls_key_file and not section.tls_cert_file:
        raise StartError("[nats] tls_key_file is set without tls_cert_file: set both, or neither")


def _tls(section: cfg.ConfigOpts.GroupAttr) -> ssl.SSLContext | None:
    if not (section.tls_ca_file or section.tls_cert_file):
        return None
    try:
        context = ssl.create_default_context(cafile=section.tls_ca_file)
        if section.tls_cert_file:
            # An encrypted key would make OpenSSL ask for a password on the terminal.
            context.load_cert_chain(section.tls_cert_file, section.tls_key_file, lambda: "")
    except OSError as error:
        files = ", ".join(filter(None, (section.tls_ca_file, section.tls_cert_file)))
        raise StartError(
            f"[nats] cannot use the TLS files {files}: {error.strerror or error}"
        ) from error
    return context
