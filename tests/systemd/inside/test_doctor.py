# SPDX-License-Identifier: Apache-2.0
"""The verdicts of relayctl doctor on the units in each of their states."""

import json
import os
import shutil
import socket
import subprocess

import pytest

from notif_relay import paths
from support.container import (
    CONFIGURATION,
    INGEST,
    INGEST_UNIT,
    PUBLIC,
    PUBLIC_UNIT,
    SERVICE,
    Journal,
    configure,
    connect,
    drop_in,
    relays,
    run,
    states,
    systemctl,
)

Row = dict[str, str]


@pytest.fixture(autouse=True)
def enabled(journal: Journal) -> None:
    systemctl("enable", PUBLIC_UNIT)


def examine(*arguments: str, user: str | None = None) -> dict[str, Row]:
    done = run("relayctl", "doctor", "-f", "json", *arguments, user=user)
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert done.returncode == any(row["result"] == "failed" for row in rows)
    return {row["check"]: row for row in rows}


def failed(rows: dict[str, Row]) -> set[str]:
    return {check for check, row in rows.items() if row["result"] == "failed"}


def test_installed_host_is_ok_before_and_after_the_start() -> None:
    for state in ("inactive", "active"):
        assert states()[0] == state
        rows = examine()
        unexpected = {
            check: row
            for check, row in rows.items()
            if row["result"] not in ("ok", "skipped")
            or (row["result"] == "skipped" and state == "active")
        }
        assert unexpected == {}
        assert rows["listening public"]["finding"] == f"systemd listens on {PUBLIC}"
        assert rows[f"unit {PUBLIC_UNIT}"]["finding"] == "it is enabled and active " + (
            "(listening)" if state == "inactive" else "(running)"
        )


def test_doctor_does_not_start_the_service() -> None:
    rows = examine("--no-round-trip")
    assert states() == ("inactive", "active", "active")
    assert rows[f"unit {SERVICE}"]["finding"].endswith("the first connection starts it")
    assert rows["listening control"]["result"] == "ok"
    assert failed(rows) == set()


def test_each_user_gets_their_own_permissions() -> None:
    assert relays()
    reader, writer = examine(user="reader"), examine(user="writer")
    assert reader["user reader subscribe"]["result"] == "ok"
    assert reader["user reader produce"]["advice"].startswith("usermod -aG notif-producers reader")
    assert reader["round trip"]["result"] == writer["round trip"]["result"] == "skipped"
    assert writer["user writer produce"]["result"] == "ok"
    assert failed(reader) == failed(writer) == set()
    systemctl("stop", SERVICE)
    outsider = examine(user="outsider")
    assert outsider["user outsider status"]["result"] == "skipped"
    assert failed(outsider) == {"user outsider subscribe", "user outsider produce"}


def test_process_started_before_joining_is_a_warning() -> None:
    with subprocess.Popen(
        ["/usr/bin/cat"], stdin=subprocess.PIPE, user="outsider", group="outsider", extra_groups=[]
    ) as process:
        added = run("systemd-sysusers", "--inline", "m outsider notif-producers")
        assert added.returncode == 0, added.stderr
        try:
            rows = examine("--user", "outsider", "--needs", "produce")
        finally:
            run("gpasswd", "--delete", "outsider", "notif-producers")
            process.communicate()
    assert rows["user outsider produce"]["result"] == "ok"
    row = rows["processes outsider produce"]
    assert row["result"] == "warning"
    assert f"{process.pid} (cat)" in row["finding"]


def test_disabled_socket_unit_is_a_warning() -> None:
    systemctl("disable", PUBLIC_UNIT)
    rows = examine()
    for unit in (PUBLIC_UNIT, INGEST_UNIT):
        row = rows[f"unit {unit}"]
        assert row["result"] == "warning"
        assert "disabled" in row["finding"]
        assert row["advice"] == f"systemctl enable {PUBLIC_UNIT}"
    assert failed(rows) == set()


def test_disabled_private_socket_unit_is_ok() -> None:
    systemctl("disable", INGEST_UNIT)
    row = examine("--no-round-trip")[f"unit {INGEST_UNIT}"]
    assert (row["result"], row["finding"]) == ("ok", "it is disabled and active (listening)")


