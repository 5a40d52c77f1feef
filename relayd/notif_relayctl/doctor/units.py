# SPDX-License-Identifier: Apache-2.0
"""Whether systemd knows the units, listens, and will again after the next boot.

systemctl is asked and not D-Bus: it also works where there is no bus, as root, and to ask it starts
nothing.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from notif_relayctl.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding

PUBLIC_UNIT = "notif-relayd.socket"
INGEST_UNIT = "notif-relayd-ingest.socket"
SERVICE_UNIT = "notif-relayd.service"

BOOTED = "/run/systemd/system"
"""It is there where systemd runs (sd_booted(3))."""

SEND_TIMEOUT = 10.0
"""Seconds for systemctl."""

PROPERTIES = (
    *("LoadState", "UnitFileState", "ActiveState", "SubState", "Result", "Listen", "User"),
    "NeedDaemonReload",
)

INSTALL = "make install, then systemctl enable --now notif-relayd.socket"


class UnitsUnknownError(Exception):
    """Why nothing can be told of units, in a sentence."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as systemd sees it."""

    name: str
    properties: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.properties.get(name, "")

    @property
    def installed(self) -> bool:
        """Whether there is such a unit, be it masked or broken."""
        return self["LoadState"] not in ("", "not-found")

    @property
    def active(self) -> bool:
        """Of a socket: whether systemd holds it."""
        return self["ActiveState"] == "active"

    @property
    def path(self) -> str:
        """Of a socket: its file."""
        return self["Listen"].removesuffix(" (Stream)")


def booted() -> bool:
    """Whether systemd runs on this host."""
    return os.path.isdir(BOOTED)


def units() -> dict[str, Unit]:
    """The relay's units.

    Raises:
        UnitsUnknownError: there is no systemd, or it does not answer.
    """
    if not booted():
        raise UnitsUnknownError("systemd does not run here: the relay is started by other means")
    names = (PUBLIC_UNIT, INGEST_UNIT, SERVICE_UNIT)
    command = ["systemctl", "show", "--no-pager", f"--property={','.join(PROPERTIES)}", *names]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=SEND_TIMEOUT, check=True
        )
    except FileNotFoundError:
        raise UnitsUnknownError("there is no systemctl") from None
    except subprocess.TimeoutExpired:
        raise UnitsUnknownError(f"systemctl does not answer within {SEND_TIMEOUT:.0f} s") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise UnitsUnknownError(f"systemctl cannot tell of units: {said}") from None
    return {
        name: Unit(name, dict(line.split("=", 1) for line in block.splitlines() if "=" in line))
        for name, block in zip(names, done.stdout.split("\n\n"), strict=False)
    }


def examine(found: Mapping[str, Unit] | UnitsUnknownError, relay_runs: bool) -> Iterator[Finding]:
    """Say how the units are; `relay_runs` tells whether somebody listens without them."""
    if isinstance(found, UnitsUnknownError):
        yield Finding("units", SKIPPED, str(found))
    elif any(unit.installed for unit in found.values()):
        lasting = found[PUBLIC_UNIT]["UnitFileState"] == "enabled"  # the other comes with it
        for unit in found.values():
            yield from _examine(unit, lasting)
    elif relay_runs:
        yield Finding("units", SKIPPED, "no unit is installed, and a relay runs without them")
    else:
        yield Finding("units", FAILED, "no unit is installed, and no relay runs", INSTALL)


def _examine(unit: Unit, lasting: bool) -> Iterator[Finding]:
    name, check = unit.name, f"unit {unit.name}"
    if unit["NeedDaemonReload"] == "yes":
        yield Finding(
            check, WARNING, "its file has changed since it was read", "systemctl daemon-reload"
        )
    match unit["LoadState"]:
        case "loaded":
            is_socket = name.endswith(".socket")
            yield from _socket(unit, check, lasting) if is_socket else _service(unit, check)
        case "masked":
            yield Finding(
                check, FAILED, "it is masked: it cannot start", f"systemctl unmask {name}"
            )
        case "" | "not-found":
            yield Finding(check, FAILED, "it is not installed", INSTALL)
        case other:
            yield Finding(
                check, FAILED, f"systemd cannot use its file ({other})", f"systemctl status {name}"
            )


def _socket(unit: Unit, check: str, lasting: bool) -> Iterator[Finding]:
    state = f"{unit['ActiveState']} ({unit['SubState']})"
    start = f"systemctl enable --now {PUBLIC_UNIT}"
    if unit["ActiveState"] == "failed":
        yield Finding(
            check,
            FAILED,
            f"it has failed ({unit['Result']})",
            f"journalctl -u {unit.name} tells why; then systemctl restart {PUBLIC_UNIT}",
        )
    elif not unit.active:
        yield Finding(check, FAILED, f"it does not listen: it is {state}", start)
    elif lasting or unit["UnitFileState"] == "enabled":
        yield Finding(check, OK, f"it is {unit['UnitFileState']} and {state}")
    else:
        yield Finding(
            check,
            WARNING,
            f"it is {state}, but {unit['UnitFileState']}: it is gone after the next boot",
            f"systemctl enable {PUBLIC_UNIT}",
        )


def _service(unit: Unit, check: str) -> Iterator[Finding]:
    match unit["ActiveState"], unit["SubState"]:
        case "failed", _:
            wrong = f"it has failed ({unit['Result']})"
        case _, "auto-restart":
            wrong = f"it fails again and again ({unit['Result']})"
        case "inactive", _:
            yield Finding(check, OK, "it is not running: the first connection starts it")
            return
        case state, sub:
            yield Finding(check, OK, f"it is {state} ({sub})")
            return
    advice = f"journalctl -u {unit.name} tells why; then systemctl restart {unit.name}"
    yield Finding(check, FAILED, wrong, advice)
