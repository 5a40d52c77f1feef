# SPDX-License-Identifier: Apache-2.0
"""The daemon's options, and what they come to.

Options are registered when the daemon starts and not when this module is imported. Behind
`settings` nobody sees oslo.config any more: the relay's parts take plain values, checked.
"""

import os
from dataclasses import dataclass

from oslo_config import cfg

from notif_relay import paths
from notif_relay.records import MAX_RECORD_SIZE
from notif_relayd.errors import StartError
from notif_relayd.listeners import Access, SocketPlan
from notif_relayd.relay import Limits

RELAYD = "relayd"
NOTIFICATIONS = "oslo_messaging_notifications"

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
            default=1024,
            min=1,
            mutable=True,
            help="Producers connected at once.",
        ),
        cfg.IntOpt(
            "max_subscribers",
            default=1024,
            min=1,
            mutable=True,
            help="Subscribers connected at once.",
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
    return options


def list_opts() -> list[tuple[str | None, list[cfg.Opt]]]:
    """What a configuration file may hold, for oslo-config-generator."""
    return [(None, _general()), (NOTIFICATIONS, _notifications()), (RELAYD, _relayd())]


def register(conf: cfg.ConfigOpts) -> None:
    """Add the daemon's options; all but the logging ones, which are oslo.log's."""
    conf.register_cli_opts(_general() + _command_line_only())
    conf.register_cli_opts(_notifications(), group=NOTIFICATIONS)
    conf.register_cli_opts(_relayd(), group=RELAYD)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the options come to."""

    limits: Limits
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
    return Limits(
        ring_size=relayd.ring_size,
        max_record_size=relayd.max_record_size,
        max_producers=relayd.max_producers,
        max_subscribers=relayd.max_subscribers,
        idle_timeout=relayd.idle_timeout,
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
