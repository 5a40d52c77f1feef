# SPDX-License-Identifier: Apache-2.0
"""Who may connect to a socket, beyond what its file says, and how often.

Everything is accounted for by user: one user's programs, gone wild or hostile, must leave room
for everybody else's. The rate is a token bucket, so that all of a service's workers may come at
once after a restart, but none of them again and again. What is known of a user is forgotten when
it does not matter any more, so the memory for it is bounded by the connections and by the rate.
"""

import time
from collections import Counter
from collections.abc import Callable

from notif_relayd.access.connection_stats import ConnectionStats, Refusal
from notif_relayd.access.token_bucket import TokenBuckets
from notif_relayd.peer import Peer
from notif_relayd.settings import ConnectionLimits

BURST_SECONDS = 40.0
"""A user may connect this many seconds' worth at once."""


class Admission:
    """Counts the connections of one socket.

    Args:
        limits: what holds; may be changed while running, and holds for newcomers.
        clock: seconds.
    """

    def __init__(
        self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.counts = ConnectionStats()
        self._connections: Counter[int] = Counter()
        self._buckets = TokenBuckets(clock)

    def refusal(self, peer: Peer) -> str | None:
        """Why the peer may not come in now; `None` when it may, and from then on it counts."""
        limits, uid = self.limits, peer.uid
        if not self.allows(peer):
            self.counts.refused[Refusal.NOT_ALLOWED] += 1
            return (
                f"uid {uid} is not of {limits.socket}_allow_users or {limits.socket}_allow_groups"
            )
        if self._connections[uid] >= limits.per_user:
            self.counts.refused[Refusal.PER_USER] += 1
            return f"uid {uid} has max_connections_per_user = {limits.per_user} already"
        if self._connections.total() >= limits.max_connections:
            self.counts.refused[Refusal.FULL] += 1
            return f"there are {limits.option} = {limits.max_connections} already"
        self._connections[uid] += 1
        self.counts.come(peer)
        return None

    def take_token(self, uid: int) -> str | None:
        """Why the user may not connect once more now; `None` when it may, and that counts."""
        if self._take_token(uid):
            return None
        self.counts.refused[Refusal.RATE] += 1
        return f"uid {uid} connects more often than max_connection_rate = {self.limits.rate}/s"

    def allows(self, peer: Peer) -> bool:
        """Whether the peer is one of those that may connect at all."""
        return self.limits.allowed is None or peer in self.limits.allowed

    def enter(self, peer: Peer) -> None:
        """A connection is there that a relay before this one let in."""
        self._connections[peer.uid] += 1
        self.counts.kept += 1

    def leave(self, peer: Peer) -> None:
        """It has ended."""
        self.counts.leave(peer)
        self._connections[peer.uid] -= 1
        if not self._connections[peer.uid]:
            del self._connections[peer.uid]

    def _take_token(self, uid: int) -> bool:
        rate = self.limits.rate
        if self._buckets.available(uid, rate, max(1.0, rate * BURST_SECONDS)) < 1:
            return False
        self._buckets.take(uid, 1)
        return True
