# SPDX-License-Identifier: Apache-2.0
"""Client library of notif-relayd: send notifications to the relay and subscribe to them.

The library is installed into the environment of every service. It therefore depends on the
standard library only, and importing it has no side effects. The asyncio subscriber is in
``notif_relay.aio``, so that programs without asyncio do not import it.
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
