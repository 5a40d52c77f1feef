# SPDX-License-Identifier: Apache-2.0
"""The verdicts of relayctl doctor on the permissions of users."""

from __future__ import annotations

import contextlib
import grp
import itertools
import os
import pwd
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from notif_relayctl.access import ACL, refusal
from notif_relayctl.accounts import Account
from notif_relayctl.doctor import rights, sockets
from notif_relayctl.doctor.configuration import configuration_of
from notif_relayctl.doctor.finding import Finding
from notif_relayctl.doctor.host import find_relay
from support.doctor import (
    NOBODY,
    examine,
    examine_as_nobody,
    failed_checks,
    parse_rows,
    row_for,
    rows_for,
)
from support.relay import RunningRelay
from support.relayctl import (
    RELAYCTL_AS_NOBODY,
    needs_root,
    run,
)


@needs_root
def test_checks_without_permission_are_skipped(relay: RunningRelay) -> None:
    rows = examine_as_nobody(relay.directory)
    skipped = {row["check"] for row in rows if row["result"] == "skipped"}
    assert skipped >= {
        *("socket public", "socket ingest", "socket control"),
        *("listening control", "round trip"),
    }
    for right in ("subscribe", "produce", "status"):
        row = row_for(rows, f"user {NOBODY} {right}")
        assert row["result"] == "failed"
        assert f"{NOBODY} may not enter {relay.directory}" in row["finding"]
        assert row["advice"] == "run it as root"


@needs_root
def test_missing_permission_advice_names_the_group(accessible_relay: RunningRelay) -> None:
    groups = [each.gr_name for each in grp.getgrall() if each.gr_gid not in (0, 65534)][:3]
    sockets = {"subscribe": accessible_relay.public, "produce": accessible_relay.ingest}
    for group, path in zip(groups, sockets.values(), strict=False):
        shutil.chown(path, group=group)
    rows = examine(accessible_relay.directory, "--user", NOBODY)
    for group, (right, path) in zip(groups, sockets.items(), strict=False):
        row = row_for(rows, f"user {NOBODY} {right}")
        assert row["result"] == "failed"
        assert (
            f"may not connect to {path}: access requires membership in group {group}"
            in row["finding"]
        )
        assert row["advice"].startswith(f"usermod -aG {group} {NOBODY}, then log in again")
    row = row_for(rows, f"user {NOBODY} status")
    assert (row["result"], "usermod" in row["advice"]) == ("failed", False)


@needs_root
def test_missing_permission_is_a_warning_if_another_exists(
    accessible_relay: RunningRelay,
) -> None:
    shutil.chown(accessible_relay.ingest, group=65534)
    rows = examine(accessible_relay.directory, "--user", NOBODY, "--user", "0")
    assert failed_checks(rows) == set()
    assert row_for(rows, f"user {NOBODY} produce")["result"] == "ok"
    assert row_for(rows, f"user {NOBODY} subscribe")["result"] == "warning"
    assert row_for(rows, "user root subscribe")["result"] == "ok"


@needs_root
def test_only_needed_permissions_are_checked(accessible_relay: RunningRelay) -> None:
    shutil.chown(accessible_relay.ingest, group=65534)
    rows = examine(accessible_relay.directory, "--user", "65534", "--needs", "produce")
    assert [row["result"] for row in rows if row["check"].startswith("user ")] == ["ok"]
    rows = examine(
        accessible_relay.directory, "--user", NOBODY, "--needs", "produce", "--needs", "subscribe"
    )
    assert failed_checks(rows) == {f"user {NOBODY} subscribe"}


@pytest.mark.parametrize("user", ["no-such-user", "4294967290", "99999999999999999999"])
def test_unknown_user_is_a_failure(relay: RunningRelay, user: str) -> None:
    row = row_for(examine(relay.directory, "--user", user), f"user {user}")
    assert (row["result"], row["finding"]) == ("failed", f"user {user!r} does not exist")


@needs_root
def test_new_group_member_is_advised_to_log_in_again(accessible_relay: RunningRelay) -> None:
    shutil.chown(accessible_relay.public, group=65534)
    before_joining = RELAYCTL_AS_NOBODY.replace(
        "setresgid(65534, 65534, 65534)", "setresgid(1, 1, 1)"
    )
    assert before_joining != RELAYCTL_AS_NOBODY
    directory = os.fspath(accessible_relay.directory)
    command = ("--runtime-dir", directory, "doctor", "-f", "json")
    rows = parse_rows(run(sys.executable, "-c", before_joining, *command))
    row = row_for(rows, f"user {NOBODY} subscribe")
    assert (row["result"], row["advice"]) == ("failed", "log in again")
    assert "joined the group after this login" in row["finding"]


@needs_root
def test_process_started_before_joining_is_a_warning(
    accessible_relay: RunningRelay,
) -> None:
    shutil.chown(accessible_relay.ingest, group=65534)
    with subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, user=65534, group=1, extra_groups=[]
    ) as process:
        rows = examine(accessible_relay.directory, "--user", NOBODY)
        process.communicate()
    row = row_for(rows, f"processes {NOBODY} produce")
    assert row["result"] == "warning"
    assert f"{process.pid} (cat)" in row["finding"]
    assert row["advice"].startswith("restart the service")
    rows = examine(accessible_relay.directory, "--user", NOBODY)
    assert rows_for(rows, f"processes {NOBODY} produce") == []


