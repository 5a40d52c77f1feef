# SPDX-License-Identifier: Apache-2.0
"""Sends notifications to RabbitMQ as oslo.messaging's driver ``messagingv2`` would, and reads them.

Services and consumers on the bus need not know of the bridge: exchange, queues, envelope and
properties are those of the driver, and so are the options, which stand in [oslo_messaging_rabbit].
Only the way of confirming differs. The driver waits for the confirmation of each message, and
acknowledges each; the bridge does both for many at once, which is several times as fast.

The modules, from the outside inwards:

- ``target``, ``source``: what the pipeline uses, in each direction;
- ``session``: what is published on one connection, and what becomes of it;
- ``consumer``: what is read on one connection, and acknowledged;
- ``pool``: the queue that is read;
- ``client``: the thread, and the pauses between attempts to connect;
- ``driver``: oslo.messaging's driver, which parses the options and declares the queues;
- ``connection``: one AMQP connection that never blocks;
- ``ledger``: puts confirmations in the order of the messages;
- ``deliveries``: assembles messages from frames;
- ``message``, ``notification``: convert a record to a message, and a message to a record.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oslo_config import cfg

    from notif_relayd_bridge.brokers.source import Selection, Source
    from notif_relayd_bridge.brokers.target import Target


def options() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the sections and options of oslo.messaging's driver."""
    found: list[tuple[str, list[cfg.Opt]]] = _load("driver").options()
    return found


def create(url: str, conf: cfg.ConfigOpts) -> Target:
    """Return a target for a URL that starts with ``rabbit:``.

    Raises:
        StartError: the URL or an option is invalid.
    """
    target: Target = _load("target").RabbitTarget(_load("driver").create(url, conf))
    return target


def source_options() -> list[tuple[str, list[cfg.Opt]]]:
    """Return the sections and options of the source; the bridge names the exchanges itself."""
    return [(section, opts) for section, opts in options() if section != "DEFAULT"]


def create_source(url: str, conf: cfg.ConfigOpts, selection: Selection) -> Source:
    """Return a source for a URL that starts with ``rabbit:``.

    Raises:
        StartError: the URL or an option is invalid.
    """
    driver = _load("driver").create(url, conf)
    source: Source = _load("source").RabbitSource(driver, _load("pool").Pool(driver, selection))
    return source


def _load(module: str) -> Any:
    """Import a module of this package, and with it the client."""
    with warnings.catch_warnings():
        # oslo.messaging imports oslo.service, which imports eventlet, which warns that it is
        # deprecated. Neither is used here.
        warnings.simplefilter("ignore")
        return import_module(f"{__name__}.{module}")
