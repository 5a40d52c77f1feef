# SPDX-License-Identifier: Apache-2.0
"""relayctl doctor beside a real relay: what it says of a good set-up, and of each that is not."""

from __future__ import annotations

import contextlib
import grp
import itertools
import json
import os
import pwd
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from notif_relayctl.access import ACL, refusal
from notif_relayctl.accounts import Account
from support.private_socket import PrivateSocket
from support.relay import RunningRelay, connect, running_relay
from support.relayctl import (
    RELAYCTL,
    RELAYCTL_AS_NOBODY,
    needs_root,
    relayctl,
    relayctl_as_nobody,
    run,
)
from support.waiting import TIMEOUT

Row = dict[str, str]

NOBODY = pwd.getpwuid(65534).pw_name


def examine(directory: Path, *arguments: str) -> list[Row]:
    done = relayctl(directory, "doctor", "-f", "json", *arguments)
    return rows_of(done)


def examine_as_nobody(directory: Path, *arguments: str) -> list[Row]:
    return rows_of(relayctl_as_nobody(directory, "doctor", "-f", "json", *arguments))


def rows_of(done: subprocess.CompletedProcess[str]) -> list[Row]:
    assert done.stderr == ""
    rows = json.loads(done.stdout)
    assert done.returncode == any(row["result"] == "failed" for row in rows)
    for row in rows:
        assert list(row) == ["check", "result", "finding", "advice"]
        assert row["result"] in ("ok", "warning", "failed", "skipped")
        assert row["result"] != "ok" or row["advice"] == ""
        assert row["result"] not in ("warning", "failed") or row["advice"] != ""
    return rows


def of(rows: list[Row], check: str) -> list[Row]:
    return [row for row in rows if row["check"] == check]


def the(rows: list[Row], check: str) -> Row:
    (row,) = of(rows, check)
    return row


def failed(rows: list[Row]) -> set[str]:
    return {row["check"] for row in rows if row["result"] == "failed"}


def a_group() -> str:
    """A group of this host that is nobody's and not root's."""
    return next(each.gr_name for each in grp.getgrall() if each.gr_gid not in (0, 65534))


@pytest.fixture
def open_relay(relay: RunningRelay) -> RunningRelay:
    """In a directory that everybody may enter."""
    relay.directory.chmod(0o755)
    return relay


def test_working_relay_has_no_failure(
    open_relay: RunningRelay,
) -> None:
    rows = examine(open_relay.directory)
    assert failed(rows) == set()
    assert {row["check"] for row in rows} == {
        *("units", "configuration /etc/notif-relayd/relayd.conf"),
        f"directory {open_relay.directory}",
        *("socket public", "socket ingest", "socket control"),
        *("listening public", "listening ingest", "listening control"),
        *(f"user {pwd.getpwuid(os.geteuid()).pw_name} {each}" for each in ("subscribe", "produce")),
        f"user {pwd.getpwuid(os.geteuid()).pw_name} status",
        "round trip",
    }
    said = re.fullmatch(
        r"what is sent in comes out within (\d+) µs .* within (\d+) µs\)",
        the(rows, "round trip")["finding"],
    )
    assert said
    assert int(said[1]) > 0
    assert f"pid {open_relay.process.pid}" in the(rows, "listening control")["finding"]


def test_round_trip_can_be_disabled(relay: RunningRelay) -> None:
    before = relay.status()["records_received"]
    rows = examine(relay.directory, "--no-round-trip")
    assert of(rows, "round trip") == []
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
    assert failed(rows) == {"socket public", "socket ingest", "listening control", "round trip"}
    assert "is not there" in the(rows, "socket public")["finding"]
    assert the(rows, "socket public")["advice"] == "start notif-relayd"
    assert the(rows, "socket control")["result"] == "skipped"


def test_missing_directory_is_a_failure_with_advice(directory: Path) -> None:
    path = directory / "none"
    row = the(examine(path), f"directory {path}")
    assert (row["result"], row["finding"]) == ("failed", "there is no such directory")
    assert str(path) in row["advice"]


