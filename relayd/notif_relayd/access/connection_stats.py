# SPDX-License-Identifier: Apache-2.0
"""What has become of those who connected to one socket, in numbers.

Who connects again is known by its process, for as long as a bounded number of those that left is
remembered: a service whose connection breaks comes back under the same process, and a shell that
asks once a minute does not.
"""

from __future__ import annotations

import enum
from collections import Counter

import msgspec

from notif_relayd.peer import Peer

REMEMBERED = 4096
"""Processes that left, the latest; twice as many as may be connected by default."""

NO_PID = 0
"""Of a process that this one cannot see: in another PID namespace, for instance."""


class Refusal(str, enum.Enum):
    """Why somebody may not come in; the value is a word for it."""

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
    """Counts the connections of one socket."""

    def __init__(self) -> None:
        self.accepted = 0
        """All that were let in."""
        self.reconnected = 0
        """Those of them whose process had one before, which had ended."""
        self.kept = 0
        """Those that were taken over from a relay before this one."""
        self.refused: Counter[Refusal] = Counter()
        self._left: dict[int, None] = {}

    def come(self, peer: Peer) -> None:
        """It was let in."""
        self.accepted += 1
        if peer.pid in self._left:
            del self._left[peer.pid]
            self.reconnected += 1

    def leave(self, peer: Peer) -> None:
        """Its connection has ended."""
        if peer.pid != NO_PID:
            self._left.pop(peer.pid, None)
            self._left[peer.pid] = None
            if len(self._left) > REMEMBERED:
                del self._left[next(iter(self._left))]

    def save(self) -> ConnectionStatsState:
        """The numbers; who has left is forgotten."""
        refused = {reason.value: self.refused[reason] for reason in Refusal}
        return ConnectionStatsState(self.accepted, self.reconnected, self.kept, refused)

    def restore(self, saved: ConnectionStatsState | None) -> None:
        """Go on with the numbers of another relay; an older one has none."""
        if saved is not None:
            self.accepted = saved.accepted
            self.reconnected = saved.reconnected
            self.kept = saved.kept
            for reason in Refusal:
                self.refused[reason] = saved.refused.get(reason.value, 0)
