# SPDX-License-Identifier: Apache-2.0
"""Members of groups, as plain sockets."""

from __future__ import annotations

import json

from support.relay import Relay, Subscriber


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
