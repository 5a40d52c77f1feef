# SPDX-License-Identifier: Apache-2.0
"""Client library of notif-relayd: send notifications to the relay and subscribe to them.

The library is installed into the environment of every service. It therefore depends on the
standard library only, and importing it has no side effects. A module is imported when one of its
names is used first, so that a service does not import the subscriber, and relayctl imports only
what a command needs. The asyncio subscriber is in ``notif_relay.aio``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from notif_relay.version import __version__

if TYPE_CHECKING:
    from notif_relay.errors import (
        BadFilter,
        InvalidRecord,
        PermissionDenied,
        RelayError,
        RelayUnavailable,
        SubscriptionRefused,
        UnreadableRecord,
        WrongProcess,
    )
    from notif_relay.handler import HandlerStats, RelayHandler
    from notif_relay.notification import Gap, Notification, Redelivered
    from notif_relay.subscriber import Subscriber, subscribe

__all__ = [
    "BadFilter",
    "Gap",
    "HandlerStats",
    "InvalidRecord",
    "Notification",
    "PermissionDenied",
    "Redelivered",
    "RelayError",
    "RelayHandler",
    "RelayUnavailable",
    "Subscriber",
    "SubscriptionRefused",
    "UnreadableRecord",
    "WrongProcess",
    "__version__",
    "subscribe",
]

_MODULES = {
    "BadFilter": "errors",
    "Gap": "notification",
    "HandlerStats": "handler",
    "InvalidRecord": "errors",
    "Notification": "notification",
    "PermissionDenied": "errors",
    "Redelivered": "notification",
    "RelayError": "errors",
    "RelayHandler": "handler",
    "RelayUnavailable": "errors",
    "Subscriber": "subscriber",
    "SubscriptionRefused": "errors",
    "UnreadableRecord": "errors",
    "WrongProcess": "errors",
    "subscribe": "subscriber",
}
"""The module of each public name (PEP 562)."""


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
