# SPDX-License-Identifier: Apache-2.0
"""The relay of this host: its configuration, its units, its status and its sockets.

The path of a socket is taken from the first of these sources that states it:

1. the answer of the daemon,
2. the socket unit, if systemd holds the socket; the daemon then ignores its configuration,
3. the configuration.
"""

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from notif_relay import paths
from notif_relayctl.access import in_runtime_dir
from notif_relayctl.accounts import Account, account, home
from notif_relayctl.client import ask
from notif_relayctl.doctor.configuration import configuration_of
from notif_relayctl.doctor.finding import Finding
from notif_relayctl.doctor.units import (
    Names,
    Unit,
    UnitsUnknownError,
    units,
)
from notif_relayctl.errors import CtlError, NotAllowedError
from notif_relayctl.instances import instance_of
from notif_relayd.control.schema import Status
from notif_relayd.daemon import options
from notif_relayd.settings import Access, AllowList, SocketPlan

FLAGS = 3
"""Column of /proc/net/unix, proc_net_unix(5)."""

LISTENING = 0x10000
"""The flag __SO_ACCEPTCON."""


ANOTHER_DIRECTORY = "leave it as it is, and set sock_path in relayd.conf to another directory"
"""Advice about a directory that is not the relay's own."""


@dataclass(frozen=True, slots=True)
class RelaySocket:
    """One of the relay's sockets."""

    name: str
    """`public`, `ingest` or `control`: the prefix of the socket's options."""
    path: str
    access: Access
    unit: Unit | None
    """The unit that holds the socket; `None` if the daemon binds it."""
    allowed: AllowList | None = None
    """`None` for every user that the permissions of the socket file admit."""

    @property
    def directory(self) -> str:
        """The directory of the socket."""
        return os.path.dirname(self.path)


@dataclass(frozen=True, slots=True)
class Host:
    """The relay of this host, as far as this process can examine it."""

    names: Names
    units: Mapping[str, Unit] | UnitsUnknownError
    status: Status | CtlError
    """The answer of the daemon, or why it did not answer."""
    public: RelaySocket
    ingest: RelaySocket
    control: RelaySocket
    more: tuple[RelaySocket, ...]
    """Further public and private sockets, which systemd holds."""
    settings: options.Settings
    """The settings of the daemon, or its defaults if the configuration is unusable."""
    configuration: Finding

    @property
    def sockets(self) -> tuple[RelaySocket, ...]:
        """All sockets."""
        return self.public, self.ingest, self.control, *self.more

    def named(self, name: str) -> list[RelaySocket]:
        """Return the sockets with this name; the first one is the one that the daemon reports."""
        return [each for each in self.sockets if each.name == name]

    @property
    def daemon(self) -> Account | None:
        """The daemon's user, if known."""
        with contextlib.suppress(OSError, LookupError):
            if isinstance(self.status, Status):
                return account(str(os.stat(f"/proc/{self.status.pid}").st_uid))
            if not isinstance(self.units, UnitsUnknownError):
                return account(self.units[self.names.service]["User"])
        return None

    def is_relays(self, socket: RelaySocket) -> bool:
        """Return whether a socket is known to be the relay's, not one of another program."""
        if socket.unit is not None or in_runtime_dir(socket.path):
            return True
        if isinstance(self.status, Status):
            reported = (self.status.public_socket, self.status.ingest_socket)
            return socket is self.control or socket.path in reported
        return (
            isinstance(self.status, NotAllowedError) and socket.directory == self.control.directory
        )

    def owns(self, directory: str) -> bool:
        """Return whether a directory is the relay's own, so that its owner and mode may be changed.

        The directory of a service or of the system is not, nor is a home directory.
        """
        if in_runtime_dir(directory):
            return True
        daemon = self.daemon
        if daemon is None or directory != self.control.directory or directory == home(daemon.uid):
            return False
        status = os.stat(directory)
        return status.st_uid == daemon.uid and not status.st_mode & stat.S_ISVTX

    @property
    def start(self) -> str:
        """Advice for starting the relay."""
        if isinstance(self.units, UnitsUnknownError) or not self.units[self.names.public].installed:
            return "start notif-relayd"
        return f"systemctl restart {self.names.public}"

    def listens(self, socket: RelaySocket) -> bool:
        """Return whether a process is known to listen on the socket, without connecting to it.

        False does not exclude it: /proc/net/unix lists the sockets of one network namespace, and
        this user may not be permitted to query the daemon.
        """
        if isinstance(self.status, Status) and socket.path in (
            *(self.status.public_socket, self.status.ingest_socket),
            self.control.path,
        ):
            return True
        return os.path.realpath(socket.path) in _listening()


