# SPDX-License-Identifier: Apache-2.0
"""The target and the source for Kafka.

The value of a message is the record, and its key the publisher, so that the records of a publisher
are in one partition and stay in order. The producer is idempotent and waits for all replicas. The
consumer commits the offset of a message after the relay has read its record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notif_relayd_bridge.brokers.kafka import source_settings
from notif_relayd_bridge.brokers.kafka.settings import options, settings

if TYPE_CHECKING:
    from oslo_config import cfg

    from notif_relayd_bridge.brokers.source import Selection, Source
    from notif_relayd_bridge.brokers.target import Target

__all__ = ["create", "create_source", "options", "source_options"]

source_options = source_settings.options


def create(url: str, conf: cfg.ConfigOpts) -> Target:
    """Return a target; see `target.Create`."""
    from notif_relayd_bridge.brokers.kafka.version import check_version  # noqa: PLC0415 (an extra)

    check_version()
    from notif_relayd_bridge.brokers.kafka.target import (  # noqa: PLC0415 (an extra)
        KafkaTarget,
        check,
    )

    parsed = settings(url, conf)
    check(parsed)
    return KafkaTarget(parsed)


def create_source(url: str, conf: cfg.ConfigOpts, selection: Selection) -> Source:
    """Return a source; see `source.CreateSource`."""
    from notif_relayd_bridge.brokers.kafka.version import check_version  # noqa: PLC0415 (an extra)

    check_version()
    from notif_relayd_bridge.brokers.kafka.source import (  # noqa: PLC0415 (an extra)
        KafkaSource,
        check,
    )

    parsed = source_settings.settings(url, conf, selection)
    check(parsed)
    return KafkaSource(parsed)
