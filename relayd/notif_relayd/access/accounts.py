# SPDX-License-Identifier: Apache-2.0
"""Users and groups that the configuration names, as the numbers that the kernel knows."""

import grp
import pwd

from notif_relayd.errors import StartError


def user_id(option: str, name: str) -> int:
    """The user's number.

    Raises:
        StartError: there is no such user; the message names the option.
    """
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise _missing(option, "user", name) from None


def group_id(option: str, name: str) -> int:
    """The group's number.

    Raises:
        StartError: there is no such group; the message names the option.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise _missing(option, "group", name) from None


def _missing(option: str, kind: str, name: str) -> StartError:
    return StartError(f"{option}: there is no {kind} {name!r}: create it or name another")
