# SPDX-License-Identifier: Apache-2.0
"""relayctl doctor does not advise to change what belongs to another program or service."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from notif_relay import paths
from notif_relayctl.doctor import destination, rights, sockets
from notif_relayctl.doctor.destination import Sockets
from notif_relayctl.doctor.finding import Finding
from notif_relayctl.doctor.host import Host, find_relay
from support.doctor import NOBODY, examine, other_group
from support.private_socket import PrivateSocket
from support.relay import RunningRelay, running_relay
from support.relayctl import assert_error, needs_root, relayctl, relayctl_as_nobody

CHANGE = re.compile("usermod|chmod|chown|chgrp|remove|move the file|stop the process")


def find(directory: Path, config: Path | None = None) -> Host:
    control = os.fspath(directory / paths.CONTROL_SOCKET)
    return find_relay(os.fspath(directory), control, os.fspath(config) if config else None)


def advice(host: Host) -> dict[str, Finding]:
    """Return the findings about files and users; a check with several has its last one."""
    found = [*sockets.directories(host), *sockets.files(host), *rights.examine(host, NOBODY, ())]
    return {each.check: each for each in found}


@needs_root
def test_directory_of_a_service_stays_as_it_is(relay: RunningRelay) -> None:
    directory = relay.directory
    shutil.chown(directory, "daemon", other_group())
    for mode in (0o700, 0o755, 0o777, 0o1777):
        directory.chmod(mode)
        found = advice(find(directory))
        row = found[f"directory {directory}"]
        assert not CHANGE.search(row.advice)
        assert mode == 0o755 or "set sock_path in relayd.conf" in row.advice
        assert mode != 0o700 or not CHANGE.search(found[f"user {NOBODY} subscribe"].advice)


@needs_root
def test_socket_of_another_program_stays_as_it_is(directory: Path) -> None:
    directory.chmod(0o755)
    public = directory / "docker.sock"
    conf = directory / "relayd.conf"
    conf.write_text(f"[oslo_messaging_notifications]\nsock_path = {public}\n")
    with PrivateSocket(public), PrivateSocket(directory / "ingest.sock"):
        shutil.chown(public, group=other_group())
        public.chmod(0o660)
        found = advice(find(directory, conf))
        refused = relayctl_as_nobody(directory, "tail", "--sock-path", os.fspath(public))
    for name in ("public", "ingest"):
        assert found[f"socket {name}"].result == "failed"
        assert "no relay is known to" in found[f"socket {name}"].finding
    assert found[f"user {NOBODY} subscribe"].result == "skipped"
    assert not [each for each in found.values() if CHANGE.search(each.advice)]
    assert_error(refused, 4, "access requires membership in group", "run it as root")
    assert "usermod" not in refused.stderr


@pytest.mark.parametrize("kind", ["a regular file", "a directory", "a FIFO", "a device"])
def test_other_kind_of_file_stays_as_it_is(directory: Path, kind: str) -> None:
    path = directory / "notifications.sock"
    match kind:
        case "a regular file":
            path.touch()
        case "a directory":
            path.mkdir()
        case "a FIFO":
            os.mkfifo(path)
        case _:
            path.symlink_to(os.devnull)
    found = advice(find(directory))["socket public"]
    assert (found.result, found.finding) == ("failed", f"{path} is not a socket, but {kind}")
    assert not CHANGE.search(found.advice)


def test_relative_path_in_the_configuration_is_a_warning(directory: Path) -> None:
    conf = directory / "relayd.conf"
    conf.write_text("[oslo_messaging_notifications]\nsock_path = notifications.sock\n")
    found = find(directory, conf).configuration
    assert (found.result, found.advice) == ("warning", "set an absolute path")
    assert "sock_path = notifications.sock is relative" in found.finding


def test_destination_says_what_the_other_path_is(relay: RunningRelay) -> None:
    own = Sockets(["/run/c", "/run/d"], ["/run/a", "/run/b"])

    def finding(path: Path | str) -> str:
        found = destination.examine("check", "it", os.fspath(path), own, "do")
        assert found.result == "failed"
        return f"{found.finding} {found.advice}"

    (relay.directory / "file").touch()
    assert "which belongs to another relay" in finding(relay.ingest)
    assert f"relayctl --runtime-dir {relay.directory} doctor" in finding(relay.ingest)
    assert "which is not a socket" in finding(relay.directory / "file")
    assert "which does not exist" in finding(relay.directory / "none")
    assert "which does not exist" in finding(relay.directory / "file" / "none")
    assert "the public socket of another relay" in finding(relay.public)
    assert "the relay's public socket, which is for subscribers" in finding("/run/d")
    assert "depends on the service's working directory" in finding("ingest.sock")
    assert destination.examine("check", "it", "/run/b", own, "do").result == "ok"


def test_reader_of_the_wrong_socket_is_told(relay: RunningRelay) -> None:
    own = Sockets(["/run/c", "/run/d"], ["/run/a", "/run/b"])

    def found(path: str) -> Finding:
        return destination.examine_reader("check", "it", path, own, "do")

    assert found("/run/d").result == "ok"
    for path, text in {
        "/run/a": "the relay's private socket, which is for producers",
        os.fspath(relay.public): "which belongs to another relay",
        os.fspath(relay.ingest): "the private socket of another relay",
        f"{relay.directory}/control.sock": "a socket that no relay is known to use",
    }.items():
        assert found(path).result == "failed"
        assert text in found(path).finding


def test_table_ends_with_a_summary_and_shows_failures(directory: Path) -> None:
    (directory / "ingest.sock").mkdir()
    done = relayctl(directory, "doctor", "--no-round-trip", "--failed")
    *table, summary = done.stdout.splitlines()
    assert done.returncode == 1
    failed = [line for line in table if "| failed " in line]
    assert len(table) == len(failed) + 4
    numbers = re.fullmatch(r"(\d+) ok, (\d+) failed, \d+ skipped(, \d+ warnings?)?", summary)
    assert numbers
    assert int(numbers[2]) == len(failed)
    rows = examine(directory, "--no-round-trip", "--failed")
    assert {row["result"] for row in rows} == {"failed"}
    assert len(rows) == len(failed)


@needs_root
def test_configuration_of_the_running_daemon_is_examined(directory: Path) -> None:
    directory.chmod(0o755)
    conf = directory / "my.conf"
    conf.write_text("[relayd]\npublic_mode = 0666\n")
    named = ("--config-file", os.fspath(conf), "--relayd-public_allow_users", "daemon")
    with running_relay(directory, *named):
        host = find(directory)
        found = advice(host)
    assert host.configuration.check == f"configuration {conf}"
    assert host.public.access.mode == 0o666
    assert "neither public_allow_users" in found[f"user {NOBODY} subscribe"].finding