@needs_root
def test_predicted_permissions_match_the_kernel(accessible_relay: RunningRelay) -> None:
    account = Account(NOBODY, 65534, frozenset({65534, 1}))
    path, link = accessible_relay.public, accessible_relay.directory / "link"
    link.symlink_to(accessible_relay.public)
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
        accessible_relay.directory.chmod(directory)
        for each in (path, link):
            allowed = refusal(os.fspath(each), account) is None
            assert allowed == connects(each, account), (ids, oct(mode), entries, oct(directory))
            seen.add((allowed, entries))
    assert len(seen) == 10, "each kind of entry must permit one case and deny another"


USER, NAMED_GROUP = 0x02, 0x08


def add_entry(path: Path, mode: int, tag: int, number: int) -> None:
    """Grant read and write permission to one more user or group; `mode` sets the mask."""
    undefined = 0xFFFFFFFF
    entries = [
        *((0x01, mode >> 6 & 7, undefined), (0x04, 6, undefined), (tag, 6, number)),
        *((0x10, mode >> 3 & 7, undefined), (0x20, mode & 7, undefined)),
    ]
    packed = b"".join(struct.pack("<HHI", *each) for each in sorted(entries))
    try:
        os.setxattr(path, ACL, struct.pack("<I", 2) + packed)
    except OSError as error:
        pytest.skip(f"this file system has no access control lists: {error}")


def connects(path: Path, account: Account) -> bool:
    """Return whether a process with this account's IDs can connect."""
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


def finding_of_nobody(relay: RunningRelay, *lines: str, needs: str = "subscribe") -> Finding:
    """Return what the doctor finds for nobody with this configuration."""
    conf = relay.directory / "relayd.conf"
    conf.write_text("\n".join(lines))
    host = find_relay(os.fspath(relay.directory), os.fspath(relay.control), os.fspath(conf))
    assert host.configuration.result == "ok", host.configuration
    (found,) = (each for each in rights.examine(host, NOBODY, [needs]) if "user" in each.check)
    return found


def test_open_mode_beside_an_allow_list_is_no_warning(relay: RunningRelay) -> None:
    conf = relay.directory / "relayd.conf"
    relay.public.chmod(0o666)
    for line, is_open in (("", True), ("public_allow_users = root", False)):
        conf.write_text(f"[relayd]\npublic_mode = 0666\n{line}\n")
        host = find_relay(os.fspath(relay.directory), os.fspath(relay.control), os.fspath(conf))
        assert is_open == any("every user" in each.finding for each in sockets.files(host))


@needs_root
def test_allow_lists_are_checked(accessible_relay: RunningRelay) -> None:
    relay, group = accessible_relay, grp.getgrgid(pwd.getpwuid(65534).pw_gid).gr_name
    for path in (relay.public, relay.ingest):
        path.chmod(0o666)
    for name, right in (("public", "subscribe"), ("ingest", "produce")):
        users, groups = f"{name}_allow_users", f"{name}_allow_groups"
        for line, result in {
            f"{users} = root": "failed",
            f"{groups} = root": "failed",
            f"{users} =": "failed",
            f"{users} = root,{NOBODY}": "ok",
            f"{groups} = {group}": "ok",
        }.items():
            found = finding_of_nobody(relay, "[relayd]", line, needs=right)
            assert (line, found.result) == (line, result)
            if result == "failed":
                assert f"neither {users} contains the user nor {groups}" in found.finding
                assert f"add it to {users} in relayd.conf" in found.advice


@needs_root
def test_access_rules_are_checked(accessible_relay: RunningRelay) -> None:
    accessible_relay.public.chmod(0o666)
    group = grp.getgrgid(pwd.getpwuid(65534).pw_gid).gr_name
    pattern = 'payload = {"tenant_id": ["8d7a"]}'
    rule = ("[relayd]", "access_rules = some", "[access:some]", "event_type = compute.*", pattern)
    found = finding_of_nobody(accessible_relay, *rule, "group = daemon")
    assert found.result == "failed"
    assert "receives nothing: no access rule is for one of its groups" in found.finding
    assert "a group that has a rule: daemon" in found.advice
    found = finding_of_nobody(accessible_relay, *rule, f"group = {group}")
    assert found.result == "ok"
    assert "reads what the access rules of its groups allow" in found.finding


def test_access_rule_with_an_invalid_pattern_is_a_failure(directory: Path) -> None:
    conf = directory / "relayd.conf"
    rule = '[access:some]\ngroup = root\npayload = {"tenant_id": "8d7a"}\n'
    conf.write_text(f"[relayd]\naccess_rules = some\n{rule}")
    _, found = configuration_of(os.fspath(directory), os.fspath(conf), None)
    assert found.result == "failed"
    assert "[access:some] payload" in found.finding
    assert "'tenant_id' must have a list of alternatives" in found.finding
