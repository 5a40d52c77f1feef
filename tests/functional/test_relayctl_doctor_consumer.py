# SPDX-License-Identifier: Apache-2.0
"""The verdicts of relayctl doctor on a consumer that runs, and on its user."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayctl.doctor import rights
from notif_relayctl.doctor.finding import Finding
from notif_relayctl.doctor.host import find_relay
from notif_relayctl.doctor.service import Use
from support.doctor import NOBODY, examine, other_group, row_for, rows_for
from support.relay import RunningRelay
from support.relayctl import needs_root


@pytest.fixture
def conf(directory: Path) -> Path:
    """Return the path of a consumer's configuration that does not exist."""
    return directory / "consumer.conf"


@contextlib.contextmanager
def running_as_nobody(conf: Path, group: int) -> Iterator[int]:
    """Run a process of nobody whose command line is that of a service in Python."""
    command = ["python3", "-c", "read line", f"--config-file={conf}"]
    with subprocess.Popen(
        command, executable="/bin/sh", stdin=subprocess.PIPE, user=65534, group=group
    ) as process:
        yield process.pid
        process.communicate()


def examine_user(relay: RunningRelay, conf: Path, use: Use, *users: str) -> list[Finding]:
    host = find_relay(os.fspath(relay.directory), os.fspath(relay.control), None)
    return list(rights.examine_service(host, [os.fspath(conf)], use, users or [None]))


@needs_root
def test_user_of_a_running_consumer_must_read(accessible_relay: RunningRelay, conf: Path) -> None:
    reads = Use([os.fspath(accessible_relay.public)])
    both = Use(reads.reads, sends=True)
    group = other_group()
    for path in (accessible_relay.public, accessible_relay.ingest):
        shutil.chown(path, group=group)
    with running_as_nobody(conf, 65534) as pid:
        (found,) = examine_user(accessible_relay, conf, reads)
        assert (found.result, found.check) == ("failed", f"service {conf} user")
        assert found.advice.startswith(f"usermod -aG {group} {NOBODY}")
        assert f"the user of process {pid} (" in found.finding
        assert [each.result for each in examine_user(accessible_relay, conf, both)] == [
            "failed"
        ] * 2
        shutil.chown(accessible_relay.public, group=65534)
        found, other = examine_user(accessible_relay, conf, both)
        assert (found.result, other.result) == ("ok", "failed")
    with running_as_nobody(conf, 1):
        (found,) = examine_user(accessible_relay, conf, reads)
        assert (found.result, found.advice) == ("failed", "restart the service")


@needs_root
def test_process_of_a_login_session_is_no_service(
    accessible_relay: RunningRelay, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = Use([os.fspath(accessible_relay.public)])
    with running_as_nobody(conf, 65534):
        monkeypatch.setattr(rights, "is_of_session", lambda _pid: True)
        (found,) = examine_user(accessible_relay, conf, reads)
    assert (found.result, found.advice) == ("skipped", "name its user with --user")


@needs_root
def test_named_users_are_those_of_a_consumer(accessible_relay: RunningRelay, conf: Path) -> None:
    reads = Use([os.fspath(accessible_relay.public)])
    shutil.chown(accessible_relay.public, group=other_group())
    (found,) = examine_user(accessible_relay, conf, reads)
    assert (found.result, found.advice) == ("skipped", "name its user with --user")
    (found,) = examine_user(accessible_relay, conf, reads, NOBODY, "no-such-user")
    assert found.result == "failed"
    (found,) = examine_user(accessible_relay, conf, reads, NOBODY, "root")
    assert found.result == "ok"
    assert examine_user(accessible_relay, conf, Use(sends=True), NOBODY) == []


def test_consumer_is_checked_by_the_command(relay: RunningRelay, conf: Path) -> None:
    conf.write_text(
        f"[notification]\nmessaging_urls = unix://{relay.public}?hold=301\n"
        f"messaging_urls = unix://{relay.ingest}\n"
    )
    options = ("--no-round-trip", "--service-config", os.fspath(conf))
    rows = [row for row in examine(relay.directory, *options) if str(conf) in row["check"]]
    assert [row["check"].removeprefix(f"service {conf} ") for row in rows] == [
        *("driver", "messaging_urls", "messaging_urls", "messaging_urls", "user"),
        f"library {conf}",
    ]
    assert [row["result"] for row in rows] == ["ok", "ok", "failed", "failed", "skipped", "skipped"]
    failed = examine(relay.directory, "--failed", *options)
    assert rows_for(failed, f"service {conf} messaging_urls") == rows[2:4]


def test_limits_are_those_of_the_configuration(relay: RunningRelay, conf: Path) -> None:
    conf.write_text(
        "[oslo_messaging_notifications]\n"
        f"transport_url = unix://{relay.public}?hold=40&window=17000\n"
    )
    relayd = relay.directory / "relayd.conf"
    check = f"service {conf} transport_url"
    options = ("--no-round-trip", "--service-config", os.fspath(conf))
    relayd.write_text("[relayd]\nmax_hold = 30\nmax_filter_bytes_per_user = 2200000\n")
    rows = examine(relay.directory, *options, "--relayd-config", os.fspath(relayd))
    texts = {row["result"]: row["finding"] for row in rows_for(rows, check)}
    assert "its max_hold is 30 seconds" in texts["failed"]
    assert "max_filter_bytes_per_user is 2200000" in texts["warning"]
    assert row_for(examine(relay.directory, *options), check)["result"] == "ok"
