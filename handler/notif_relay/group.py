# SPDX-License-Identifier: Apache-2.0
"""The request that makes a subscriber a member of a group.

This module is the home of the limits; the daemon imports them. The library checks them as well, so
that an invalid argument raises an exception where the program defines it.
"""

import re
import sys
from dataclasses import dataclass

from notif_relay.escaping import shown

MAX_GROUP_NAME = 64
"""Maximum number of characters in the name of a group."""

MAX_WINDOW = 65536
"""Maximum number of unfinished notifications of one member."""

GROUPS_LIMIT = "has reached max_groups_per_user"
"""Part of the error message when a user has too many groups."""

HOLD_LIMIT = "the limit is max_hold = "
"""Part of the error message for a longer hold than the relay permits; the limit in seconds follows.
"""

MEMORY_LIMITS = "has reached max_filter_bytes_per_user", "all users together have reached the limit"
"""Parts of the error messages when filters and groups take too much memory."""

is_group_name = re.compile(rf"[A-Za-z0-9._:/-]{{1,{MAX_GROUP_NAME}}}").fullmatch
"""Matches the name of a group."""


@dataclass(frozen=True, slots=True)
class GroupRequest:
    """The part of a request that names a group."""

    name: str
    window: int | None = None
    """Maximum number of unfinished notifications; None if the socket's acceptance finishes one."""
    hold: float = 0
    """Seconds for which the group keeps its place after its last member has left."""

    @property
    def keys(self) -> dict[str, object]:
        """The keys of the request."""
        keys: dict[str, object] = {"group": self.name}
        if self.window is not None:
            keys["window"] = self.window
        if self.hold:
            keys["hold"] = self.hold
        return keys


@dataclass(frozen=True, slots=True)
class Membership(GroupRequest):
    """What a subscriber of the library requests of a group."""

    auto_done: bool = True
    """Whether a notification is finished when the next one is asked for."""


def is_limit(message: str) -> bool:
    """Return whether an error message of the relay names a limit that may permit more later.

    Operators can change these limits, and other subscribers of the user can end.
    """
    return any(each in message for each in (GROUPS_LIMIT, HOLD_LIMIT, *MEMORY_LIMITS))


def permitted_hold(message: str) -> float | None:
    """Return the longest hold that an error message of the relay permits; None for other errors."""
    found = re.search(re.escape(HOLD_LIMIT) + r"([0-9]{1,15}(?:\.[0-9]{1,15})?)", message)
    return None if found is None else float(found[1])


def checked_membership(
    group: object, window: object, hold: object, auto_done: object
) -> Membership | None:
    """Return the membership that arguments of a subscriber describe; None without a group.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    if not isinstance(auto_done, bool):
        raise TypeError(f"auto_done must be True or False, not {shown(auto_done)}")
    if group is None:
        for name, value in (("window", window), ("hold", hold)):
            if value is not None:
                raise ValueError(f"{name} must be used with group")
        if not auto_done:
            raise ValueError("auto_done must be used with group and window")
        return None
    if not isinstance(group, str):
        raise TypeError(f"group must be the name of a group or None, not {shown(group)}")
    if not is_group_name(group):
        raise ValueError(
            f"group must be 1 to {MAX_GROUP_NAME} characters of A-Z, a-z, 0-9 and ._:/-, not"
            f" {shown(group)}"
        )
    checked_window = _checked_window(window)
    if checked_window is None and not auto_done:
        raise ValueError("auto_done must be used with window")
    return Membership(group, checked_window, _checked_hold(hold), auto_done)


def _checked_window(window: object) -> int | None:
    if window is None:
        return None
    if not isinstance(window, int) or isinstance(window, bool):
        raise TypeError(f"window must be a number of notifications or None, not {shown(window)}")
    if not 1 <= window <= MAX_WINDOW:
        raise ValueError(f"window must be from 1 to {MAX_WINDOW}, not {shown(window)}")
    return window


def _checked_hold(hold: object) -> float:
    if hold is None:
        return 0
    if not isinstance(hold, int | float) or isinstance(hold, bool):
        raise TypeError(f"hold must be a number of seconds or None, not {shown(hold)}")
    if not 0 <= hold <= sys.float_info.max:
        raise ValueError(
            f"hold must be a number of seconds that is 0 or greater, not {shown(hold)}"
        )
    return hold
