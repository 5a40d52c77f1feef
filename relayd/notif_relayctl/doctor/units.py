# SPDX-License-Identifier: Apache-2.0
"""Check whether the units are installed and active, and will be after the next boot.

The state is queried with systemctl instead of D-Bus: for root, it works without a bus. It starts
no unit.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from notif_relayd.systemd.environment import booted

QUERY_TIMEOUT = 10.0
"""Seconds for systemctl."""

PROPERTIES = (
    *("LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "Listen", "User"),
    "NeedDaemonReload",
)


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the relay's units."""

    public: str
    ingest: str
    service: str

    @classmethod
    def of(cls, instance: str | None) -> "Names":
        """Return the names for an instance, or for the relay that is not an instance."""
        suffix = "" if instance is None else f"@{instance}"
        return cls(
            f"notif-relayd{suffix}.socket",
            f"notif-relayd-ingest{suffix}.socket",
            f"notif-relayd{suffix}.service",
        )

    @property
    def enable(self) -> str:
        """The command that starts the relay now and at each boot."""
        return f"systemctl enable --now {self.public}"


class UnitsUnknownError(Exception):
    """The units cannot be queried; the message states the reason."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit with its properties from systemctl."""

    name: str
    properties: Mapping[str, str]
    paths: Sequence[str] = ()
    """For a socket unit: the paths of its sockets, in the order in which the daemon gets them."""

    def __getitem__(self, name: str) -> str:
        return self.properties.get(name, "")

    @property
    def installed(self) -> bool:
        """Whether the unit exists, even if it is masked or invalid."""
        return self["LoadState"] not in ("", "not-found")

    @property
    def active(self) -> bool:
        """For a socket unit: whether systemd holds the socket."""
        return self["ActiveState"] == "active"


def units(named: Names) -> dict[str, Unit]:
    """Return the relay's units by name.

    Args:
        named: their names.

    Raises:
        UnitsUnknownError: systemd is not running or does not answer.
    """
    if not booted():
        raise UnitsUnknownError("systemd is not running; the relay is started by other means")
    names = (named.public, named.ingest, named.service)
    command = ["systemctl", "show", "--no-pager", f"--property={','.join(PROPERTIES)}", *names]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=QUERY_TIMEOUT, check=True
        )
    except FileNotFoundError:
        raise UnitsUnknownError("systemctl is not installed") from None
    except subprocess.TimeoutExpired:
        raise UnitsUnknownError(f"systemctl does not answer within {QUERY_TIMEOUT:.0f} s") from None
    except subprocess.CalledProcessError as error:
        message = " ".join(error.stderr.split())
        raise UnitsUnknownError(f"systemctl cannot show the units: {message}") from None
    return {
        name: _unit(name, block)
        for name, block in zip(names, done.stdout.split("\n\n"), strict=False)
    }


def _unit(name: str, shown: str) -> Unit:
    pairs = [line.split("=", 1) for line in shown.splitlines() if "=" in line]
    # A socket unit has one line for each ListenStream=.
    paths = [value.removesuffix(" (Stream)") for key, value in pairs if key == "Listen"]
    return Unit(name, dict(pairs), paths)


def examine(
    names: Names, found: Mapping[str, Unit] | UnitsUnknownError, relay_runs: bool
) -> Iterator[Finding]:
    """Check the units.

    Args:
        names: their names.
        found: the units, or why they are unknown.
        relay_runs: whether a process listens on the public socket.
    """
    if isinstance(found, UnitsUnknownError):
        yield Finding("units", SKIPPED, str(found))
    elif any(unit.installed for unit in found.values()):
        # Enabling the public socket also enables the private one.
        lasting = found[names.public]["UnitFileState"] == "enabled"
        for unit in found.values():
            yield from _examine(names, unit, lasting)
    elif relay_runs:
        yield Finding("units", SKIPPED, "no unit is installed, but a relay is running")
    else:
        yield Finding(
            "units", FAILED, "no unit is installed, and no relay is running", _install(names)
        )


def _install(names: Names) -> str:
    return f"make install, then {names.enable}"


def _examine(names: Names, unit: Unit, lasting: bool) -> Iterator[Finding]:
    name, check = unit.name, f"unit {unit.name}"
    if unit["NeedDaemonReload"] == "yes":
        yield Finding(
            check, WARNING, "its file has changed since systemd read it", "systemctl daemon-reload"
        )
    match unit["LoadState"]:
        case "loaded":
            is_socket = name.endswith(".socket")
            yield from _socket(names, unit, check, lasting) if is_socket else _service(unit, check)
        case "masked":
            yield Finding(
                check, FAILED, "it is masked and cannot start", f"systemctl unmask {name}"
            )
        case "" | "not-found":
            yield Finding(check, FAILED, "it is not installed", _install(names))
        case other:
            yield Finding(
                check, FAILED, f"systemd cannot use its file ({other})", f"systemctl status {name}"
            )


def _socket(names: Names, unit: Unit, check: str, lasting: bool) -> Iterator[Finding]:
    state = f"{unit['ActiveState']} ({unit['SubState']})"
    if unit["ActiveState"] == "failed":
        yield Finding(
            check,
            FAILED,
            f"it has failed ({unit['Result']})",
            f"see journalctl -u {unit.name} for the reason, then systemctl restart {names.public}",
        )
    elif not unit.active:
        yield Finding(check, FAILED, f"it does not listen; it is {state}", names.enable)
    elif lasting or unit["UnitFileState"] == "enabled":
        yield Finding(check, OK, f"it is {unit['UnitFileState']} and {state}")
    else:
        yield Finding(
            check,
            WARNING,
            f"it is {state}, but {unit['UnitFileState']}: it will not listen after the next boot",
            f"systemctl enable {names.public}",
        )


def _service(unit: Unit, check: str) -> Iterator[Finding]:
    match unit["ActiveState"], unit["SubState"]:
        case "failed", _:
            fault = f"it has failed ({unit['Result']})"
        case _, "auto-restart":
            fault = f"it fails repeatedly ({unit['Result']})"
        case "inactive", _:
            yield Finding(check, OK, "it is not running; the first connection starts it")
            return
        case state, sub:
            yield Finding(check, OK, f"it is {state} ({sub})")
            return
    advice = f"see journalctl -u {unit.name} for the reason, then systemctl restart {unit.name}"
    yield Finding(check, FAILED, fault, advice)
