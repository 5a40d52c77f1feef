# SPDX-License-Identifier: Apache-2.0
"""Check whether the relay has rejected records that this process has sent.

The relay does not answer producers. It counts the records of each connection, which users who may
query it can see.
"""

import os
import time

from notif_relayctl.client import ask
from notif_relayctl.errors import CtlError
from notif_relayd.control.schema import Metrics, ProducerStatus

READ_TIMEOUT = 1.0
"""Seconds to wait until the relay has read everything. It may start at the first connection."""

QUERY_INTERVAL = 0.002
"""Seconds between two queries while the relay has not counted all records."""

_TEXTS = {"too_long": "longer than max_record_size"}
"""Descriptions of the reasons whose names in the metrics do not explain themselves."""


def check_rejected(control_path: str, sent: int) -> None:
    """Raise an error if the relay has rejected records of this process.

    Return if this user may not query the relay, or if the relay does not list this process, because
    it belongs to another socket or has closed the connection.

    Args:
        control_path: the control socket.
        sent: number of records that were sent over one connection that is still open.

    Raises:
        CtlError: the relay has rejected some of them.
    """
    deadline = time.monotonic() + READ_TIMEOUT
    try:
        while time.monotonic() < deadline:
            producers = ask(control_path, "producers", list[ProducerStatus])
            counts = [each for each in producers if each.pid == os.getpid()]
            if not counts or counts[0].records + counts[0].rejected >= sent:
                break
            time.sleep(QUERY_INTERVAL)
        if not counts or not counts[0].rejected:
            return
        reasons = ask(control_path, "metrics", Metrics).rejected
    except CtlError:
        return
    # `send` has checked all but the limit of this relay. The counts are those of all producers.
    known = " or ".join(_TEXTS.get(name, name) for name, number in reasons.items() if number)
    raise CtlError(
        f"the relay rejected {counts[0].rejected} of {sent} notifications: {known}; see its log"
    )
