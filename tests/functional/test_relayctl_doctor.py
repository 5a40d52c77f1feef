# SPDX-License-Identifier: Apache-2.0
"""The verdicts of relayctl doctor on the relay, its sockets and its configuration."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
from pathlib import Path

import pytest
import yaml

from support.doctor import (
    NOBODY,
    examine,
    examine_as_nobody,
    failed_checks,
    other_group,
    parse_rows,
    row_for,
    rows_for,
)
from support.private_socket import PrivateSocket
from support.relay import RunningRelay, connect, running_relay
from support.relayctl import (
    RELAYCTL,
    needs_root,
    relayctl,
    run,
)
from support.waiting import TIMEOUT


def test_working_relay_has_no_failure(
    accessible_relay: RunningRelay,
) -> None:
    rows = examine(accessible_relay.directory)
    assert failed_checks(rows) == set()
    assert {row["check"] for row in rows} == {
        *("units", "configuration /etc/notif-relayd/relayd.conf"),
        f"directory {accessible_relay.directory}",
        *("socket public", "socket ingest", "socket control"),
        *("listening public", "listening ingest", "listening control"),
        *(f"user {pwd.getpwuid(os.geteuid()).pw_name} {each}" for each in ("subscribe", "produce")),
        f"user {pwd.getpwuid(os.geteuid()).pw_name} status",
        "round trip",
    }
    match = re.fullmatch(
        r"a notification reached a subscriber in (\d+) µs .* in (\d+) µs\)",
        row_for(rows, "round trip")["finding"],
    )
    assert match
    assert int(match[1]) > 0
    assert f"pid {accessible_relay.process.pid}" in row_for(rows, "listening control")["finding"]


def test_round_trip_can_be_disabled(relay: RunningRelay) -> None:
    before = relay.status()["records_received"]
    rows = examine(relay.directory, "--no-round-trip")
    assert rows_for(rows, "round trip") == []
    assert relay.status()["records_received"] == before
    examine(relay.directory)
    relay.wait_status(producers=0, subscribers=0)
    assert relay.status()["records_received"] > before


def test_round_trip_notification_is_identifiable(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber:
        examine(relay.directory)
        notification = subscriber.notification()
    assert notification["event_type"].startswith("relayctl.doctor.")
    assert notification["publisher_id"] == f"relayctl.{socket.gethostname()}"


def test_every_format_has_the_same_rows(relay: RunningRelay) -> None:
    def show(form: str) -> str:
        done = relayctl(relay.directory, "doctor", "--no-round-trip", "-f", form)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    rows = json.loads(show("json"))
    assert yaml.safe_load(show("yaml")) == rows
    assert len(show("csv").splitlines()) == len(rows) + 1
    assert "| listening control " in show("table")


def test_missing_relay_is_a_failure_with_advice(directory: Path) -> None:
    rows = examine(directory)
    assert failed_checks(rows) == {
        "socket public",
        "socket ingest",
        "listening control",
        "round trip",
    }
    assert "does not exist" in row_for(rows, "socket public")["finding"]
    assert row_for(rows, "socket public")["advice"] == "start notif-relayd"
    assert row_for(rows, "socket control")["result"] == "skipped"


def test_missing_directory_is_a_failure_with_advice(directory: Path) -> None:
    path = directory / "none"
    row = row_for(examine(path), f"directory {path}")
    assert (row["result"], row["finding"]) == ("failed", "the directory does not exist")
    assert row["advice"].startswith("start the service that it belongs to, or set another path")


def test_file_in_place_of_the_directory_is_a_failure(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    rows = examine(path)
    assert row_for(rows, f"directory {path}")["finding"] == (
        "it is a regular file, not a directory"
    )
    assert "socket public" in failed_checks(rows)


def test_world_writable_directory_is_a_warning(accessible_relay: RunningRelay) -> None:
    accessible_relay.directory.chmod(0o777)
    row = row_for(examine(accessible_relay.directory), f"directory {accessible_relay.directory}")
    assert (row["result"], row["advice"]) == ("warning", f"chmod o-w {accessible_relay.directory}")
    assert "0777 root:root" in row["finding"] or os.geteuid()


def test_directory_without_search_permission_is_a_warning(relay: RunningRelay) -> None:
    row = row_for(examine(relay.directory), f"directory {relay.directory}")
    assert (row["result"], row["advice"]) == ("warning", f"chmod o+x {relay.directory}")


def test_missing_and_unexpected_groups_are_warnings(accessible_relay: RunningRelay) -> None:
    conf = accessible_relay.directory / "relayd.conf"
    conf.write_text(f"[relayd]\npublic_group = notif-no-such\ningest_group = {other_group()}\n")
    rows = examine(accessible_relay.directory, "--relayd-config", os.fspath(conf))
    missing, other = row_for(rows, "socket public"), row_for(rows, "socket ingest")
    assert missing["result"] == other["result"] == "warning"
    assert (
        "the group notif-no-such, whose members should have access, does not exist"
        in missing["finding"]
    )
    assert missing["advice"].startswith("groupadd --system notif-no-such")
    assert f"its group is not {other_group()}" in other["finding"]
    assert other["advice"] == f"chgrp {other_group()} {accessible_relay.ingest}"
    assert failed_checks(rows) == set()


@needs_root
def test_socket_as_configured_is_ok(accessible_relay: RunningRelay) -> None:
    conf = accessible_relay.directory / "relayd.conf"
    conf.write_text(
        f"[relayd]\npublic_mode = 0600\npublic_group = {other_group()}\npublic_user = {NOBODY}\n"
    )
    shutil.chown(accessible_relay.public, NOBODY, other_group())
    accessible_relay.public.chmod(0o600)
    rows = examine(accessible_relay.directory, "--relayd-config", os.fspath(conf))
    row = row_for(rows, "socket public")
    assert (row["result"], row["finding"]) == (
        "ok",
        f"{accessible_relay.public} is 0600 {NOBODY}:{other_group()}",
    )
    shutil.chown(accessible_relay.public, "root")
    row = row_for(
        examine(accessible_relay.directory, "--relayd-config", os.fspath(conf)), "socket public"
    )
    assert f"its owner is not {NOBODY}" in row["finding"]


@pytest.mark.parametrize("name", ["public", "ingest", "control"])
@pytest.mark.parametrize(
    ("mode", "result", "finding", "advice"),
    [
        (0o600, "failed", "its group may not connect", "chmod g+rw"),
        (0o640, "failed", "its group may not connect", "_mode = 0660"),
        (0o666, "warning", "every user of this host may connect", "chmod o="),
    ],
)
def test_too_strict_or_too_open_mode_is_reported(
    accessible_relay: RunningRelay, name: str, mode: int, result: str, finding: str, advice: str
) -> None:
    path: Path = getattr(accessible_relay, name)
    path.chmod(mode)
    rows = [
        row
        for row in rows_for(
            examine(accessible_relay.directory, "--no-round-trip"), f"socket {name}"
        )
        if finding in row["finding"]
    ]
    assert [row["result"] for row in rows] == [result]
    assert f"{path} is {mode:04o}" in rows[0]["finding"]
    assert advice in rows[0]["advice"]


def test_file_in_place_of_a_socket_is_a_failure(directory: Path) -> None:
    (directory / "ingest.sock").touch()
    rows = examine(directory)
    assert "is not a socket" in row_for(rows, "socket ingest")["finding"]
    assert "listening ingest" in failed_checks(rows)


@pytest.mark.parametrize("arguments", [(), ("--no-round-trip",)])
def test_sockets_of_a_killed_relay_are_stale(
    relay: RunningRelay, arguments: tuple[str, ...]
) -> None:
    relay.process.kill()
    relay.process.wait(TIMEOUT)
    assert relay.public.is_socket()
    rows = examine(relay.directory, *arguments)
    for name in ("public", "ingest"):
        row = row_for(rows, f"listening {name}")
        assert row["result"] == "failed"
        assert f"listens on {relay.directory}" in row["finding"]
        assert row["advice"] == "start notif-relayd"
    assert "listening control" in failed_checks(rows)


def test_doctor_does_not_connect_to_activating_sockets(directory: Path) -> None:
    with (
        PrivateSocket(directory / "notifications.sock") as public,
        PrivateSocket(directory / "ingest.sock") as ingest,
    ):
        rows = examine(directory, "--no-round-trip")
        assert not public.has_pending()
        assert not ingest.has_pending()
    for name in ("public", "ingest"):
        assert row_for(rows, f"listening {name}")["result"] == "ok"


def test_suspended_relay_is_reported_as_unresponsive(relay: RunningRelay) -> None:
    relay.process.send_signal(signal.SIGSTOP)
    rows = examine(relay.directory)
    assert row_for(rows, "listening public")["result"] == "ok"
    assert "does not answer within" in row_for(rows, "listening control")["finding"]
    assert "does not answer a subscriber within" in row_for(rows, "round trip")["finding"]
    assert failed_checks(rows) == {"listening control", "round trip"}


@needs_root
def test_relay_in_another_network_namespace_is_found(directory: Path) -> None:
    if run("unshare", "--net", "true").returncode != 0:
        pytest.skip("namespaces cannot be created")
    elsewhere = os.fspath(directory / "elsewhere.sock")
    with running_relay(directory, "--relayd-control_path", elsewhere):
        command = [RELAYCTL, "--runtime-dir", os.fspath(directory), "doctor", "-f", "json"]
        rows = parse_rows(run("unshare", "--net", *command))
        assert row_for(rows, "listening public")["result"] == "ok"
        assert row_for(rows, "round trip")["result"] == "ok"
        rows = parse_rows(run("unshare", "--net", *command, "--no-round-trip"))
        assert (
            "no process of this network namespace listens on"
            in row_for(rows, "listening public")["finding"]
        )


@pytest.mark.parametrize("limit", ["subscribers", "producers"])
def test_full_relay_advice_names_the_limit(directory: Path, limit: str) -> None:
    with running_relay(directory, f"--relayd-max_{limit}", "1") as relay:
        path = relay.public if limit == "subscribers" else relay.ingest
        with connect(path):
            relay.wait_status(**{limit: 1})
            row = row_for(examine(directory), "round trip")
    assert row["result"] == "failed"
    assert f"max_{limit}" in row["advice"]


def test_lost_round_trip_is_a_failure(directory: Path) -> None:
    with (
        running_relay(
            directory,
            *("--relayd-control_path", os.fspath(directory / "elsewhere.sock")),
            *("--relayd-ingest_path", os.fspath(directory / "other.sock")),
        ),
        PrivateSocket(directory / "ingest.sock"),
    ):
        row = row_for(examine(directory), "round trip")
    assert row["result"] == "failed"
    assert (
        f"{directory}/ingest.sock accepted a notification that did not reach a subscriber"
        in row["finding"]
    )


def test_round_trip_fails_without_a_private_socket(
    relay: RunningRelay,
) -> None:
    relay.ingest.unlink()
    row = row_for(examine(relay.directory), "round trip")
    assert row["result"] == "failed"
    assert f"{relay.ingest}: the socket does not exist" in row["finding"]


def test_paths_are_read_from_the_configuration(directory: Path) -> None:
    conf = directory / "relayd.conf"
    conf.write_text(f"[oslo_messaging_notifications]\nsock_path = {directory}/there/public.sock\n")
    (directory / "relayd.conf.d").mkdir()
    (directory / "relayd.conf.d" / "ingest.conf").write_text(
        f"[relayd]\ningest_path = {directory}/ingest\n"
    )
    rows = examine(directory, "--relayd-config", os.fspath(conf))
    assert row_for(rows, f"configuration {conf}")["result"] == "ok"
    assert f"{directory}/there/public.sock does" in row_for(rows, "socket public")["finding"]
    assert f"{directory}/ingest does" in row_for(rows, "socket ingest")["finding"]
    assert f"{directory}/there/control.sock" in row_for(rows, "socket control")["finding"]
    assert f"directory {directory}/there" in failed_checks(rows)


def test_paths_of_a_running_daemon_take_precedence(directory: Path) -> None:
    path = os.fspath(directory / "elsewhere.sock")
    with running_relay(directory, "--relayd-ingest_path", path):
        rows = examine(directory)
    assert row_for(rows, "listening ingest")["finding"] == f"the relay listens on {path}"
    assert row_for(rows, "round trip")["result"] == "ok"


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (None, "relayd.conf"),
        ("[relayd]\nring_size = many\n", "many"),
        ("[relayd]\nring_size = 100000\n", "max_record_size"),
        ("[relayd]\npublic_mode = rw\n", "public_mode"),
        ("[relayd\n", "relayd.conf"),
        ("[relayd]\nring_size = $nothing\n", "nothing"),
        ("\udcff", "UTF-8"),
        ("[relayd]\npublic_allow_user = root\n", "public_allow_users"),
        ("[access:m]\ngroup = root\n", "access_rules"),
    ],
)
def test_invalid_configuration_is_a_failure(
    relay: RunningRelay, content: str | None, finding: str
) -> None:
    conf = relay.directory / "relayd.conf"
    if content is not None:
        conf.write_bytes(content.encode(errors="surrogateescape"))
    rows = examine(relay.directory, "--relayd-config", os.fspath(conf))
    assert failed_checks(rows) == {f"configuration {conf}"}
    row = row_for(rows, f"configuration {conf}")
    assert finding in row["finding"]
    assert "usage:" not in row["finding"]
    assert row_for(rows, "round trip")["result"] == "ok"


@needs_root
def test_unreadable_configuration_is_skipped(accessible_relay: RunningRelay) -> None:
    conf = accessible_relay.directory / "relayd.conf"
    conf.touch(0o600)
    rows = examine_as_nobody(accessible_relay.directory, "--relayd-config", os.fspath(conf))
    assert row_for(rows, f"configuration {conf}")["result"] == "skipped"
