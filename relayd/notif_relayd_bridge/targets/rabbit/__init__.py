# SPDX-License-Identifier: Apache-2.0
"""Sends notifications to RabbitMQ as oslo.messaging's driver ``messagingv2`` would.

Consumers on the bus need not know of the bridge: exchange, queues, envelope and properties are
those of the driver, and so are the options, which stand in [oslo_messaging_rabbit]. Only the way
of confirming differs. The driver waits for the confirmation of each message; this target waits for
many at once, which is about four times as fast.

The modules, from the outside inwards:

- ``target``: the thread, and the pauses between attempts to connect;
- ``session``: what is published on one connection, and what becomes of it;
- ``driver``: oslo.messaging's driver, which parses the options and declares the queues;
- ``connection``: one AMQP connection that never blocks;
- ``ledger``: puts confirmations in the order of the messages;
- ``message``: converts a record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oslo_config import cfg

    from notif_relayd_bridge.targets.target import Target


def options() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the sections and options of oslo.messaging's driver."""
    from notif_relayd_bridge.targets.rabbit import driver  # noqa: PLC0415 - imports the client

    return driver.options()


def create(url: str, conf: cfg.ConfigOpts) -> Target:
    """Return a target for a URL that starts with ``rabbit:``.

    Raises:
        StartError: the URL or an option is invalid.
    """
    from notif_relayd_bridge.targets.rabbit import driver, target  # noqa: PLC0415 - see above

    return target.RabbitTarget(driver.create(url, conf))
