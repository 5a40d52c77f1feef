# SPDX-License-Identifier: Apache-2.0
"""Members of groups, as plain sockets."""

from __future__ import annotations

import json
from typing import Any

from support.relay import Relay, Subscriber
from support.waiting import wait_until


def request(subscriber: Subscriber, **keys: object) -> None:
    """Send a request."""
    subscriber.socket.sendall(json.dumps(keys).encode() + b"\n")


def join(relay: Relay, **keys: object) -> Subscriber:
    """Return a member of the group "g", or of another one, that has its answer."""
    subscriber = Subscriber(relay.public)
    request(subscriber, **({"group": "g"} | keys))
    while (answer := subscriber.notification())["event_type"] != "notif_relayd.subscribed":
        assert not answer["event_type"].startswith("notif_relayd.")
    return subscriber


def numbers(subscriber: Subscriber, count: int) -> list[int]:
    """Return the numbers of the next records."""
    return [subscriber.notification()["number"] for _ in range(count)]


def group(relay: Relay) -> dict[str, Any]:
    """Return the only group."""
    (found,) = relay.request("groups")
    assert isinstance(found, dict)
    return found


def wait_group(relay: Relay, **expected: object) -> None:
    """Wait until the only group has these values."""
    wait_until(lambda: expected.items() <= group(relay).items(), f"group {expected}")
