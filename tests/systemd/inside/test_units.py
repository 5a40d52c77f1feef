# SPDX-License-Identifier: Apache-2.0
"""The units before the first connection."""

import grp
import os
from pathlib import Path

import pytest

from support.container import (
    INGEST,
    INGEST_UNIT,
    PUBLIC,
    PUBLIC_UNIT,
    SERVICE,
    access,
    relays,
    run,
    show,
    states,
    systemctl,
)
from support.environments import CHECKOUT


def test_enabling_the_public_socket_enables_the_private_one() -> None:
    systemctl("stop", PUBLIC_UNIT)
    systemctl("enable", "--now", PUBLIC_UNIT)
    assert states() == ("inactive", "active", "active")
    assert {show("UnitFileState", unit) for unit in (PUBLIC_UNIT, INGEST_UNIT)} == {"enabled"}


def test_each_socket_belongs_to_one_group() -> None:
    assert access(PUBLIC) == ("0660", "notif-relayd", "notif-subscribers")
    assert access(INGEST) == ("0660", "notif-relayd", "notif-producers")


def test_disabling_the_public_socket_removes_both_sockets() -> None:
    systemctl("enable", PUBLIC_UNIT)
    systemctl("disable", "--now", PUBLIC_UNIT)
    assert states() == ("inactive", "inactive", "inactive")
    assert {show("UnitFileState", unit) for unit in (PUBLIC_UNIT, INGEST_UNIT)} == {"disabled"}
    assert os.listdir("/run/notif-relayd") == []


def test_uninstall_stops_and_disables_the_units(request: pytest.FixtureRequest) -> None:
    make = ("make", "--silent", "-C", os.fspath(CHECKOUT))
    request.addfinalizer(lambda: run(*make, "install"))
    systemctl("enable", "--now", PUBLIC_UNIT, "notif-relayd@nova.socket")
    assert relays()
    assert run(*make, "uninstall", "PREFIX=/opt/other").returncode == 0
    assert states() == ("active", "active", "active")
    for _ in range(2):
        removed = run(*make, "uninstall")
        assert (removed.returncode, removed.stdout, removed.stderr) == (0, "", "")
        assert states() == ("inactive", "inactive", "inactive")
        assert {show("LoadState", unit) for unit in (SERVICE, PUBLIC_UNIT)} == {"not-found"}
    links = Path("/etc/systemd/system").glob("*.wants/notif-relayd*")
    assert [each for each in links if each.is_symlink()] == []
    assert not os.path.lexists("/run/notif-relayd/nova")
    assert os.listdir("/run/notif-relayd") == []
    assert not os.path.lexists("/run/nova/notifications.sock")


def test_runtime_directory_has_owner_and_mode_0755() -> None:
    assert access("/run/notif-relayd") == ("0755", "notif-relayd", "notif-relayd")


def test_services_user_is_in_both_socket_groups() -> None:
    for group in ("notif-subscribers", "notif-producers"):
        assert "notif-relayd" in grp.getgrnam(group).gr_mem


def test_systemd_analyze_accepts_the_units() -> None:
    verified = run("systemd-analyze", "verify", SERVICE, PUBLIC_UNIT, INGEST_UNIT)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_service_unit_has_exposure_of_at_most_0_6() -> None:
    # In tenths: the exposure is at most 0.6 of 10.
    scored = run("systemd-analyze", "security", "--offline=true", "--threshold=6", SERVICE)
    assert scored.returncode == 0, scored.stdout
