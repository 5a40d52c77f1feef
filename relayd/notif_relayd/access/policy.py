# SPDX-License-Identifier: Apache-2.0
"""Which subscribers may see what.

A rule lets the members of a group see what a filter lets through. Who is in several groups sees
what any of their rules allows. Where there is any rule, who is in no rule's group sees nothing but
gap records: a rule that somebody could escape by leaving a group would be none. Root sees
everything, as everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from notif_relayd.peer import ROOT_UID, Peer
from notif_relayd.records.filters import Filter


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What the members of a group may see."""

    group: int
    lets_through: Filter


@dataclass(frozen=True, slots=True)
class Policy:
    """All of them."""

    rules: Sequence[AccessRule] = ()

    def allowed(self, peer: Peer) -> frozenset[Filter] | None:
        """What the peer may see: what any of these lets through; `None` for everything."""
        if not self.rules or peer.uid == ROOT_UID:
            return None
        return frozenset(each.lets_through for each in self.rules if each.group in peer.groups)
