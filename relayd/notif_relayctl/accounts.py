# SPDX-License-Identifier: Apache-2.0
"""Users and groups, as far as this host knows them.

The daemon leaves the looking-up to relayctl: where accounts come from a directory server it can
take seconds, and relayctl may wait where the daemon may not.
"""

import grp
import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """A user with groups, which are all that the kernel looks at."""

    name: str
    uid: int
    groups: frozenset[int]


def account(user: str) -> Account:
    """The user of this name or number, with the groups that a new login would have.

    Raises:
        LookupError: there is none.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError, ValueError):
        raise LookupError(f"there is no user {user!r}") from None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Account(entry.pw_name, entry.pw_uid, frozenset(groups))


def this_process() -> Account:
    """Who runs this, with the groups that this very process has."""
    uid = os.geteuid()
    return Account(user_name(uid), uid, frozenset({os.getegid(), *os.getgroups()}))


def user_name(uid: int) -> str:
    """The user's name, or the number where nobody has it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The group's name, or the number where none has it."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
