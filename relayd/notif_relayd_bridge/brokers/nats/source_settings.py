# SPDX-License-Identifier: Apache-2.0
"""Options of the source for NATS."""

from __future__ import annotations

import re
from dataclasses import dataclass

from oslo_config import cfg

from notif_relayd_bridge.brokers.nats.settings import (
    SECTION,
    ConnectionSettings,
    connection_options,
    connection_settings,
    stream_name,
)
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.errors import StartError

DEFAULT_SUBJECTS = ("notifications.>",)
"""The subjects that bridges write by default."""

_is_subject = re.compile(r"(?:(?:\*|[^\s.*>]+)\.)*(?:\*|>|[^\s.*>]+)").fullmatch

_FORBIDDEN = re.compile("[^a-zA-Z0-9_-]")
"""What the name of a consumer cannot contain, or should not."""


def options() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the section of the source."""
    own: list[cfg.Opt] = [
        cfg.StrOpt(
            "stream",
            help="Stream that is read. The default is the one that the server finds by the topics.",
        ),
        cfg.StrOpt(
            "deliver_policy",
            default="all",
            choices=["all", "new"],
            help="Where a new consumer begins: with the oldest message of the stream, or with the "
            "next one.",
        ),
        cfg.FloatOpt(
            "ack_wait",
            default=5.0,
            min=0.1,
            max=3600,
            help="Seconds after which the server delivers a message again if the bridge neither "
            "acknowledges it nor reports that it is in progress.",
        ),
        cfg.IntOpt(
            "max_ack_pending",
            default=10_000,
            min=1,
            max=1_000_000,
            help="Number of messages that all bridges of the pool have not acknowledged.",
        ),
        cfg.IntOpt(
            "max_unacknowledged",
            default=1000,
            min=1,
            max=10_000,
            help="Number of messages that the bridge has read and the relay has not.",
        ),
    ]
    return [(SECTION, [*own, *connection_options()])]


@dataclass(frozen=True, slots=True)
class SourceSettings(ConnectionSettings):
    """What is configured, validated."""

    consumer: str
    """Name of the durable consumer."""
    subjects: list[str]
    stream: str | None
    deliver_policy: str
    ack_wait: float
    max_ack_pending: int
    max_unacknowledged: int


def settings(url: str, conf: cfg.ConfigOpts, selection: Selection) -> SourceSettings:
    """Return the settings.

    Args:
        url: the URL of the broker.
        conf: the options of the section.
        selection: the subjects and the consumer.

    Raises:
        StartError: the URL, an option or a subject is invalid.
    """
    section = conf.nats
    if selection.exchanges:
        raise StartError("[bridge] exchanges is set, but NATS has none: remove it")
    subjects = list(selection.topics or DEFAULT_SUBJECTS)
    if not all(map(_is_subject, subjects)):
        raise StartError(
            "[bridge] topics has an invalid subject: write tokens with full stops between them, as "
            "in notifications.> and a.*.c"
        )
    connection = connection_settings(url, section)
    return SourceSettings(
        connection.address,
        connection.client,
        connection.tls,
        _FORBIDDEN.sub("_", selection.pool),
        subjects,
        None if section.stream is None else stream_name(section),
        section.deliver_policy,
        section.ack_wait,
        section.max_ack_pending,
        section.max_unacknowledged,
    )
