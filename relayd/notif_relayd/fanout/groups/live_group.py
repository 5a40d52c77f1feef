# SPDX-License-Identifier: Apache-2.0
"""A group with its subscribers."""

from __future__ import annotations

from notif_relayd.fanout.groups.group import Group
from notif_relayd.fanout.subscriber import Subscriber

GroupKey = tuple[int, str]
"""User id and name."""


class LiveGroup:
    """A group, its subscribers, and what it costs its user.

    Args:
        key: the user id and the name.
        group: the group.
        since: time at which the group began, in UTC; identifies it among those with its key.
    """

    def __init__(self, key: GroupKey, group: Group, since: str) -> None:
        self.key = key
        self.group = group
        self.since = since
        self.subscribers: dict[int, Subscriber] = {}
        """By the number of the member."""
        self.ready: dict[int, Subscriber] = {}
        """The subscribers whose sockets took all that was sent, in the order in which they are
        served."""
        self.held_until: float | None = None
        """Time, by the monotonic clock, at which a group without members ends."""
        self.charge = 0
        """Bytes charged to the user."""
        self.streams_cost = 0
        """The part of `charge` for the streams."""
        self.lost = 0
        """Value of `group.lost` when the group had caught up, or lost records, the last time."""
        self.lost_before: int | None = None
        """Value of `group.lost` before the loss that the log has reported; `None` if there is no
        such loss, or the group has caught up since."""
