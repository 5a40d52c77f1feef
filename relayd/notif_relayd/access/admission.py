# SPDX-License-Identifier: Apache-2.0
"""Limits on connections, beyond the permissions of the socket file.

All limits are accounted by user, so that the programs of one user always leave room for those of
others. The rate is limited by a token bucket: all workers of a service may connect at once after a
restart, but may not reconnect in a loop.
"""

import time
from collections import Counter
from collections.abc import Callable

from notif_relayd.access.connection_stats import ConnectionStats, Refusal
from notif_relayd.access.token_bucket import TokenBuckets
from notif_relayd.peer import Peer
from notif_relayd.settings import ConnectionLimits

BURST_SECONDS = 40.0
"""Size of a full token bucket: connections of this many seconds at the configured rate."""


class Admission:
    """Admits connections to one socket, and counts them.

    Memory is bounded: a user without connections and with a full token bucket takes none.

    Args:
        limits: may be replaced at any time; new limits apply to new connections.
        clock: returns seconds.
    """

    def __init__(
        self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.stats = ConnectionStats()
        self._connections: Counter[int] = Counter()
        self._buckets = TokenBuckets(clock)

    def refusal(self, peer: Peer) -> str | None:
        """Count a new connection; return the refusal message if a limit does not allow it.

        A connection that is counted must be given back with `leave`.
        """
        limits, uid = self.limits, peer.uid
        if not self.allows(peer):
            self.stats.refused[Refusal.NOT_ALLOWED] += 1
            return (
                f"uid {uid} is not in {limits.socket}_allow_users or {limits.socket}_allow_groups"
            )
        if self._connections[uid] >= limits.per_user:
            self.stats.refused[Refusal.PER_USER] += 1
            return f"uid {uid} has reached max_connections_per_user = {limits.per_user}"
        if self._connections.total() >= limits.max_connections:
            self.stats.refused[Refusal.FULL] += 1
            return f"{limits.option} = {limits.max_connections} is reached"
        self._connections[uid] += 1
        self.stats.connected(peer)
        return None

    def take_token(self, uid: int) -> str | None:
        """Take one token from the user's rate limit; return the refusal message if none is left."""
        if self._take_token(uid):
            return None
        self.stats.refused[Refusal.RATE] += 1
        return f"uid {uid} exceeds max_connection_rate = {self.limits.rate} connections per second"

    def allows(self, peer: Peer) -> bool:
        """Return whether the allow list, if there is one, contains the peer."""
        return self.limits.allowed is None or peer in self.limits.allowed

    def enter(self, peer: Peer) -> None:
        """Count a connection taken over from the previous process, whatever the limits are."""
        self._connections[peer.uid] += 1
        self.stats.kept += 1

    def leave(self, peer: Peer) -> None:
        """Give back a connection that has ended."""
        self.stats.disconnected(peer)
        self._connections[peer.uid] -= 1
        if not self._connections[peer.uid]:
            del self._connections[peer.uid]

    @property
    def tracked_users(self) -> int:
        """Number of users with connections, plus that of users with a bucket that is not full."""
        return len(self._connections) + len(self._buckets)

    def _take_token(self, uid: int) -> bool:
        rate = self.limits.rate
        if self._buckets.available(uid, rate, max(1.0, rate * BURST_SECONDS)) < 1:
            return False
        self._buckets.take(uid, 1)
        return True
