# SPDX-License-Identifier: Apache-2.0
"""What tests of both routing_keys of subscribers look at."""

from __future__ import annotations

import contextlib
import json
import os

from notif_relay import Notification


def number(notification: Notification) -> int:
    """The number in a record of the tests."""
    value = json.loads(notification.raw)["number"]
    assert isinstance(value, int)
    return value


def open_sockets() -> list[str]:
    """The sockets that this process has, by their inodes."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(name for name in found if name.startswith("socket:"))
