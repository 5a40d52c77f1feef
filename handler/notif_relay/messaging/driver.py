# SPDX-License-Identifier: Apache-2.0
"""The notify driver ``unix``: what a service names to have its notifications relayed.

It does what the log driver does together with a ``RelayHandler``, with nothing between them: no
logger, whose levels, filters and missing methods lose notifications, and no logging file.

What may go wrong is split as a service needs it. A mistake in the configuration is raised when the
driver is made: stevedore, which makes it, logs that as one line of level ERROR and goes on without
the driver. That the relay cannot be reached may change at any time and is no error (see
``producer.py``). And what makes a single notification impossible to send concerns that one alone.
"""

import logging
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from oslo_messaging.notify.notifier import Driver

from notif_relay.errors import RecordTooLarge
from notif_relay.messaging.options import ingest_path
from notif_relay.messaging.producer import Producer
from notif_relay.messaging.serialization import dump

LOG = logging.getLogger(__name__)


class UnixDriver(Driver):  # type: ignore[misc]
    """Sends each notification to the relay on this host, as the log driver would write it.

    All priorities are alike. A notification is sent at once or dropped, so ``retry`` means nothing
    here; nor do topics and the transport.

    Args:
        conf: the service's configuration. The routing driver gives none to those that it makes,
            and reads the global one itself.

    Raises:
        ValueError: an option is missing or wrong; the message says which.
    """

    def __init__(
        self, conf: cfg.ConfigOpts | None = None, topics: Any = None, transport: Any = None
    ) -> None:
        super().__init__(cfg.CONF if conf is None else conf, topics, transport)
        self._producer = Producer.shared(ingest_path(self.conf))

    def notify(
        self,
        ctxt: Any,  # noqa: ARG002 (as the log driver, which writes the message alone)
        message: Mapping[str, Any],
        priority: str,  # noqa: ARG002 (it is in the message)
        retry: int | None,  # noqa: ARG002 (nothing is kept to be sent again)
    ) -> None:
        """Send ``message``, or drop it, in ten milliseconds at most.

        Raises:
            TypeError, ValueError, RecursionError: it cannot be written as JSON. The notifier logs
                that, as it does for every driver.
        """
        try:
            self._producer.send(dump(message))
        except RecordTooLarge as error:
            # Raised, it would get the whole notification into the service's log.
            LOG.warning("%s of %s: %s", message["event_type"], message["publisher_id"], error)
