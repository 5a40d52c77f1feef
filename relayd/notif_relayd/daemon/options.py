# SPDX-License-Identifier: Apache-2.0
"""The daemon's options, and the settings that result from them.

Importing this module registers nothing. `settings` is the border of oslo.config: the other parts of
the daemon get plain, validated values.
"""

import math
import os
from dataclasses import dataclass

from oslo_config import cfg

from notif_relay import paths
from notif_relay.records import MAX_RECORD_SIZE
from notif_relayd.access.accounts import group_id, user_id
from notif_relayd.access.admission import BURST_SECONDS
from notif_relayd.access.policy import Policy
from notif_relayd.daemon.access_options import ACCESS, access_rule, rule_options
from notif_relayd.daemon.group_options import group_limits, group_options
from notif_relayd.daemon.socket_options import socket_plans
from notif_relayd.errors import StartError
from notif_relayd.files import STANDARD_OUTPUT
from notif_relayd.settings import (
    NOTIFICATIONS,
    RELAYD,
    AllowList,
    ConnectionLimits,
    Limits,
    NameOption,
    SocketPlan,
)

DEFAULT_IDLE_TIMEOUT = 300.0
"""Default of idle_timeout, in seconds, if systemd holds the sockets."""

MIN_RECORD_SIZE = 1024
"""Minimum of max_record_size, in bytes: the relay's own gap records must fit."""


def _general() -> list[cfg.Opt]:
    return [
        cfg.StrOpt(
            "runtime-dir",
            default=paths.RUNTIME_DIR,
            metavar="DIR",
            help="Directory of the sockets. It must exist and belong to the daemon's user.",
        ),
    ]


def command_line_only() -> list[cfg.Opt]:
    """Return the options for a start by hand; the manual describes them for the command line."""
    return [
        cfg.BoolOpt(
            "daemonize",
            default=False,
            help="Go to the background. The command returns when the daemon is ready or has "
            "failed. For hosts without systemd.",
        ),
        cfg.StrOpt(
            "pidfile",
            metavar="FILE",
            help="With --daemonize: write the process ID to this file, or to standard output if "
            "FILE is -. The file exists while the daemon runs.",
        ),
    ]


def _check() -> cfg.Opt:
    return cfg.BoolOpt(
        "check",
        default=False,
        help="Check the configuration and exit: print ok, or the error and exit with status 1. "
        "This includes the log, the pidfile and the sockets. Creates no file and no socket, and "
        "does not affect a running daemon.",
    )


def _notifications() -> list[cfg.Opt]:
    return [
        cfg.StrOpt(
            "sock_path",
            metavar="PATH",
            sample_default=f"{paths.RUNTIME_DIR}/{paths.PUBLIC_SOCKET}",
            help="Path of the public socket, which subscribers connect to. The other sockets are "
            "in the same directory unless their own options are set. Ignored if systemd holds the "
            "socket.",
        ),
    ]


