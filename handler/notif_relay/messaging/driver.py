# SPDX-License-Identifier: Apache-2.0
"""The notify driver ``unix``, which sends a service's notifications to the relay.

It replaces the combination of the log driver and ``RelayHandler``, without a logging file and
without a logger, whose level, filters and missing methods can lose notifications.

Errors are reported in three ways:

- An error in the configuration is raised when the driver is created. stevedore, which creates it,
  logs the error and continues without the driver.
- An unavailable relay is not an error, because that may change at any time; see ``producer.py``.
- A notification that cannot be sent is reported for itself, and the next one is sent.
"""

import logging
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg
from oslo_messaging.notify.notifier import Driver

from notif_relay.errors import InvalidRecord, RecordTooLarge
from notif_relay.messaging.envelope import topic_field
from notif_relay.messaging.options import ingest_path
from notif_relay.messaging.producer import Producer

LOG = logging.getLogger(__name__)


class UnixDriver(Driver):  # type: ignore[misc]
    """Send each notification to the relay on this host, in the format of the log driver.

    All priorities are treated alike. A notification is sent immediately or dropped, so ``retry``
    has no effect; neither has the transport. A notification with other topics than the default,
    ``notifications``, has one more field, with the topic or the list of topics.

    Args:
        conf: the configuration of the service. The routing driver passes none to its drivers and
            uses the global configuration; in that case this driver uses it as well.
        topics: the topics of the notifier.
        transport: ignored.

    Raises:
        ValueError: an option is missing or invalid; the message names it.
    """

    def __init__(
        self, conf: cfg.ConfigOpts | None = None, topics: Any = None, transport: Any = None
    ) -> None:
        super().__init__(cfg.CONF if conf is None else conf, topics, transport)
        self._producer = Producer.shared(ingest_path(self.conf))
        self._topic_field = topic_field(topics or [])

    def notify(
        self,
        ctxt: Any,  # noqa: ARG002 (the log driver does not write the context either)
        message: Mapping[str, Any],
        priority: str,  # noqa: ARG002 (part of the message)
        retry: int | None,  # noqa: ARG002 (notifications are not stored)
    ) -> None:
        """Send ``message`` or drop it; this takes at most 10 ms.

        A notification that is too large, that the relay would reject, or that cannot be written as
        JSON is dropped with a warning.
        """
        problem: InvalidRecord | RecordTooLarge | None = None
        fields = {**message, **self._topic_field} if self._topic_field else message
        try:
            self._producer.send(fields)
        except (InvalidRecord, RecordTooLarge) as error:
            # The notifier would log the exception together with the whole notification.
            problem = error
        # Not in an exception handler: oslo.log appends the exception being handled to a message.
        if problem is not None:
            self._producer.warn(LOG, message, problem)
