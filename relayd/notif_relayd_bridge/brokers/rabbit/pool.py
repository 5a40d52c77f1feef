# SPDX-License-Identifier: Apache-2.0
"""The queue of a pool: a copy of the notifications for its consumers, beside those of others.

Its properties and bindings are those of oslo.messaging's listener with a pool. The queue has the
name of the pool, and is bound to each exchange for each topic and priority. Messages for topics are
copied to it from the moment when it exists, also while no bridge runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from amqp import AccessRefused, PreconditionFailed
from oslo_messaging._drivers.impl_rabbit import _get_queue_arguments

from notif_relay.messaging.envelope import DEFAULT_TOPIC
from notif_relayd.escaping import printable
from notif_relayd_bridge.brokers.rabbit.connection import BrokerConnection
from notif_relayd_bridge.brokers.rabbit.driver import Driver
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.brokers.template import LOWER_PRIORITIES

LOG = logging.getLogger(__name__)

EXCHANGES = (
    *("openstack", "nova", "glance", "neutron", "cinder", "heat", "keystone", "sahara", "trove"),
    *("zaqar", "swift", "ceilometer", "magnum", "dns", "ironic", "aodh"),
)
"""The default: those of the option notification_control_exchanges of ceilometer, and that of
services and bridges that do not name one."""


class Pool:
    """The queue and its bindings.

    Args:
        driver: has the options of the queue.
        selection: names of the queue, the exchanges and the topics.
    """

    def __init__(self, driver: Driver, selection: Selection) -> None:
        self.queue = selection.pool
        self._driver = driver
        self._exchanges = tuple(dict.fromkeys(selection.exchanges or EXCHANGES))
        self._topics = tuple(dict.fromkeys(selection.topics or (DEFAULT_TOPIC,)))
        self._reported: set[str] = set()
        """What exists with other properties, which has been logged."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the consumer."""
        return {"x-cancel-on-ha-failover": True} if self._driver.enable_cancel_on_failover else {}

    def declare(self, connection: BrokerConnection) -> None:
        """Declare the queue and its bindings.

        Raises:
            One of `FAILURES`, or ClosingError.
        """
        # A failed declaration closes its channel, so it has one of its own.
        channel = connection.channel()
        durable, auto_delete = self._driver.durable, self._driver.amqp_auto_delete
        self._declare(
            f"queue {self.queue}",
            lambda: channel.queue_declare(
                self.queue,
                durable=durable,
                auto_delete=auto_delete,
                exclusive=False,
                arguments=self._queue_arguments(),
            ),
        )
        for exchange in self._exchanges:
            self._declare(
                f"exchange {exchange}",
                lambda exchange=exchange: channel.exchange_declare(  # type: ignore[misc]
                    exchange, "topic", durable=durable, auto_delete=auto_delete
                ),
            )
            for topic in self._topics:
                for priority in sorted(LOWER_PRIORITIES):
                    channel.queue_bind(self.queue, exchange, f"{topic}.{priority}")
        channel.close()

    def _declare(self, name: str, declare: Callable[[], object]) -> None:
        """Declare a queue or an exchange; one that exists with other properties is used."""
        try:
            declare()
        except (PreconditionFailed, AccessRefused) as error:
            if isinstance(error, AccessRefused) and name.startswith("queue "):
                raise
            if name not in self._reported:
                self._reported.add(name)
                LOG.warning(
                    "%s cannot be declared as configured and is used as is: %s",
                    printable(name),
                    printable(error.reply_text or type(error).__name__)[:200],
                )

    def _queue_arguments(self) -> dict[str, Any]:
        driver = self._driver
        found: dict[str, Any] = _get_queue_arguments(
            driver.rabbit_ha_queues,
            0,
            driver.rabbit_quorum_queue,
            driver.rabbit_quorum_queue_config,
            False,
        )
        return found