def find_relay(runtime_dir: str, control_path: str, config_file: str | None) -> Host:
    """Examine the relay of this host.

    Args:
        runtime_dir: directory of the sockets. If it is the default, the configuration may replace
            it.
        control_path: the control socket. If it is the default, the configuration may replace it.
        config_file: configuration of the daemon; `None` for that of the running daemon or the
            default, which need not exist.
    """
    default = os.path.join(runtime_dir, paths.CONTROL_SOCKET)
    status = _status(control_path)
    pid = status.pid if isinstance(status, Status) else None
    settings, configuration = configuration_of(runtime_dir, config_file, pid)
    control = settings.control.path if control_path == default else control_path
    known: Mapping[str, Unit] | UnitsUnknownError
    names = Names.of(instance_of(runtime_dir))
    try:
        known = _units_of(runtime_dir, names)
    except UnitsUnknownError as error:
        known = error
    if control != control_path:
        status = _status(control)
    public, ingest = (
        (status.public_socket, status.ingest_socket) if isinstance(status, Status) else ("", "")
    )
    subscribers, producers = settings.limits.subscribers, settings.limits.producers
    first_public, *more_public = _sockets(
        settings.public, subscribers.allowed, known, names.public, public
    )
    first_ingest, *more_ingest = _sockets(
        settings.ingest, producers.allowed, known, names.ingest, ingest
    )
    return Host(
        names,
        known,
        status,
        first_public,
        first_ingest,
        RelaySocket("control", control, settings.control.access, None),
        (*more_public, *more_ingest),
        settings,
        configuration,
    )


def _units_of(runtime_dir: str, names: Names) -> Mapping[str, Unit]:
    """Return the units of the relay in a directory.

    Raises:
        UnitsUnknownError: systemd does not answer, or the relay has other units or none.
    """
    found = units(names)
    directories = [os.path.dirname(path) for unit in found.values() for path in unit.paths]
    if not in_runtime_dir(runtime_dir) and runtime_dir not in directories:
        raise UnitsUnknownError(f"no unit of the relay has a socket in {runtime_dir}")
    return found


def _status(control: str) -> Status | CtlError:
    try:
        return ask(control, "status", Status)
    except CtlError as error:
        return error


def _sockets(
    plan: SocketPlan,
    allowed: AllowList | None,
    known: Mapping[str, Unit] | UnitsUnknownError,
    name: str,
    reported: str,
) -> list[RelaySocket]:
    unit = None if isinstance(known, UnitsUnknownError) else known.get(name)
    # A masked unit may still be active, but systemd does not show its paths.
    if unit is None or not unit.active or not unit.paths or reported not in ("", *unit.paths):
        return [RelaySocket(plan.name, reported or plan.path, plan.access, None, allowed)]
    return [RelaySocket(plan.name, path, plan.access, unit, allowed) for path in unit.paths]


def _listening() -> set[str]:
    """Return the paths of all listening Unix sockets of this network namespace."""
    try:
        with open("/proc/net/unix", errors="surrogateescape") as lines:
            rows = [line.rstrip("\n").partition(" /") for line in lines]
    except OSError:
        return set()
    return {
        os.path.realpath(f"/{path}")
        for fields, slash, path in rows
        if slash and int(fields.split()[FLAGS], 16) & LISTENING
    }
