# SPDX-License-Identifier: Apache-2.0
"""The daemon's options, and what they come to.

Options are registered when the daemon starts and not when this module is imported. Behind
`settings` nobody sees oslo.config any more: the relay's parts take plain values, checked.
"""

import math
import os
from dataclasses import dataclass

from oslo_config import cfg

from notif_relay import paths
from notif_relay.records import MAX_RECORD_SIZE
from notif_relayd.access.accounts import group_id, user_id
from notif_relayd.access.admission import BURST_SECONDS
from notif_relayd.access.policy import AccessRule, Policy
from notif_relayd.errors import StartError
from notif_relayd.records.filters import Filter, FilterError
from notif_relayd.settings import Access, AllowList, ConnectionLimits, Limits, SocketPlan

RELAYD = "relayd"
NOTIFICATIONS = "oslo_messaging_notifications"

ACCESS = "access:"
"""What the name of a rule's section begins with."""

DEFAULT_IDLE_TIMEOUT = 300.0
"""Seconds; where systemd starts the daemon when it is needed."""

MIN_RECORD_SIZE = 1024
"""Bytes: the relay's own gap records must fit whatever is configured."""


def _general() -> list[cfg.Opt]:
    return [
        cfg.StrOpt(
            "runtime-dir",
            default=paths.RUNTIME_DIR,
            metavar="DIR",
            help="Directory of the sockets. It must exist and belong to the daemon's user.",
        ),
    ]


def _command_line_only() -> list[cfg.Opt]:
    return [
        cfg.BoolOpt(
            "daemonize",
            default=False,
            help="Go to the background once the sockets are there, for hosts without systemd.",
        ),
        cfg.StrOpt(
            "pidfile",
            metavar="FILE",
            help="With --daemonize: file that holds the process id while the daemon runs.",
        ),
    ]


def _notifications() -> list[cfg.Opt]:
    return [
        cfg.StrOpt(
            "sock_path",
            metavar="PATH",
            sample_default=f"{paths.RUNTIME_DIR}/{paths.PUBLIC_SOCKET}",
            help="The public socket, which subscribers connect to. The other sockets are beside "
            "it unless their own options say otherwise. Not used where systemd holds the socket.",
        ),
    ]


