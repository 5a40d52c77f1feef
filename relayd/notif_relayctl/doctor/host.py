# SPDX-License-Identifier: Apache-2.0
"""What there is on this host: the relay's configuration, its units, and where its sockets are.

Three may say where a socket is. The daemon knows, if it answers. Where systemd holds a socket, its
unit says so and the daemon's configuration does not count. Else it is the configuration.
"""

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass

from oslo_config import cfg

from notif_relay import paths
from notif_relay.connection import checked_path
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
from notif_relayd.daemon import options
from notif_relayd.errors import StartError
from notif_relayd.settings import CONFIG_FILE, PROGRAM, Access, SocketPlan

FLAGS = 3
"""The column in /proc/net/unix."""

LISTENING = 0x10000
"""__SO_ACCEPTCON, one of the flags."""


@dataclass(frozen=True, slots=True)
class RelaySocket:
    """One of the three sockets."""

    name: str
    """`public`, `ingest` or `control`, which begin the names of its options."""
    path: str
    access: Access
    unit: Unit | None
    """The unit that holds it."""


@dataclass(frozen=True, slots=True)
class Host:
    """What there is."""

    units: Mapping[str, Unit] | UnitsUnknownError
    status: Status | CtlError
    """The daemon's answer, or why there is none."""
    public: RelaySocket
    ingest: RelaySocket
    control: RelaySocket
    configuration: Finding

    @property
    def sockets(self) -> tuple[RelaySocket, ...]:
        """All three."""
        return self.public, self.ingest, self.control

    @property
    def start(self) -> str:
        """How to start the relay."""
        if isinstance(self.units, UnitsUnknownError) or not self.units[PUBLIC_UNIT].installed:
            return "start notif-relayd"
        return f"systemctl restart {PUBLIC_UNIT}"

    def listens(self, socket: RelaySocket) -> bool:
        """Whether somebody is known to listen there, without connecting to what systemd may hold.

        False does not rule it out: the kernel tells of the sockets in one network namespace, and
        the daemon of its own only who may ask it.
        """
        if isinstance(self.status, Status) and socket.path in (
            *(self.status.public_socket, self.status.ingest_socket),
            self.control.path,
        ):
            return True
        return os.path.realpath(socket.path) in _listening()


def found(runtime_dir: str, control_path: str, config_file: str | None) -> Host:
    """Look around.

    Args:
        runtime_dir: where the sockets are, unless the default directory, which the configuration
            may change.
        control_path: the control socket, with the same exception.
        config_file: the daemon's; None for the usual one, which need not exist.
    """
    settings, configuration = _settings(runtime_dir, config_file)
    usual = os.path.join(runtime_dir, paths.CONTROL_SOCKET)
    control = settings.control.path if control_path == usual else control_path
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
    plan: SocketPlan, known: Mapping[str, Unit] | UnitsUnknownError, name: str, told: str
) -> RelaySocket:
    unit = None if isinstance(known, UnitsUnknownError) else known.get(name)
    if unit is None or not unit.active or told not in ("", unit.path):
        return RelaySocket(plan.name, told or plan.path, plan.access, None)
    return RelaySocket(plan.name, unit.path, plan.access, unit)


def _settings(runtime_dir: str, config_file: str | None) -> tuple[options.Settings, Finding]:
    """The daemon's settings; its defaults where they cannot be had."""
    file = config_file or CONFIG_FILE
    arguments = [] if runtime_dir == paths.RUNTIME_DIR else ["--runtime-dir", runtime_dir]
    directories = [f"{file}.d"] if os.path.isdir(f"{file}.d") else []
    files = [file] if config_file or os.path.exists(file) else []
    check = f"configuration {file}"
    try:
        settings = _parsed(arguments, files, directories)
        for plan in (settings.public, settings.ingest, settings.control):
            checked_path(plan.path)
    except cfg.ConfigFilesPermissionDeniedError:
        result, said = SKIPPED, "you may not read it: try it as root; taken for empty"
    except (cfg.Error, StartError, OSError, ValueError) as error:
        result, said = FAILED, f"the daemon cannot use it: {' '.join(str(error).split())}"
    else:
        said = "the daemon can use it" if files else "there is none: the defaults hold"
        return settings, Finding(check, OK, said)
    advice = "" if result == SKIPPED else f"mend it; {PROGRAM} --help has all options"
    return _parsed(arguments, [], []), Finding(check, result, said, advice)


def _parsed(arguments: list[str], files: list[str], directories: list[str]) -> options.Settings:
    conf = cfg.ConfigOpts()
    options.register(conf)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            conf(
                arguments,
                project=PROGRAM,
                prog=PROGRAM,
                default_config_files=files,
                default_config_dirs=directories,
            )
    except SystemExit:  # How it takes a wrong value, even from a file.
        raise StartError(complaint.getvalue().rpartition("error: ")[2]) from None
    return options.settings(conf)


def _listening() -> set[str]:
    """The files of all Unix sockets that are listened on, proc(5)."""
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