def test_stopped_socket_unit_is_a_failure() -> None:
    systemctl("stop", PUBLIC_UNIT)
    rows = examine()
    assert failed(rows) == {
        *(f"unit {PUBLIC_UNIT}", f"unit {INGEST_UNIT}", "socket public", "socket ingest"),
        *("listening control", "round trip"),
    }
    assert rows[f"unit {PUBLIC_UNIT}"]["advice"] == f"systemctl enable --now {PUBLIC_UNIT}"


def test_masked_unit_is_a_failure() -> None:
    for unit in (PUBLIC_UNIT, INGEST_UNIT, SERVICE):
        systemctl("mask", "--runtime", unit)
        try:
            row = examine("--no-round-trip")[f"unit {unit}"]
        finally:
            systemctl("unmask", "--runtime", unit)
        assert row["result"] == "failed"
        assert row["advice"] == f"systemctl unmask {unit}"


def test_failed_socket_unit_is_a_failure() -> None:
    systemctl("stop", PUBLIC_UNIT)
    os.mkdir(INGEST)
    try:
        os.mkdir(f"{INGEST}/full")
        run("systemctl", "start", INGEST_UNIT)
        rows = examine()
    finally:
        shutil.rmtree(INGEST)
    row = rows[f"unit {INGEST_UNIT}"]
    assert row["result"] == "failed"
    assert "it has failed" in row["finding"]
    assert f"journalctl -u {INGEST_UNIT}" in row["advice"]
    assert "is not a socket" in rows["socket ingest"]["finding"]


def test_failed_service_and_its_configuration_are_reported() -> None:
    configure("[relayd]", "ring_size = many")
    drop_in("Restart=no")
    assert run("systemctl", "start", SERVICE).returncode != 0
    rows = examine("--no-round-trip")
    assert "it has failed (exit-code)" in rows[f"unit {SERVICE}"]["finding"]
    row = rows[f"configuration {CONFIGURATION}"]
    assert row["result"] == "failed"
    assert "many" in row["finding"]


def test_restarting_service_is_a_failure(journal: Journal) -> None:
    configure("[relayd]", "ring_size = many")
    drop_in("RestartSec=1h")
    with connect(PUBLIC):
        journal.entry(MESSAGE="Failed with result")
        row = examine("--no-round-trip")[f"unit {SERVICE}"]
    assert row["result"] == "failed"
    assert "fails repeatedly" in row["finding"]


def test_unit_changed_since_its_load_is_a_warning() -> None:
    drop_in("RestartSec=2")
    os.utime(f"/run/systemd/system/{SERVICE}.d/test.conf", (2**31 - 1, 2**31 - 1))
    done = run("relayctl", "doctor", "--no-round-trip", "-f", "json")
    advice = {row["advice"] for row in json.loads(done.stdout) if row["check"] == f"unit {SERVICE}"}
    assert "systemctl daemon-reload" in advice


def test_directory_of_another_owner_is_a_failure() -> None:
    assert relays()
    shutil.chown(paths.RUNTIME_DIR, "root", "root")
    try:
        row = examine("--no-round-trip")[f"directory {paths.RUNTIME_DIR}"]
    finally:
        shutil.chown(paths.RUNTIME_DIR, "notif-relayd", "notif-relayd")
    assert row["result"] == "failed"
    assert "notif-relayd may not create a socket in it" in row["finding"]


def test_missing_units_are_a_failure_without_a_relay() -> None:
    systemctl("stop", PUBLIC_UNIT)
    systemctl("disable", PUBLIC_UNIT)
    directory = "/usr/local/lib/systemd/system"
    os.rename(directory, f"{directory}.away")
    systemctl("daemon-reload")
    try:
        row = examine("--no-round-trip")["units"]
        assert (row["result"], row["advice"][:12]) == ("failed", "make install")
        assert "no unit is installed" in row["finding"]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(PUBLIC)
            listener.listen()
            assert examine("--no-round-trip")["units"]["result"] == "skipped"
        os.unlink(PUBLIC)
    finally:
        os.rename(f"{directory}.away", directory)
        systemctl("daemon-reload")
