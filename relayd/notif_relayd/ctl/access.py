# SPDX-License-Identifier: Apache-2.0
"""What to say of a socket that may not be connected to: who may, and how to become one of them."""

import os
import stat

from notif_relayd.ctl.accounts import group_name, user_name


def not_allowed(path: str) -> str:
    """Why the socket at `path` refuses this user, and what to do."""
    try:
        status = os.stat(path)
    except OSError:
        return f"you may not enter {os.path.dirname(path)}: try it as root"
    refused = f"you may not connect to {path}, which is for"
    group = group_name(status.st_gid)
    if status.st_gid == 0 or not status.st_mode & stat.S_IWGRP:
        return f"{refused} {user_name(status.st_uid)} alone (group {group}): try it as root"
    return (
        f"{refused} root and the group {group}: "
        f"usermod -aG {group} {user_name(os.geteuid())}, and log in again"
    )
