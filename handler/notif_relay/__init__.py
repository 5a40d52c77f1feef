# SPDX-License-Identifier: Apache-2.0
"""Both ends of the relay: what a service imports to send, and a subscriber to read notifications.

It goes into the environment of every service: it needs the standard library alone, and importing
it does nothing else. Reading with asyncio is in ``notif_relay.aio``, so that only who uses
asyncio pays for importing it.
"""

from notif_relay.errors import (
    BadFilter,
    PermissionDenied,
    RelayError,
    RelayUnavailable,
    UnreadableRecord,
)
from notif_relay.handler import HandlerStats, RelayHandler
from notif_relay.notification import Gap, Notification
from notif_relay.subscriber import Subscriber, subscribe
from notif_relay.version import __version__

__all__ = [
    "BadFilter",
    "Gap",
    "HandlerStats",
    "Notification",
    "PermissionDenied",
    "RelayError",
    "RelayHandler",
    "RelayUnavailable",
    "Subscriber",
    "UnreadableRecord",
    "__version__",
    "subscribe",
]