def test_file_in_place_of_the_directory_is_a_failure(directory: Path) -> None:
    path = directory / "file"
    path.touch()
    rows = examine(path)
    assert the(rows, f"directory {path}")["finding"] == "it is no directory"
    assert "socket public" in failed(rows)


def test_world_writable_directory_is_a_warning(open_relay: RunningRelay) -> None:
    open_relay.directory.chmod(0o777)
    row = the(examine(open_relay.directory), f"directory {open_relay.directory}")
    assert (row["result"], row["advice"]) == ("warning", f"chmod o-w {open_relay.directory}")
    assert "0777 root:root" in row["finding"] or os.geteuid()


def test_directory_without_search_permission_is_a_warning(relay: RunningRelay) -> None:
    row = the(examine(relay.directory), f"directory {relay.directory}")
    assert (row["result"], row["advice"]) == ("warning", f"chmod o+x {relay.directory}")


def test_missing_and_unexpected_groups_are_warnings(open_relay: RunningRelay) -> None:
    conf = open_relay.directory / "relayd.conf"
    conf.write_text(f"[relayd]\npublic_group = notif-no-such\ningest_group = {a_group()}\n")
    rows = examine(open_relay.directory, "--relayd-config", os.fspath(conf))
    missing, other = the(rows, "socket public"), the(rows, "socket ingest")
    assert missing["result"] == other["result"] == "warning"
    assert "there is no group notif-no-such" in missing["finding"]
    assert missing["advice"].startswith("groupadd --system notif-no-such")
    assert f"its group is not {a_group()}" in other["finding"]
    assert other["advice"] == f"chgrp {a_group()} {open_relay.ingest}"
    assert failed(rows) == set()


@needs_root
def test_socket_as_configured_is_ok(open_relay: RunningRelay) -> None:
    conf = open_relay.directory / "relayd.conf"
    conf.write_text(
        f"[relayd]\npublic_mode = 0600\npublic_group = {a_group()}\npublic_user = {NOBODY}\n"
    )
    shutil.chown(open_relay.public, NOBODY, a_group())
    open_relay.public.chmod(0o600)
    rows = examine(open_relay.directory, "--relayd-config", os.fspath(conf))
    row = the(rows, "socket public")
    assert (row["result"], row["finding"]) == (
        "ok",
        f"{open_relay.public} is 0600 {NOBODY}:{a_group()}",
    )
    shutil.chown(open_relay.public, "root")
    row = the(examine(open_relay.directory, "--relayd-config", os.fspath(conf)), "socket public")
    assert f"its owner is not {NOBODY}" in row["finding"]


@pytest.mark.parametrize("name", ["public", "ingest", "control"])
@pytest.mark.parametrize(
    ("mode", "result", "said", "advice"),
    [
        (0o600, "failed", "its group may not connect", "chmod g+rw"),
        (0o640, "failed", "its group may not connect", "_mode = 0660"),
        (0o666, "warning", "everybody on this host may connect", "chmod o="),
    ],
)
def test_too_strict_or_too_open_mode_is_reported(
    open_relay: RunningRelay, name: str, mode: int, result: str, said: str, advice: str
) -> None:
    path: Path = getattr(open_relay, name)
    path.chmod(mode)
    rows = [
        row
        for row in of(examine(open_relay.directory, "--no-round-trip"), f"socket {name}")
        if said in row["finding"]
    ]
    assert [row["result"] for row in rows] == [result]
    assert f"{path} is {mode:04o}" in rows[0]["finding"]
    assert advice in rows[0]["advice"]


def test_file_in_place_of_a_socket_is_a_failure(directory: Path) -> None:
    (directory / "ingest.sock").touch()
    rows = examine(directory)
    assert "is no socket" in the(rows, "socket ingest")["finding"]
    assert "listening ingest" in failed(rows)