def _relayd() -> list[cfg.Opt]:
    options = [
        cfg.StrOpt(
            "ingest_path",
            metavar="PATH",
            sample_default=f"{paths.RUNTIME_DIR}/{paths.INGEST_SOCKET}",
            help="The private socket, which producers connect to. Not used where systemd holds "
            "the socket.",
        ),
        cfg.StrOpt(
            "control_path",
            metavar="PATH",
            sample_default=f"{paths.RUNTIME_DIR}/{paths.CONTROL_SOCKET}",
            help="The control socket, which relayctl connects to.",
        ),
        cfg.IntOpt(
            "ring_size",
            default=16 * 1024 * 1024,
            min=64 * 1024,
            mutable=True,
            help="Bytes of recent records kept for subscribers that fall behind, however many "
            "there are. A subscriber that is further behind than this misses records, and is "
            "told how many. Not less than max_record_size.",
        ),
        cfg.IntOpt(
            "max_record_size",
            default=MAX_RECORD_SIZE,
            min=MIN_RECORD_SIZE,
            help="Bytes of the longest record, its newline included. A longer one is rejected.",
        ),
        cfg.IntOpt(
            "max_producers",
            default=2048,
            min=1,
            mutable=True,
            help="Producers connected at once.",
        ),
        cfg.IntOpt(
            "max_subscribers",
            default=2048,
            min=1,
            mutable=True,
            help="Subscribers connected at once.",
        ),
        cfg.IntOpt(
            "max_connections_per_user",
            default=1024,
            min=1,
            mutable=True,
            help="Connections of one user at once, for the public and the private socket each. "
            "Half of the others by default, so that one user's programs leave room for the rest.",
        ),
        cfg.IntOpt(
            "max_connection_rate",
            default=50,
            min=1,
            mutable=True,
            help="New connections of one user a second, for the public and the private socket "
            f"each. Those of {BURST_SECONDS:.0f} seconds may come at once.",
        ),
        cfg.IntOpt(
            "max_filter_bytes_per_user",
            default=8 * 1024 * 1024,
            min=2 * 1024 * 1024,
            mutable=True,
            help="Bytes that the filters and unfinished requests of one user's subscribers may "
            "take. A request that would exceed it is refused, and its connection is closed. A "
            "usual filter takes 10 KiB. The limit of all users together is 64 MiB.",
        ),
        cfg.FloatOpt(
            "idle_timeout",
            min=0,
            mutable=True,
            sample_default=0,
            help="Seconds without any connection after which the daemon ends, 0 for never. For "
            "where systemd holds the public and the private socket, so that the next connection "
            f"starts it again; there the default is {DEFAULT_IDLE_TIMEOUT:.0f}.",
        ),
    ]
    for name, who, group in (
        ("public", "subscribers", "notif-subscribers where that exists"),
        ("ingest", "producers", "notif-producers where that exists"),
        ("control", "relayctl", "notif-relayd where that exists"),
    ):
        inherited = "" if name == "control" else ", for one held by systemd what its unit says"
        options += [
            cfg.StrOpt(
                f"{name}_mode",
                metavar="MODE",
                help=f"Permissions of the {name} socket, which is for {who}, in octal. Default: "
                f"0660{inherited}.",
            ),
            cfg.StrOpt(
                f"{name}_user",
                metavar="USER",
                help=f"Owner of the {name} socket. Default: the daemon's user{inherited}.",
            ),
            cfg.StrOpt(
                f"{name}_group",
                metavar="GROUP",
                help=f"Group of the {name} socket. Default: {group}{inherited}.",
            ),
        ]
    options.append(
        cfg.ListOpt(
            "access_rules",
            metavar="NAMES",
            default=[],
            help=f"Names of rules that say who may see what; each has a section [{ACCESS}NAME]. "
            "Without any, every subscriber may see everything. With one, everybody but root sees "
            "what the rules of its groups let through and nothing else. They are read at the "
            "start, and a restart costs nobody the connection.",
        )
    )
    for name in ("public", "ingest"):
        beyond = (
            f"may connect to the {name} socket, of those that its permissions let in. Root always "
            f"may. Where neither {name}_allow_users nor {name}_allow_groups is set, all may."
        )
        options += [
            cfg.ListOpt(
                f"{name}_allow_users",
                metavar="USERS",
                mutable=True,
                help=f"The only users that {beyond}",
            ),
            cfg.ListOpt(
                f"{name}_allow_groups",
                metavar="GROUPS",
                mutable=True,
                help=f"The only groups whose members {beyond}",
            ),
        ]
    return options


def _rule() -> list[cfg.Opt]:
    patterns = "as in a subscriber's filter; all of them by default."
    return [
        cfg.StrOpt(
            "group",
            metavar="GROUP",
            sample_default="monitoring",
            help="The group whose members may see what follows.",
        ),
        cfg.ListOpt(
            "event_type",
            metavar="GLOBS",
            sample_default="compute.*,volume.*",
            help=f"Shell globs, one of which the event type must match, {patterns}",
        ),
        cfg.ListOpt(
            "publisher_id",
            metavar="GLOBS",
            sample_default="nova-compute:*",
            help=f"Shell globs, one of which the publisher must match, {patterns}",
        ),
    ]


def list_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    """What a configuration file may hold, for oslo-config-generator."""
    return [
        (None, _general()),
        (NOTIFICATIONS, _notifications()),
        (RELAYD, _relayd()),
        (f"{ACCESS}monitoring", _rule()),
    ]


