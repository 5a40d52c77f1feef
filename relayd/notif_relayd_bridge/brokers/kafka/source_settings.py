# SPDX-License-Identifier: Apache-2.0
"""Options of the source for Kafka."""

from __future__ import annotations

from dataclasses import dataclass, field

from oslo_config import cfg

from notif_relayd_bridge.brokers.kafka.settings import (
    SECTION,
    SOURCE_PROPERTIES,
    client_properties,
    connect_timeout_option,
    property_options,
    redaction,
)
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.errors import StartError
from notif_relayd_bridge.redaction import Redaction

DEFAULT_TOPICS = (r"^notifications\.(audit|critical|debug|error|info|other|sample|warn)$",)
"""The topics that bridges and oslo.messaging write by default. As a pattern, because a topic exists
only after the first notification of its priority."""

DEFAULTS = {
    "client.id": "notif-relayd-bridge",
    # Messages that are in the topic before the first start are not lost, nor those that reach a new
    # partition before the client knows it. The default of librdkafka is the end of the topic.
    "auto.offset.reset": "earliest",
    # A member that comes or goes does not interrupt the partitions that the others keep.
    "partition.assignment.strategy": "cooperative-sticky",
    # Memory for messages that are fetched in advance. The default is 64 MiB.
    "queued.max.messages.kbytes": "8192",
    "fetch.max.bytes": "8388608",
    # With this little memory, the default of a second would interrupt the flow.
    "fetch.queue.backoff.ms": "100",
    # How long a new topic remains unknown. The default is 5 minutes.
    "topic.metadata.refresh.interval.ms": "30000",
    # Sends figures about the client to the broker.
    "enable.metrics.push": "false",
}
"""Properties whose defaults differ from those of librdkafka."""

FIXED = {
    # The source commits what the relay has taken.
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    # Errors are reported to the source, and the log would go to standard error.
    "log_level": "0",
}
"""Properties on which the guarantees of the source depend."""


def options() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the section of the source."""
    own: list[cfg.Opt] = [
        cfg.IntOpt(
            "max_unacknowledged",
            default=1000,
            min=1,
            max=1_000_000,
            help="Number of messages that the bridge has read and the relay has not taken.",
        ),
        connect_timeout_option(),
    ]
    return [(SECTION, own + property_options(SOURCE_PROPERTIES))]


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """What is configured. The client validates the properties."""

    topics: list[str]
    """Names of topics, and patterns that begin with ``^``."""
    properties: dict[str, str] = field(repr=False)
    max_unacknowledged: int
    connect_timeout: float
    hide: Redaction
    """Removes secrets from a text."""


def settings(url: str, conf: cfg.ConfigOpts, selection: Selection) -> SourceSettings:
    """Return the settings.

    Args:
        url: the URL of the broker.
        conf: the options of the section.
        selection: the topics, which are names and patterns, and the group of consumers.

    Raises:
        StartError: the URL or an option of the source itself is invalid.
    """
    section = conf.kafka
    properties = client_properties(url, section, SOURCE_PROPERTIES, DEFAULTS)
    strategy = "partition.assignment.strategy"
    if properties.get("group.protocol") == "consumer" and section[strategy] is None:
        del properties[strategy]  # The brokers choose there, and the client accepts no value.
    properties |= FIXED | {"group.id": selection.pool}
    if selection.exchanges:
        raise StartError("[bridge] exchanges is set, but Kafka has none: remove it")
    return SourceSettings(
        list(selection.topics or DEFAULT_TOPICS),
        properties,
        section.max_unacknowledged,
        section.connect_timeout,
        redaction(url, properties),
    )
