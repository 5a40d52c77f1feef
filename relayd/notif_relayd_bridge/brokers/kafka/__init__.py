# SPDX-License-Identifier: Apache-2.0
"""The target for Kafka.

The value of a message is the record, and its key the publisher, so that the records of a publisher
are in one partition and stay in order. The producer is idempotent and waits for all replicas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notif_relayd_bridge.brokers.kafka.settings import options, settings

if TYPE_CHECKING:
    from oslo_config import cfg

    from notif_relayd_bridge.brokers.target import Target

__all__ = ["create", "options"]


def create(url: str, conf: cfg.ConfigOpts) -> Target:
    """Return a target; see `target.Create`."""
    from notif_relayd_bridge.brokers.kafka.target import (  # noqa: PLC0415 (an extra)
        KafkaTarget,
        check,
    )

    parsed = settings(url, conf)
    check(parsed)
    return KafkaTarget(parsed)