@pytest.mark.parametrize("arguments", [(), ("--no-round-trip",)])
def test_sockets_of_a_killed_relay_are_stale(
    relay: RunningRelay, arguments: tuple[str, ...]
) -> None:
    relay.process.kill()
    relay.process.wait(TIMEOUT)
    assert relay.public.is_socket()
    rows = examine(relay.directory, *arguments)
    for name in ("public", "ingest"):
        row = the(rows, f"listening {name}")
        assert row["result"] == "failed"
        assert f"nobody listens on {relay.directory}" in row["finding"]
        assert row["advice"] == "start notif-relayd"
    assert "listening control" in failed(rows)


def test_doctor_does_not_connect_to_activating_sockets(directory: Path) -> None:
    with (
        PrivateSocket(directory / "notifications.sock") as public,
        PrivateSocket(directory / "ingest.sock") as ingest,
    ):
        rows = examine(directory, "--no-round-trip")
        assert not public.has_pending()
        assert not ingest.has_pending()
    for name in ("public", "ingest"):
        assert the(rows, f"listening {name}")["result"] == "ok"


def test_suspended_relay_is_reported_as_unresponsive(relay: RunningRelay) -> None:
    relay.process.send_signal(signal.SIGSTOP)
    rows = examine(relay.directory)
    assert the(rows, "listening public")["result"] == "ok"
    assert "does not answer within" in the(rows, "listening control")["finding"]
    assert "does not answer a subscriber within" in the(rows, "round trip")["finding"]
    assert failed(rows) == {"listening control", "round trip"}


@needs_root
def test_relay_in_another_network_namespace_is_found(directory: Path) -> None:
    if run("unshare", "--net", "true").returncode != 0:
        pytest.skip("this root may not create namespaces")
    elsewhere = os.fspath(directory / "elsewhere.sock")
    with running_relay(directory, "--relayd-control_path", elsewhere):
        command = [RELAYCTL, "--runtime-dir", os.fspath(directory), "doctor", "-f", "json"]
        rows = rows_of(run("unshare", "--net", *command))
        assert the(rows, "listening public")["result"] == "ok"
        assert the(rows, "round trip")["result"] == "ok"
        rows = rows_of(run("unshare", "--net", *command, "--no-round-trip"))
        assert "as far as the kernel tells here" in the(rows, "listening public")["finding"]


@pytest.mark.parametrize("limit", ["subscribers", "producers"])
def test_full_relay_advice_names_the_limit(directory: Path, limit: str) -> None:
    with running_relay(directory, f"--relayd-max_{limit}", "1") as relay:
        path = relay.public if limit == "subscribers" else relay.ingest
        with connect(path):
            relay.wait_status(**{limit: 1})
            row = the(examine(directory), "round trip")
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
        row = the(examine(directory), "round trip")
    assert row["result"] == "failed"
    assert f"{directory}/ingest.sock took a notification that did not come out" in row["finding"]


def test_round_trip_fails_without_a_private_socket(
    relay: RunningRelay,
) -> None:
    relay.ingest.unlink()
    row = the(examine(relay.directory), "round trip")
    assert row["result"] == "failed"
    assert f"{relay.ingest}: the socket does not exist" in row["finding"]


# The relay's configuration.


def test_paths_are_read_from_the_configuration(directory: Path) -> None:
    conf = directory / "relayd.conf"
    conf.write_text(f"[oslo_messaging_notifications]\nsock_path = {directory}/there/public.sock\n")
    (directory / "relayd.conf.d").mkdir()
    (directory / "relayd.conf.d" / "ingest.conf").write_text(
        f"[relayd]\ningest_path = {directory}/ingest\n"
    )
    rows = examine(directory, "--relayd-config", os.fspath(conf))
    assert the(rows, f"configuration {conf}")["result"] == "ok"
    assert f"{directory}/there/public.sock is" in the(rows, "socket public")["finding"]
    assert f"{directory}/ingest is" in the(rows, "socket ingest")["finding"]
    assert f"{directory}/there/control.sock" in the(rows, "socket control")["finding"]
    assert f"directory {directory}/there" in failed(rows)


