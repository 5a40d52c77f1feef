# SPDX-License-Identifier: Apache-2.0
"""Access rules: which subscribers may read which records.

A rule allows the members of a group to read the records that match a filter:

- Without any rule, every subscriber may read every record.
- A process in several groups may read what any of their rules allows.
- If there are rules, a process in none of their groups receives gap records only. Otherwise, a
  program could avoid a rule by leaving its group.
- Root may read every record.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from notif_relayd.peer import ROOT_UID, Credentials
from notif_relayd.records.filters import Filter


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One section ``[access:NAME]`` of the configuration."""

    group: int
    """Group ID."""
    readable: Filter


@dataclass(frozen=True, slots=True)
class Policy:
    """All access rules."""

    rules: Sequence[AccessRule] = ()

    def allowed(self, peer: Credentials) -> frozenset[Filter] | None:
        """Return the filters of which a record must match one; `None` if all may be read."""
        if not self.rules or peer.uid == ROOT_UID:
            return None
        return frozenset(each.readable for each in self.rules if each.group in peer.groups)
