# SPDX-License-Identifier: Apache-2.0
"""The relay of this host: its configuration, its units, its status and its sockets.

The path of a socket is taken from the first of these sources that states it:

1. the answer of the daemon,
2. the socket unit, if systemd holds the socket; the daemon then ignores its configuration,
3. the configuration.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from oslo_config import cfg

from notif_relay import paths
from notif_relay.connection import checked_path
from notif_relayctl.access import AS_ROOT
from notif_relayctl.client import ask
from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, Finding
from notif_relayctl.doctor.units import (
    INGEST_UNIT,
    PUBLIC_UNIT,
    Unit,
    UnitsUnknownError,
    units,
)
from notif_relayctl.errors import CtlError
from notif_relayd.control.schema import Status
from notif_relayd.daemon import config_files, options
from notif_relayd.errors import StartError, one_line, usage_errors
from notif_relayd.settings import CONFIG_FILE, PROGRAM, Access, SocketPlan

FLAGS = 3
"""Column of /proc/net/unix, proc_net_unix(5)."""

LISTENING = 0x10000
"""The flag __SO_ACCEPTCON."""


@dataclass(frozen=True, slots=True)
class RelaySocket:
    """One of the relay's three sockets."""

    name: str
    """`public`, `ingest` or `control`: the prefix of the socket's options."""
    path: str
    access: Access
    unit: Unit | None
    """The unit that holds the socket; `None` if the daemon binds it."""


@dataclass(frozen=True, slots=True)
class Host:
    """The relay of this host, as far as this process can examine it."""

    units: Mapping[str, Unit] | UnitsUnknownError
    status: Status | CtlError
    """The answer of the daemon, or why it did not answer."""
    public: RelaySocket
    ingest: RelaySocket
    control: RelaySocket
    configuration: Finding

    @property
    def sockets(self) -> tuple[RelaySocket, ...]:
        """The three sockets."""
        return self.public, self.ingest, self.control

    @property
    def start(self) -> str:
        """Advice for starting the relay."""
        if isinstance(self.units, UnitsUnknownError) or not self.units[PUBLIC_UNIT].installed:
            return "start notif-relayd"
        return f"systemctl restart {PUBLIC_UNIT}"

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
        config_file: configuration of the daemon; `None` for the default, which need not exist.
    """
    settings, configuration = _settings(runtime_dir, config_file)
    default = os.path.join(runtime_dir, paths.CONTROL_SOCKET)
    control = settings.control.path if control_path == default else control_path
    known: Mapping[str, Unit] | UnitsUnknownError
    try:
        known = units()
    except UnitsUnknownError as error:
        known = error
    status: Status | CtlError
    try:
        status = ask(control, "status", Status)
    except CtlError as error:
        status = error
    public, ingest = (
        (status.public_socket, status.ingest_socket) if isinstance(status, Status) else ("", "")
    )
    return Host(
        known,
        status,
        _socket(settings.public, known, PUBLIC_UNIT, public),
        _socket(settings.ingest, known, INGEST_UNIT, ingest),
        RelaySocket("control", control, settings.control.access, None),
        configuration,
    )


def _socket(
    plan: SocketPlan, known: Mapping[str, Unit] | UnitsUnknownError, name: str, reported: str
) -> RelaySocket:
    unit = None if isinstance(known, UnitsUnknownError) else known.get(name)
    if unit is None or not unit.active or reported not in ("", unit.path):
        return RelaySocket(plan.name, reported or plan.path, plan.access, None)
    return RelaySocket(plan.name, unit.path, plan.access, unit)


def _settings(runtime_dir: str, config_file: str | None) -> tuple[options.Settings, Finding]:
    """Return the settings of the daemon, or its defaults if the configuration is unusable."""
    file = config_file or CONFIG_FILE
    arguments = [] if runtime_dir == paths.RUNTIME_DIR else ["--runtime-dir", runtime_dir]
    files = [file] if config_file or os.path.exists(file) else []
    check = f"configuration {file}"
    try:
        if os.path.isdir(f"{file}.d"):
            files += config_files.files_in(f"{file}.d")
        settings = _parsed(arguments, files)
        for plan in (settings.public, settings.ingest, settings.control):
            checked_path(plan.path)
    except (cfg.Error, StartError, OSError, ValueError) as error:
        if isinstance(error.__cause__, PermissionError):
            result = SKIPPED
            finding = f"you may not read it, so the defaults are assumed; {AS_ROOT}"
        else:
            result, finding = FAILED, f"the daemon cannot use it: {one_line(error)}"
    else:
        finding = "the daemon can use it" if files else "it does not exist, so the defaults apply"
        return settings, Finding(check, OK, finding)
    advice = "" if result == SKIPPED else f"correct it; {PROGRAM} --help lists all options"
    return _parsed(arguments, []), Finding(check, result, finding, advice)


def _parsed(arguments: list[str], files: list[str]) -> options.Settings:
    origins = config_files.check(files)
    conf = cfg.ConfigOpts()
    options.register(conf)
    with usage_errors(StartError, arguments, conf.print_help):
        conf(
            arguments,
            project=PROGRAM,
            prog=PROGRAM,
            default_config_files=files,
            default_config_dirs=[],
        )
    settings = options.settings(conf, origins)
    origins.check_rules(conf[options.RELAYD].access_rules)
    return settings


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
