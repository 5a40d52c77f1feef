# SPDX-License-Identifier: Apache-2.0
"""Lookup of the users and groups that the configuration names."""

import grp
import pwd

from notif_relayd.errors import StartError
from notif_relayd.settings import SocketPlan


def user_id(option: str, name: str) -> int:
    """Return the user ID.

    Raises:
        StartError: the user does not exist; the message names the option.
    """
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise _missing(option, "user", name) from None


def group_id(option: str, name: str) -> int:
    """Return the group ID.

    Raises:
        StartError: the group does not exist; the message names the option.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise _missing(option, "group", name) from None


def socket_owner(plan: SocketPlan) -> tuple[int, int]:
    """Return the user ID and group ID for a socket file; -1 for one that is not configured.

    Raises:
        StartError: the configured user or group does not exist.
    """
    user, group = plan.access.user, plan.access.group
    return (
        -1 if user is None else user_id(f"[relayd] {plan.name}_user", user),
        -1 if group is None else group_id(f"[relayd] {plan.name}_group", group),
    )


def _missing(option: str, kind: str, name: str) -> StartError:
    return StartError(
        f"{option}: the {kind} {name!r} does not exist: create it or configure another one"
    )
