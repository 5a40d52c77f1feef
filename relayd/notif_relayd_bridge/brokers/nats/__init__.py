# SPDX-License-Identifier: Apache-2.0
"""The target for NATS.

Messages go to JetStream, which confirms them; NATS without JetStream confirms nothing. The payload
is the record, and the header ``Nats-Msg-Id`` its message id, by which JetStream removes duplicates
within the duplicate window of the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from notif_relayd_bridge.brokers.nats.settings import options, settings

if TYPE_CHECKING:
    from oslo_config import cfg

    from notif_relayd_bridge.brokers.target import Target

__all__ = ["create", "options"]


def create(url: str, conf: cfg.ConfigOpts) -> Target:
    """Return a target; see `target.Create`."""
    from notif_relayd_bridge.brokers.nats.target import NatsTarget  # noqa: PLC0415 (an extra)

    return NatsTarget(settings(url, conf))
