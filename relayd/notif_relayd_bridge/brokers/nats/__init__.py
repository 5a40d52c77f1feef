# SPDX-License-Identifier: Apache-2.0
"""The target and the source for NATS.

Messages go to JetStream, which confirms them; NATS without JetStream confirms nothing. The payload
is the record, and the header ``Nats-Msg-Id`` its message id, by which JetStream removes duplicates
within the duplicate window of the stream. A durable consumer stores the position of a source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notif_relayd_bridge.brokers.nats import source_settings
from notif_relayd_bridge.brokers.nats.settings import options, settings

if TYPE_CHECKING:
    from oslo_config import cfg

    from notif_relayd_bridge.brokers.source import Selection, Source
    from notif_relayd_bridge.brokers.target import Target

__all__ = ["create", "create_source", "options", "source_options"]

source_options = source_settings.options


def create(url: str, conf: cfg.ConfigOpts) -> Target:
    """Return a target; see `target.Create`."""
    from notif_relayd_bridge.brokers.nats.target import NatsTarget  # noqa: PLC0415 (an extra)

    return NatsTarget(settings(url, conf))


def create_source(url: str, conf: cfg.ConfigOpts, selection: Selection) -> Source:
    """Return a source; see `source.CreateSource`."""
    from notif_relayd_bridge.brokers.nats.source import NatsSource  # noqa: PLC0415 (an extra)

    return NatsSource(source_settings.settings(url, conf, selection))
