# SPDX-License-Identifier: Apache-2.0
"""Options for groups of subscribers."""

import math
from collections.abc import Callable

from oslo_config import cfg

from notif_relayd.errors import StartError
from notif_relayd.settings import GroupLimits


def group_options() -> list[cfg.Opt]:
    """Return the options; their section is ``[relayd]``."""
    default = GroupLimits()
    return [
        cfg.IntOpt(
            "max_groups_per_user",
            default=default.per_user,
            min=1,
            mutable=True,
            help="Maximum number of groups of one user's subscribers, including groups without "
            "members that keep their place. A request for a further group is refused.",
        ),
        cfg.FloatOpt(
            "max_hold",
            default=default.max_hold,
            min=0,
            mutable=True,
            help="Maximum time, in seconds, for which a group keeps its place after its last "
            "member has left. A request for a longer time is refused.",
        ),
        cfg.IntOpt(
            "max_deliveries",
            default=default.max_deliveries,
            min=1,
            mutable=True,
            help="Maximum number of members of a group that receive the same record one after the "
            "other because none of them finishes it. After that, the group receives a gap record "
            "instead, and the record is named in the log.",
        ),
    ]


def group_limits(
    relayd: cfg.ConfigOpts.GroupAttr, option_name: Callable[[str, str], str]
) -> GroupLimits:
    """Return the configured limits.

    Args:
        relayd: the values of the section ``[relayd]``.
        option_name: returns the name of an option for an error.

    Raises:
        StartError: a value is invalid.
    """
    if not math.isfinite(relayd.max_hold):
        raise StartError(
            f"{option_name('relayd', 'max_hold')}: {relayd.max_hold} is not a time in seconds"
        )
    return GroupLimits(relayd.max_groups_per_user, relayd.max_hold, relayd.max_deliveries)
