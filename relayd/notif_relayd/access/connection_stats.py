# SPDX-License-Identifier: Apache-2.0
"""Connection statistics for one listening socket.

A reconnect is a connection of a process whose earlier connection has ended. This distinguishes a
service whose connection breaks from a script that connects once a minute with a new process.
"""

from __future__ import annotations

import enum
from collections import Counter

import msgspec

from notif_relayd.peer import Peer

MAX_REMEMBERED = 4096
"""Number of disconnected processes that are remembered: twice the default connection limit."""

NO_PID = 0
"""Process ID of a peer that is not visible, for example in another PID namespace."""


class Refusal(str, enum.Enum):
    """Reason for a refused connection; the value appears in metrics."""

    NOT_ALLOWED = "not_allowed"
    PER_USER = "per_user"
    FULL = "full"
    RATE = "rate"


class ConnectionStatsState(msgspec.Struct):
    """Saved connection statistics."""

    accepted: int
    reconnected: int
    kept: int
    refused: dict[str, int]
    """Refused connections, by the value of the `Refusal`."""


class ConnectionStats:
    """Counters of the connections to one socket."""

    def __init__(self) -> None:
        self.accepted = 0
        """Accepted connections."""
        self.reconnected = 0
        """Accepted connections of a process whose earlier connection had ended."""
        self.kept = 0
        """Connections taken over from the previous process."""
        self.refused: Counter[Refusal] = Counter()
        self._disconnected: dict[int, None] = {}

    def connected(self, peer: Peer) -> None:
        """Count an accepted connection."""
        self.accepted += 1
        if peer.pid in self._disconnected:
            del self._disconnected[peer.pid]
            self.reconnected += 1

    def disconnected(self, peer: Peer) -> None:
        """Remember the process of a connection that has ended."""
        if peer.pid != NO_PID:
            self._disconnected.pop(peer.pid, None)
            self._disconnected[peer.pid] = None
            if len(self._disconnected) > MAX_REMEMBERED:
                del self._disconnected[next(iter(self._disconnected))]

    def save(self) -> ConnectionStatsState:
        """Return the counters. The remembered processes are not saved."""
        refused = {reason.value: self.refused[reason] for reason in Refusal}
        return ConnectionStatsState(self.accepted, self.reconnected, self.kept, refused)

    def restore(self, saved: ConnectionStatsState | None) -> None:
        """Continue with saved counters; `None` if an older version saved none."""
        if saved is not None:
            self.accepted = saved.accepted
            self.reconnected = saved.reconnected
            self.kept = saved.kept
            for reason in Refusal:
                self.refused[reason] = saved.refused.get(reason.value, 0)
