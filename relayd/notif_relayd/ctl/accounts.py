# SPDX-License-Identifier: Apache-2.0
"""Names of users and groups, as far as this host knows them.

The daemon leaves the looking-up to relayctl: where accounts come from a directory server it can
take seconds, and relayctl may wait where the daemon may not.
"""

import grp
import pwd


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
