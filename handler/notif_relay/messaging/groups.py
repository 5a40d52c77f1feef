# SPDX-License-Identifier: Apache-2.0
"""The groups of the relay that a listener is a member of.

On RabbitMQ, there is one queue for each topic, and all listeners of the topic share it. So a
listener without a pool is a member of one group for each of its topics, on a connection of its own,
and two listeners share the work for the topics that both have. A pool has one queue for all topics,
and is one group here.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace

from notif_relay.group import is_group_name

DEFAULT_WINDOW = 256
"""Maximum number of unhandled notifications of one connection: four for each of the 64 threads of
oslo.messaging's executor."""

DEFAULT_HOLD = 60.0
"""Seconds for which a group keeps its place without members.

This is longer than a restart of a consumer takes: ceilometer-agent-notification needs 5 to 20
seconds to end its workers, start Python and load its pipelines. Meanwhile the relay keeps the
notifications in the ring that all subscribers share, so a longer time seldom helps more. It is
below the relay's default of ``max_hold``, 300 seconds.
"""


@dataclass(frozen=True, slots=True)
class Sharing:
    """How the listeners of a transport share notifications, as the transport URL says."""

    group: str | None = None
    """Name of the group; None for a group of each pool or topic."""
    own_copy: bool = False
    """Whether each listener gets all notifications, as without groups."""
    window: int = DEFAULT_WINDOW
    """Maximum number of unhandled notifications of one connection."""
    hold: float = DEFAULT_HOLD
    """Seconds for which a group keeps its place without members."""
    may_hold_less: bool = True
    """Whether the relay may permit less: the URL does not state the time."""

    def for_batches(self, size: int) -> "Sharing":
        """Return a copy whose window has room for two batches, so that they can overlap."""
        return replace(self, window=max(self.window, min(2 * size, MAX_BATCH_WINDOW)))


MAX_BATCH_WINDOW = 65536
"""Largest window that the relay accepts."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one connection of a listener reads."""

    group: str | None
    """The group; None for all notifications."""
    topics: frozenset[str]
    """Topics of the notifications that are passed on."""


def shares(sharing: Sharing, pool: str | None, topics: Collection[str]) -> list[Share]:
    """Return the connections of a listener.

    Args:
        sharing: what the transport URL says.
        pool: the pool of the listener, if any.
        topics: its topics.
    """
    if sharing.own_copy:
        return [Share(None, frozenset(topics))]
    if sharing.group is not None:
        return [Share(sharing.group, frozenset(topics))]
    if pool is not None:
        return [Share(group_name(pool), frozenset(topics))]
    return [Share(group_name(f"topic:{topic}"), frozenset({topic})) for topic in sorted(topics)]


def group_name(name: str) -> str:
    """Return a name that the relay accepts: the given one if possible, or else a digest of it."""
    if is_group_name(name):
        return name
    return f"sha256:{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()[:48]}"
