# SPDX-License-Identifier: Apache-2.0
"""What the units do before anybody connects."""

import grp
import os

from machine import (
    INGEST,
    INGEST_UNIT,
    PUBLIC,
    PUBLIC_UNIT,
    SERVICE,
    access,
    run,
    show,
    states,
    systemctl,
)


def test_enabling_the_public_socket_brings_the_private_one_and_not_the_service() -> None:
    systemctl("stop", PUBLIC_UNIT)
    systemctl("enable", "--now", PUBLIC_UNIT)
    assert states() == ("inactive", "active", "active")
    assert {show("UnitFileState", unit) for unit in (PUBLIC_UNIT, INGEST_UNIT)} == {"enabled"}


def test_each_socket_is_for_one_group() -> None:
    assert access(PUBLIC) == ("0660", "notif-relayd", "notif-subscribers")
    assert access(INGEST) == ("0660", "notif-relayd", "notif-producers")


def test_disabling_the_public_socket_takes_both_sockets_away() -> None:
    systemctl("enable", PUBLIC_UNIT)
    systemctl("disable", "--now", PUBLIC_UNIT)
    assert states() == ("inactive", "inactive", "inactive")
    assert {show("UnitFileState", unit) for unit in (PUBLIC_UNIT, INGEST_UNIT)} == {"disabled"}
    assert os.listdir("/run/notif-relayd") == []


def test_the_runtime_directory_belongs_to_the_service_and_is_open_to_all() -> None:
    assert access("/run/notif-relayd") == ("0755", "notif-relayd", "notif-relayd")


def test_the_services_user_may_give_a_socket_to_subscribers_and_to_producers() -> None:
    for group in ("notif-subscribers", "notif-producers"):
        assert "notif-relayd" in grp.getgrnam(group).gr_mem


def test_systemd_has_no_complaint_about_the_units() -> None:
    verified = run("systemd-analyze", "verify", SERVICE, PUBLIC_UNIT, INGEST_UNIT)
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_service_is_exposed_as_little_as_a_unit_can_make_it() -> None:
    # In tenths: 0.6 of 10.
    scored = run("systemd-analyze", "security", "--offline=true", "--threshold=6", SERVICE)
    assert scored.returncode == 0, scored.stdout