def _relayd() -> list[cfg.Opt]:
    options = [
        cfg.StrOpt(
            "ingest_path",
            metavar="PATH",
            sample_default=f"{paths.RUNTIME_DIR}/{paths.INGEST_SOCKET}",
            help="Path of the private socket, which producers connect to. Ignored if systemd holds "
            "the socket.",
        ),
        cfg.StrOpt(
            "control_path",
            metavar="PATH",
            sample_default=f"{paths.RUNTIME_DIR}/{paths.CONTROL_SOCKET}",
            help="Path of the control socket, which relayctl connects to.",
        ),
        cfg.IntOpt(
            "ring_size",
            default=16 * 1024 * 1024,
            min=64 * 1024,
            mutable=True,
            help="Maximum size, in bytes, of the recent records that the relay keeps for all "
            "subscribers and groups that fall behind. Those that fall behind further miss records, "
            "and receive a gap record with their number. Must not be less than max_record_size.",
        ),
        cfg.IntOpt(
            "max_record_size",
            default=MAX_RECORD_SIZE,
            min=MIN_RECORD_SIZE,
            help="Maximum size of a record in bytes, including its newline. Longer records are "
            "rejected.",
        ),
        cfg.IntOpt(
            "max_producers",
            default=2048,
            min=1,
            mutable=True,
            help="Maximum number of connected producers.",
        ),
        cfg.IntOpt(
            "max_subscribers",
            default=2048,
            min=1,
            mutable=True,
            help="Maximum number of connected subscribers.",
        ),
        cfg.IntOpt(
            "max_connections_per_user",
            default=1024,
            min=1,
            mutable=True,
            help="Maximum number of connections of one user, for the public and the private socket "
            "separately. The default is half of max_producers and max_subscribers, so that one "
            "user cannot take all connections.",
        ),
        cfg.IntOpt(
            "max_connection_rate",
            default=50,
            min=1,
            mutable=True,
            help="Maximum number of new connections of one user per second, for the public and the "
            f"private socket separately. A burst may have the connections of {BURST_SECONDS:.0f} "
            "seconds.",
        ),
        cfg.IntOpt(
            "max_filter_bytes_per_user",
            default=8 * 1024 * 1024,
            min=2 * 1024 * 1024,
            mutable=True,
            help="Maximum memory, in bytes, for the filters, groups and unfinished requests of one "
            "user's subscribers. A request that exceeds it is refused, and its connection is "
            "closed. A typical filter takes 10 KiB, a group 6 KiB and its filters, a window 120 "
            "bytes for each record. The limit of all users together is 64 MiB.",
        ),
        *group_options(),
        cfg.FloatOpt(
            "idle_timeout",
            min=0,
            mutable=True,
            sample_default=0,
            help="Time in seconds without any connection after which the daemon exits; 0 disables "
            "this. A group that keeps its place counts as a connection. Requires that systemd "
            "holds the public and the private socket, because the next connection then starts the "
            f"daemon again. The default is then {DEFAULT_IDLE_TIMEOUT:.0f}.",
        ),
    ]
    for name, socket, client, group in (
        ("public", "public", "subscribers", "notif-subscribers"),
        ("ingest", "private", "producers", "notif-producers"),
        ("control", "control", "relayctl", "notif-relayd"),
    ):
        inherited = "" if name == "control" else ", or as in its unit if systemd holds the socket"
        options += [
            cfg.StrOpt(
                f"{name}_mode",
                metavar="MODE",
                help=f"Permissions of the {socket} socket, for {client}, in octal. Default: "
                f"0660{inherited}.",
            ),
            cfg.StrOpt(
                f"{name}_user",
                metavar="USER",
                help=f"Owner of the {socket} socket. Default: the daemon's user{inherited}.",
            ),
            cfg.StrOpt(
                f"{name}_group",
                metavar="GROUP",
                help=f"Group of the {socket} socket. Default: {group} if this group exists"
                f"{inherited}.",
            ),
        ]
    options.append(
        cfg.ListOpt(
            "access_rules",
            metavar="NAMES",
            default=[],
            help="Names of access rules. Each rule has a section "
            f"[{ACCESS}NAME], and allows the members of a group to read the records that match a "
            "filter. Without rules, every subscriber may read every record. With rules, a "
            "subscriber reads only the records that a rule for one of its groups allows; root "
            "reads all. Changed rules take effect at the next restart. If systemd holds the "
            "sockets, the restart closes no connection.",
        )
    )
    for name, socket in (("public", "public"), ("ingest", "private")):
        rule = (
            f"may connect to the {socket} socket. If {name}_allow_users or {name}_allow_groups is "
            "set, only the users and groups in these lists, and root, may connect; the file's "
            "permissions still apply. Default: no restriction."
        )
        options += [
            cfg.ListOpt(
                f"{name}_allow_users",
                metavar="USERS",
                mutable=True,
                help=f"Users that {rule}",
            ),
            cfg.ListOpt(
                f"{name}_allow_groups",
                metavar="GROUPS",
                mutable=True,
                help=f"Groups whose members {rule}",
            ),
        ]
    return options


