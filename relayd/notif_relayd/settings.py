# SPDX-License-Identifier: Apache-2.0
"""Validated values of the configuration, and constants that relayctl and the daemon share.

Importing this module is cheap and has no effect, so that relayctl can import it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from notif_relayd.peer import ROOT_UID, Credentials

PROGRAM = "notif-relayd"

CONFIG_FILE = "/etc/notif-relayd/relayd.conf"
"""Read if it exists and no --config-file is given."""

CONFIG_DIR = "/etc/notif-relayd/relayd.conf.d"
"""Read if it exists and no --config-dir is given."""

DEFAULT, RELAYD, NOTIFICATIONS = "DEFAULT", "relayd", "oslo_messaging_notifications"
"""Sections of the configuration."""

NameOption = Callable[[str, str], str]
"""Returns the name of an option for a message, from its section and name."""


@dataclass(frozen=True, slots=True)
class Access:
    """Permissions of a socket file; `None` leaves a permission unchanged."""

    mode: int | None = None
    user: str | None = None
    group: str | None = None
    default_group: str | None = None
    """Group of a socket that the daemon binds itself, if no group is configured and this group
    exists."""


@dataclass(frozen=True, slots=True)
class SocketPlan:
    """Configuration of one of the relay's listening sockets."""

    name: str
    """FileDescriptorName= of the systemd unit, and the prefix of the socket's options."""
    path: str
    access: Access


@dataclass(frozen=True, slots=True)
class AllowList:
    """The users and groups that may connect to a socket. Root always may."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    def __contains__(self, peer: Credentials) -> bool:
        return peer.uid == ROOT_UID or peer.uid in self.users or bool(peer.groups & self.groups)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of the connections to one socket. Messages call them by the names of the options."""

    option: str
    """Name of the option that sets `max_connections`."""
    max_connections: int
    """Connections at a time."""
    per_user: int
    """Connections of one user at a time."""
    rate: int
    """New connections of one user per second."""
    socket: str = ""
    """Prefix of the options that set `allowed`."""
    allowed: AllowList | None = None
    """`None` for every user that the permissions of the socket file admit."""


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """Limits of groups."""

    per_user: int = 64
    """Groups of one user at a time, including groups that are held."""
    max_hold: float = 300.0
    """Seconds for which a group may keep its place without members."""
    max_deliveries: int = 5
    """Members that may get a record, one after the other."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Resources that the relay may use."""

    ring_size: int
    """Bytes."""
    max_record_size: int
    """Bytes, including the newline."""
    producers: ConnectionLimits
    subscribers: ConnectionLimits
    max_filter_bytes_per_user: int
    """Bytes of filters and unfinished requests of one user's subscribers."""
    groups: GroupLimits = GroupLimits()
    idle_timeout: float | None = None
    """Seconds without any connection after which the relay exits; `None` or 0 for never."""