def test_paths_of_a_running_daemon_take_precedence(directory: Path) -> None:
    path = os.fspath(directory / "elsewhere.sock")
    with running_relay(directory, "--relayd-ingest_path", path):
        rows = examine(directory)
    assert the(rows, "listening ingest")["finding"] == f"the relay listens on {path}"
    assert the(rows, "round trip")["result"] == "ok"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "relayd.conf"),
        ("[relayd]\nring_size = many\n", "many"),
        ("[relayd]\nring_size = 100000\n", "max_record_size"),
        ("[relayd]\npublic_mode = rw\n", "public_mode"),
        ("[relayd\n", "relayd.conf"),
        ("[relayd]\nring_size = $nothing\n", "nothing"),
        ("\udcff", "decode"),
    ],
)
def test_invalid_configuration_is_a_failure(
    relay: RunningRelay, content: str | None, said: str
) -> None:
    conf = relay.directory / "relayd.conf"
    if content is not None:
        conf.write_bytes(content.encode(errors="surrogateescape"))
    rows = examine(relay.directory, "--relayd-config", os.fspath(conf))
    assert failed(rows) == {f"configuration {conf}"}
    row = the(rows, f"configuration {conf}")
    assert said in row["finding"]
    assert "usage:" not in row["finding"]
    assert the(rows, "round trip")["result"] == "ok"


@needs_root
def test_unreadable_configuration_is_skipped(open_relay: RunningRelay) -> None:
    conf = open_relay.directory / "relayd.conf"
    conf.touch(0o600)
    rows = examine_as_nobody(open_relay.directory, "--relayd-config", os.fspath(conf))
    assert the(rows, f"configuration {conf}")["result"] == "skipped"


# What users may do.


@needs_root
def test_checks_without_permission_are_skipped(relay: RunningRelay) -> None:
    rows = examine_as_nobody(relay.directory)
    skipped = {row["check"] for row in rows if row["result"] == "skipped"}
    assert skipped >= {
        *("socket public", "socket ingest", "socket control"),
        *("listening control", "round trip"),
    }
    for right in ("subscribe", "produce", "status"):
        row = the(rows, f"user {NOBODY} {right}")
        assert row["result"] == "failed"
        assert f"{NOBODY} may not enter {relay.directory}" in row["finding"]
        assert row["advice"] == f"chmod o+x {relay.directory}"


@needs_root
def test_missing_permission_advice_names_the_group(open_relay: RunningRelay) -> None:
    groups = [each.gr_name for each in grp.getgrall() if each.gr_gid not in (0, 65534)][:3]
    sockets = {"subscribe": open_relay.public, "produce": open_relay.ingest}
    for group, path in zip(groups, sockets.values(), strict=False):
        shutil.chown(path, group=group)
    rows = examine(open_relay.directory, "--user", NOBODY)
    for group, (right, path) in zip(groups, sockets.items(), strict=False):
        row = the(rows, f"user {NOBODY} {right}")
        assert row["result"] == "failed"
        assert (
            f"may not connect to {path}, which is for root and the group {group}" in row["finding"]
        )
        assert row["advice"].startswith(f"usermod -aG {group} {NOBODY}, and log in again")
    row = the(rows, f"user {NOBODY} status")
    assert (row["result"], "usermod" in row["advice"]) == ("failed", False)


@needs_root
def test_missing_permission_is_a_warning_if_another_exists(
    open_relay: RunningRelay,
) -> None:
    shutil.chown(open_relay.ingest, group=65534)
    rows = examine(open_relay.directory, "--user", NOBODY, "--user", "0")
    assert failed(rows) == set()
    assert the(rows, f"user {NOBODY} produce")["result"] == "ok"
    assert the(rows, f"user {NOBODY} subscribe")["result"] == "warning"
    assert the(rows, "user root subscribe")["result"] == "ok"


@needs_root
def test_only_needed_permissions_are_checked(open_relay: RunningRelay) -> None:
    shutil.chown(open_relay.ingest, group=65534)
    rows = examine(open_relay.directory, "--user", "65534", "--needs", "produce")
    assert [row["result"] for row in rows if row["check"].startswith("user ")] == ["ok"]
    rows = examine(
        open_relay.directory, "--user", NOBODY, "--needs", "produce", "--needs", "subscribe"
    )
    assert failed(rows) == {f"user {NOBODY} subscribe"}


