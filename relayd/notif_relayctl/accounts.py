# SPDX-License-Identifier: Apache-2.0
"""Users and groups in the account databases of this host.

relayctl looks up names so that the daemon need not: if the accounts are in a directory server, a
lookup can take seconds, for which the daemon must not block.
"""

import grp
import os
import pwd
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Account:
    """A user and its groups, by which the kernel decides about access."""

    name: str
    uid: int
    groups: frozenset[int]


def account(user: str) -> Account:
    """Return a user with the groups that a new login gets.

    Args:
        user: name or number of the user.

    Raises:
        LookupError: the user does not exist.
    """
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except (KeyError, OverflowError, ValueError):
        raise LookupError(f"user {user!r} does not exist") from None
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Account(entry.pw_name, entry.pw_uid, frozenset(groups))


def this_process() -> Account:
    """Return the effective user of this process with the groups that the process has."""
    uid = os.geteuid()
    return Account(user_name(uid), uid, frozenset({os.getegid(), *os.getgroups()}))


def home(uid: int) -> str | None:
    """Return the home directory of a user, if it has one."""
    try:
        return pwd.getpwuid(uid).pw_dir
    except KeyError:
        return None


def user_name(uid: int) -> str:
    """Return the name of a user, or the number if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return the name of a group, or the number if it has no name."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
