# SPDX-License-Identifier: Apache-2.0
"""The records that the relay itself makes: gaps, errors, answers to a filter request.

They have the six fields of every notification, so that a consumer needs no second parser for
them; their ``event_type`` starts with ``notif_relayd.``. The daemon and the handler both make
gap records, and a subscriber must not be able to tell which: this is the only place that knows
their shape.
"""

import datetime as dt
import json
import socket
import uuid
from collections.abc import Mapping
from typing import Literal

GapReason = Literal["slow_subscriber", "producer_congested", "relay_restarted"]

EVENT_TYPE_PREFIX = "notif_relayd."

GAP = EVENT_TYPE_PREFIX + "gap"
SUBSCRIBED = EVENT_TYPE_PREFIX + "subscribed"
ERROR = EVENT_TYPE_PREFIX + "error"

FULL = "This relay takes no more subscribers"
"""How the error begins that a subscriber gets who is one too many: no fault of its request."""

MAX_RECORD_SIZE = 1024 * 1024
"""Bytes of the longest record that is carried, its newline included (both ends' default)."""


def gap(dropped: int | None, reason: GapReason) -> bytes:
    """The record that stands for ``dropped`` missing ones, ``None`` where nobody knows."""
    return _record(GAP, "WARN", {"dropped": dropped, "reason": reason})


def error(sentence: str) -> bytes:
    """The answer to a request that cannot be met; the connection is closed after it."""
    return _record(ERROR, "ERROR", sentence)


def subscribed(patterns: Mapping[str, object]) -> bytes:
    """The answer to a filter request: from here on only what the filter lets through."""
    return _record(SUBSCRIBED, "INFO", patterns)


def _record(event_type: str, priority: str, payload: Mapping[str, object] | str) -> bytes:
    notification = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": f"notif-relayd.{socket.gethostname()}",
        "event_type": event_type,
        "priority": priority,
        "payload": payload,
        # oslo.messaging writes naive UTC in this form.
        "timestamp": str(dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)),
    }
    # Not escaped: the answer to a request must not be larger than the request.
    return json.dumps(notification, ensure_ascii=False).encode() + b"\n"
