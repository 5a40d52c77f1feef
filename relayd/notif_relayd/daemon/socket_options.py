# SPDX-License-Identifier: Apache-2.0
"""The sockets that the options describe."""

import os
from collections.abc import Iterable

from oslo_config import cfg

from notif_relay import paths
from notif_relay.connection import MAX_PATH_SIZE
from notif_relayd.access.accounts import group_id, user_id
from notif_relayd.errors import StartError
from notif_relayd.settings import DEFAULT, NOTIFICATIONS, RELAYD, Access, NameOption, SocketPlan


def socket_plans(
    conf: cfg.ConfigOpts, name: NameOption
) -> tuple[SocketPlan, SocketPlan, SocketPlan]:
    """Return the public, the private and the control socket.

    Raises:
        StartError: a path is too long, two sockets have the same path, or a mode is invalid.
    """
    relayd = conf[RELAYD]
    public, origin = conf[NOTIFICATIONS].sock_path, (NOTIFICATIONS, "sock_path")
    if not public:
        public = os.path.join(conf.runtime_dir, paths.PUBLIC_SOCKET)
        origin = (DEFAULT, "runtime_dir")
    directory = os.path.dirname(public)
    found: dict[str, tuple[str, str]] = {os.path.abspath(public): origin}
    plans = [_plan(relayd, name, "public", public, "notif-subscribers")]
    for socket, file, group in (
        ("ingest", paths.INGEST_SOCKET, "notif-producers"),
        ("control", paths.CONTROL_SOCKET, "notif-relayd"),
    ):
        own = relayd[f"{socket}_path"]
        option = (RELAYD, f"{socket}_path") if own else origin
        plan = _plan(relayd, name, socket, own or os.path.join(directory, file), group)
        if plan.path in found:
            raise StartError(
                f"{name(*option)}: {plan.path} is the path of two sockets: set different paths"
            )
        found[plan.path] = option
        plans.append(plan)
    for path, option in found.items():
        if len(os.fsencode(path)) > MAX_PATH_SIZE:
            raise StartError(
                f"{name(*option)}: {path} is longer than {MAX_PATH_SIZE} bytes, the limit for "
                "sockets: use a shorter path"
            )
    public_plan, ingest_plan, control_plan = plans
    return public_plan, ingest_plan, control_plan


def check_owners(plans: Iterable[SocketPlan], name: NameOption) -> None:
    """Check the users and groups of the socket files.

    Raises:
        StartError: a user or group does not exist.
    """
    for plan in plans:
        if plan.access.user is not None:
            user_id(name(RELAYD, f"{plan.name}_user"), plan.access.user)
        if plan.access.group is not None:
            group_id(name(RELAYD, f"{plan.name}_group"), plan.access.group)


def _plan(
    relayd: cfg.ConfigOpts.GroupAttr, name: NameOption, socket: str, path: str, default_group: str
) -> SocketPlan:
    return SocketPlan(
        socket,
        os.path.abspath(path),
        Access(
            mode=_mode(name(RELAYD, f"{socket}_mode"), relayd[f"{socket}_mode"]),
            user=relayd[f"{socket}_user"],
            group=relayd[f"{socket}_group"],
            default_group=default_group,
        ),
    )


def _mode(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if mode not in range(0o1000):
        raise StartError(
            f"{option}: {text!r} is not a file mode: set octal permissions such as 0660"
        )
    return mode
