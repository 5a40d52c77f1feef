# SPDX-License-Identifier: Apache-2.0
"""What a service imports to have its notifications relayed on the host.

It goes into the environment of every service: it needs the standard library alone, and importing
it does nothing else.
"""

from notif_relay.handler import HandlerStats, RelayHandler
from notif_relay.version import __version__

__all__ = ["HandlerStats", "RelayHandler", "__version__"]