def list_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    """Return all options of a configuration file, for oslo-config-generator."""
    return [
        (None, _general()),
        (NOTIFICATIONS, _notifications()),
        (RELAYD, _relayd()),
        (f"{ACCESS}monitoring", rule_options()),
    ]


def register(conf: cfg.ConfigOpts) -> None:
    """Register all options of the daemon, except for those of oslo.log."""
    conf.register_cli_opts([*_general(), *command_line_only(), _check()])
    conf.register_cli_opts(_notifications(), group=NOTIFICATIONS)
    conf.register_cli_opts(_relayd(), group=RELAYD)


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated values of all options."""

    limits: Limits
    policy: Policy
    public: SocketPlan
    ingest: SocketPlan
    control: SocketPlan
    daemonize: bool
    pidfile: str | None
    check: bool

    @property
    def plans(self) -> tuple[SocketPlan, SocketPlan, SocketPlan]:
        """The three sockets."""
        return self.public, self.ingest, self.control


def plain_name(section: str, option: str) -> str:
    """Return the name of an option as in a configuration file."""
    return f"[{section}] {option}"


def settings(conf: cfg.ConfigOpts, name: NameOption = plain_name) -> Settings:
    """Read and validate all options.

    Args:
        conf: the options, parsed.
        name: names an option in an error.

    Raises:
        StartError: the value of an option is invalid, or contradicts another option.
        oslo_config.cfg.Error: the value of an option has the wrong type.
    """
    relayd = conf[RELAYD]
    if conf.pidfile and not conf.daemonize:
        raise StartError("--pidfile requires --daemonize: give both options or none")
    public, ingest, control = socket_plans(conf, name)
    return Settings(
        limits=_limits(relayd, name),
        policy=Policy([access_rule(conf, RELAYD, each, name) for each in relayd.access_rules]),
        public=public,
        ingest=ingest,
        control=control,
        daemonize=conf.daemonize,
        pidfile=conf.pidfile
        if conf.pidfile in (None, STANDARD_OUTPUT)
        else os.path.abspath(conf.pidfile),
        check=conf.check,
    )


def _limits(relayd: cfg.ConfigOpts.GroupAttr, name: NameOption) -> Limits:
    if relayd.ring_size < relayd.max_record_size:
        raise StartError(
            f"{name(RELAYD, 'ring_size')} ({relayd.ring_size}) is less than max_record_size "
            f"({relayd.max_record_size}): the ring must be able to hold a record"
        )
    if relayd.idle_timeout is not None and not math.isfinite(relayd.idle_timeout):
        raise StartError(
            f"{name(RELAYD, 'idle_timeout')}: {relayd.idle_timeout} is not a time in seconds: set "
            "a finite number, or 0 to disable it"
        )
    return Limits(
        ring_size=relayd.ring_size,
        max_record_size=relayd.max_record_size,
        producers=_connection_limits(relayd, name, "max_producers", "ingest"),
        subscribers=_connection_limits(relayd, name, "max_subscribers", "public"),
        max_filter_bytes_per_user=relayd.max_filter_bytes_per_user,
        groups=group_limits(relayd, name),
        idle_timeout=relayd.idle_timeout,
    )


def _connection_limits(
    relayd: cfg.ConfigOpts.GroupAttr, name: NameOption, option: str, socket: str
) -> ConnectionLimits:
    return ConnectionLimits(
        option,
        relayd[option],
        relayd.max_connections_per_user,
        relayd.max_connection_rate,
        socket,
        _allow_list(relayd, name, socket),
    )


def _allow_list(
    relayd: cfg.ConfigOpts.GroupAttr, name: NameOption, socket: str
) -> AllowList | None:
    for_users, for_groups = f"{socket}_allow_users", f"{socket}_allow_groups"
    users, groups = relayd[for_users], relayd[for_groups]
    if users is None and groups is None:
        return None
    return AllowList(
        frozenset(user_id(name(RELAYD, for_users), user) for user in users or []),
        frozenset(group_id(name(RELAYD, for_groups), group) for group in groups or []),
    )