@pytest.mark.parametrize("user", ["no-such-user", "4294967290", "99999999999999999999"])
def test_unknown_user_is_a_failure(relay: RunningRelay, user: str) -> None:
    row = the(examine(relay.directory, "--user", user), f"user {user}")
    assert (row["result"], row["finding"]) == ("failed", f"there is no user {user!r}")


@needs_root
def test_new_group_member_is_advised_to_log_in_again(open_relay: RunningRelay) -> None:
    shutil.chown(open_relay.public, group=65534)
    before_joining = RELAYCTL_AS_NOBODY.replace(
        "setresgid(65534, 65534, 65534)", "setresgid(1, 1, 1)"
    )
    assert before_joining != RELAYCTL_AS_NOBODY
    directory = os.fspath(open_relay.directory)
    command = ("--runtime-dir", directory, "doctor", "-f", "json")
    rows = rows_of(run(sys.executable, "-c", before_joining, *command))
    row = the(rows, f"user {NOBODY} subscribe")
    assert (row["result"], row["advice"]) == ("failed", "log in again")
    assert "not when this login began" in row["finding"]


@needs_root
def test_process_started_before_joining_is_a_warning(
    open_relay: RunningRelay,
) -> None:
    shutil.chown(open_relay.ingest, group=65534)
    with subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, user=65534, group=1, extra_groups=[]
    ) as process:
        rows = examine(open_relay.directory, "--user", NOBODY)
        process.communicate()
    row = the(rows, f"processes {NOBODY} produce")
    assert row["result"] == "warning"
    assert f"{process.pid} (cat)" in row["finding"]
    assert row["advice"].startswith("restart the service")
    rows = examine(open_relay.directory, "--user", NOBODY)
    assert of(rows, f"processes {NOBODY} produce") == []


@needs_root
def test_predicted_permissions_match_the_kernel(open_relay: RunningRelay) -> None:
    account = Account(NOBODY, 65534, frozenset({65534, 1}))
    path, link = open_relay.public, open_relay.directory / "link"
    link.symlink_to(open_relay.public)
    seen = set()
    for ids, mode, entries, directory in itertools.product(
        [(0, 0), (65534, 0), (0, 65534), (0, 1), (2, 2)],
        [0o200, 0o020, 0o002, 0o606, 0o046, 0o066],
        [None, (USER, 65534), (USER, 2), (NAMED_GROUP, 1), (NAMED_GROUP, 2)],
        [0o755, 0o700],
    ):
        with contextlib.suppress(OSError):
            os.removexattr(path, ACL)
        os.chown(path, *ids)
        path.chmod(mode)
        if entries:
            add_entry(path, mode, *entries)
        open_relay.directory.chmod(directory)
        for each in (path, link):
            may = refusal(os.fspath(each), account) is None
            assert may == connects(each, account), (ids, oct(mode), entries, oct(directory))
            seen.add((may, entries))
    assert len(seen) == 10, "each kind of entry has let somebody in and kept somebody out"


USER, NAMED_GROUP = 0x02, 0x08


def add_entry(path: Path, mode: int, tag: int, number: int) -> None:
    """Let one more user or group read and write, as far as the mode's group bits, the mask, go."""
    nobody = 0xFFFFFFFF
    entries = [
        *((0x01, mode >> 6 & 7, nobody), (0x04, 6, nobody), (tag, 6, number)),
        *((0x10, mode >> 3 & 7, nobody), (0x20, mode & 7, nobody)),
    ]
    packed = b"".join(struct.pack("<HHI", *each) for each in sorted(entries))
    try:
        os.setxattr(path, ACL, struct.pack("<I", 2) + packed)
    except OSError as error:
        pytest.skip(f"no access control lists here: {error}")


def connects(path: Path, account: Account) -> bool:
    """Try it, in a process that has become the account."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(list(account.groups))
            os.setresgid(65534, 65534, 65534)
            os.setresuid(account.uid, account.uid, account.uid)
            socket.socket(socket.AF_UNIX).connect(os.fspath(path))
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0