def register(conf: cfg.ConfigOpts) -> None:
    """Add the daemon's options; all but the logging ones, which are oslo.log's."""
    conf.register_cli_opts(_general() + _command_line_only())
    conf.register_cli_opts(_notifications(), group=NOTIFICATIONS)
    conf.register_cli_opts(_relayd(), group=RELAYD)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options come to."""

    limits: Limits
    rules: Policy
    public: SocketPlan
    ingest: SocketPlan
    control: SocketPlan
    daemonize: bool
    pidfile: str | None


def settings(conf: cfg.ConfigOpts) -> Settings:
    """Read all options.

    Raises:
        StartError: an option has a value that cannot be used, alone or beside the others.
        oslo_config.cfg.Error: an option's value is not of its type.
    """
    relayd = conf[RELAYD]
    public = conf[NOTIFICATIONS].sock_path or os.path.join(conf.runtime_dir, paths.PUBLIC_SOCKET)
    beside = os.path.dirname(public)
    if conf.pidfile and not conf.daemonize:
        raise StartError("--pidfile is for --daemonize: leave it out, or give both")
    return Settings(
        limits=_limits(relayd),
        rules=Policy([_access_rule(conf, name) for name in relayd.access_rules]),
        public=_plan(relayd, "public", public, "notif-subscribers"),
        ingest=_plan(
            relayd,
            "ingest",
            relayd.ingest_path or os.path.join(beside, paths.INGEST_SOCKET),
            "notif-producers",
        ),
        control=_plan(
            relayd,
            "control",
            relayd.control_path or os.path.join(beside, paths.CONTROL_SOCKET),
            "notif-relayd",
        ),
        daemonize=conf.daemonize,
        pidfile=conf.pidfile and os.path.abspath(conf.pidfile),
    )


def _limits(relayd: cfg.ConfigOpts.GroupAttr) -> Limits:
    if relayd.ring_size < relayd.max_record_size:
        raise StartError(
            f"[relayd] ring_size ({relayd.ring_size}) is less than max_record_size "
            f"({relayd.max_record_size}): a record must fit into the ring"
        )
    if relayd.idle_timeout is not None and not math.isfinite(relayd.idle_timeout):
        raise StartError(
            f"[relayd] idle_timeout: {relayd.idle_timeout} is no time: give seconds, 0 for never"
        )
    return Limits(
        ring_size=relayd.ring_size,
        max_record_size=relayd.max_record_size,
        producers=_terms(relayd, "max_producers", "ingest"),
        subscribers=_terms(relayd, "max_subscribers", "public"),
        max_filter_bytes_per_user=relayd.max_filter_bytes_per_user,
        idle_timeout=relayd.idle_timeout,
    )


def _access_rule(conf: cfg.ConfigOpts, name: str) -> AccessRule:
    section = f"{ACCESS}{name}"
    conf.register_opts(_rule(), group=section)
    rule = conf[section]
    if not rule.group:
        raise StartError(
            f"[relayd] access_rules: the rule {name!r} has no group: set it in [{section}]"
        )
    asked = {key: rule[key] for key in ("event_type", "publisher_id") if rule[key] is not None}
    try:
        return AccessRule(group_id(f"[{section}] group", rule.group), Filter.parse(asked))
    except FilterError as error:
        raise StartError(f"[{section}]: {error}") from None


def _terms(relayd: cfg.ConfigOpts.GroupAttr, name: str, socket: str) -> ConnectionLimits:
    return ConnectionLimits(
        name,
        relayd[name],
        relayd.max_connections_per_user,
        relayd.max_connection_rate,
        socket,
        _allowed(socket, relayd[f"{socket}_allow_users"], relayd[f"{socket}_allow_groups"]),
    )


def _allowed(socket: str, users: list[str] | None, groups: list[str] | None) -> AllowList | None:
    if users is None and groups is None:
        return None
    return AllowList(
        frozenset(user_id(f"[relayd] {socket}_allow_users", user) for user in users or []),
        frozenset(group_id(f"[relayd] {socket}_allow_groups", group) for group in groups or []),
    )


def _plan(relayd: cfg.ConfigOpts.GroupAttr, name: str, path: str, usual: str) -> SocketPlan:
    return SocketPlan(
        name,
        os.path.abspath(path),
        Access(
            mode=_mode(f"{name}_mode", relayd[f"{name}_mode"]),
            user=relayd[f"{name}_user"],
            group=relayd[f"{name}_group"],
            usual_group=usual,
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
            f"[relayd] {option}: {text!r} is no file mode: write it in octal, for instance 0660"
        )
    return mode
