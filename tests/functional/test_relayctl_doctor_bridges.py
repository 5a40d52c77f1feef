# SPDX-License-Identifier: Apache-2.0
"""The verdicts of relayctl doctor on the bridges of a host."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest

from notif_relayctl.doctor import bridges
from notif_relayctl.doctor.bridges import Places
from notif_relayctl.doctor.finding import Finding
from notif_relayctl.doctor.host import Host, find_relay
from support.bridge_status import REPORT, SPOOL, serve
from support.doctor import NOBODY, examine, failed_checks, other_group, row_for, rows_for
from support.relay import Relay, RunningRelay
from support.relayctl import bind_listener, needs_root

TARGET = "target = nats://user:s3cr3t@broker\n"


class Site:
    """The files of the bridges of a host, and of its relay, which need not run."""

    def __init__(self, directory: Path) -> None:
        self.relay = Relay(directory)
        self.places = Places(os.fspath(directory / "bridge"), os.fspath(directory / "run"))
        self.sockets = Path(self.places.sockets)
        self.sockets.mkdir()
        Path(self.places.configurations).mkdir()

    def configure(self, text: str = TARGET, name: str = "b", mode: int = 0o640) -> Path:
        """Write the configuration of a bridge that reads from the relay."""
        path = Path(self.places.configurations, f"{name}.conf")
        spool = self.relay.directory / "spool.sqlite"
        path.write_text(
            f"[bridge]\nsource = unix://{self.relay.public}\nspool = {spool}\n{text}"
            if text == TARGET
            else text
        )
        path.chmod(mode)
        os.utime(path, (1, 1))
        return path

    def examine(self) -> list[Finding]:
        """Run the checks of the bridges."""
        return list(bridges.examine(self.host(), self.places))

    def host(self) -> Host:
        return find_relay(os.fspath(self.relay.directory), os.fspath(self.relay.control), None)

    def finding(self, check: str) -> Finding:
        """Return the only finding of a check of the bridge ``b``."""
        [found] = [each for each in self.examine() if each.check == f"bridge b {check}"]
        return found


@pytest.fixture
def site(directory: Path) -> Site:
    directory.chmod(0o755)
    return Site(directory)


@pytest.fixture
def running(accessible_relay: RunningRelay) -> Site:
    """Return the files of a host with a running relay."""
    return Site(accessible_relay.directory)


def test_host_without_bridges_has_no_finding(site: Site) -> None:
    assert site.examine() == []
    Path(site.places.configurations).rmdir()
    assert site.examine() == []


def test_working_bridge_has_no_failure(running: Site) -> None:
    running.configure()
    with serve(
        running.sockets, "b", {**REPORT, "broker": "nats", "spool": {**SPOOL, "dropped": 0}}
    ):
        found = {each.check: each for each in running.examine()}
    assert {each.result for each in found.values()} == {"ok"}
    assert list(found) == [f"bridge b {each}" for each in ("file", "socket", "spool", "status")]
    assert "15 notifications wait" in found["bridge b status"].finding


def test_doctor_checks_bridges(running: Site) -> None:
    running.configure(mode=0o644)
    arguments = ("--bridge-config-dir", running.places.configurations, "--no-round-trip")
    directory = running.relay.directory
    with serve(running.sockets, "b", {**REPORT, "broker": "nats", "connected": False}):
        rows = examine(directory, *arguments, "--bridge-dir", running.places.sockets)
        failed = examine(directory, *arguments, "--bridge-dir", running.places.sockets, "--failed")
    assert failed_checks(rows) == {"bridge b file", "bridge b status"}
    assert row_for(rows, "bridge b socket")["result"] == "ok"
    assert failed == [row for row in rows if row["result"] == "failed"]
    assert len(rows_for(rows, "bridge b status")) == 2
    assert "s3cr3t" not in str(rows)


def test_readable_credentials_are_a_failure(site: Site) -> None:
    cases = [
        (TARGET, True),
        ("[bridge]\ntarget = nats://broker\n", False),
        ("[bridge]\ntarget = nats://broker\n[nats]\ntoken = s3cr3t\n", True),
        ("[bridge]\ntarget = kafka://b\n[kafka]\nsasl.password = s3cr3t\n", True),
        ("[bridge]\ntarget = nats://a,u:p@b\n", True),
    ]
    for text, is_exposed in cases:
        path = site.configure(text, mode=0o644)
        found = [each for each in site.examine() if "every user can read" in each.finding]
        assert [each.advice for each in found] == [f"chmod o-r {path}"] * is_exposed, text
    path.parent.chmod(0o750)
    assert not [each for each in site.examine() if "every user can read" in each.finding]


def test_unusable_configuration_is_a_failure(site: Site) -> None:
    texts = [
        "garbage s3cr3t\n",
        "[bridge]\ntarget = s3cr3t\n",
        "[bridge]\ntarget = $s3cr3t.x\n",
        "[bridge]\ntarget = ${target}\n",
        "[bridge]\ntarget = nats://s3cr3t\nsource = kafka://s3cr3t\n",
        "[bridge]\nsource = unix:///s3cr3t\n",
        "",
    ]
    for text in texts:
        path = site.configure(text)
        [found] = site.examine()
        assert (found.check, found.result) == ("bridge b file", "failed"), text
        assert found.advice == f"run 'notif-relayd-bridge --config-file {path} --check'"
        assert "s3cr3t" not in str(found)


def test_status_is_reported(site: Site) -> None:
    report = {**REPORT, "broker": "nats"}
    cases: list[tuple[dict[str, object], str, str]] = [
        ({"connected": False}, "failed", "the broker is not connected"),
        ({"spool": {**SPOOL, "failed": True}}, "failed", "the spool cannot be read or written"),
        ({"spool": {**SPOOL, "bytes": 60_000}}, "warning", "the spool is full to 92%"),
        ({"spool": SPOOL}, "warning", "the spool has dropped 2 records since the start"),
        ({"since": 0.5}, "warning", "the configuration has changed"),
        ({"broker": "kafka"}, "warning", "the configuration has changed"),
        ({"direction": "in"}, "warning", "the configuration has changed"),
        ({"spool": 1}, "failed", "cannot decode the answer"),
    ]
    site.configure()
    for changed, result, text in cases:
        with serve(site.sockets, "b", report | changed):
            found = [each for each in site.examine() if each.check == "bridge b status"]
        assert [each.result for each in found if text in each.finding] == [result], changed
        assert all(each.advice for each in found)


def test_bridge_that_does_not_run_is_a_warning(site: Site) -> None:
    site.configure()
    first = site.finding("status")
    (site.sockets / "b").mkdir()
    bind_listener(site.sockets / "b" / "status.sock").close()
    for found in (first, site.finding("status")):
        assert found.result == "warning"
        assert found.advice == "systemctl enable --now notif-relayd-bridge@b.service"


def test_status_socket_of_the_configuration_is_used(site: Site) -> None:
    path = site.sockets / "other" / "status.sock"
    site.configure(f"[bridge]\ntarget = nats://broker\nstatus_socket = {path}\n")
    with serve(site.sockets, "other", {**REPORT, "broker": "nats", "spool": None}):
        assert site.finding("status").result == "ok"


@needs_root
def test_permissions_of_the_bridges_user_are_checked(
    running: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridges, "USER", NOBODY)
    path = running.configure()
    running.relay.public.chmod(0o660)
    group = other_group()
    os.chown(running.relay.public, -1, grp.getgrnam(group).gr_gid)
    file, socket, spool = (running.finding(each) for each in ("file", "socket", "spool"))
    assert {each.result for each in (file, socket, spool)} == {"failed"}
    assert file.finding == f"{NOBODY} has no permission for {path}"
    assert f"membership in group {group}" in socket.finding
    assert spool.advice == bridges.ANOTHER_SPOOL
    path.parent.chmod(0o700)
    assert running.finding("file").advice.startswith("leave it as it is, and move")
    monkeypatch.setattr(bridges, "STATE_DIRECTORY", os.fspath(running.relay.directory))
    assert running.finding("spool").advice == f"chown {NOBODY} {running.relay.directory}"
    path.chmod(0o644)
    path.parent.chmod(0o755)
    running.relay.public.chmod(0o666)
    os.chown(running.relay.directory, 65534, -1)
    assert [running.finding(each).result for each in ("socket", "spool")] == ["ok", "ok"]


def test_missing_files_are_found(site: Site) -> None:
    site.configure(
        f"[bridge]\ntarget = nats://broker\nsource = unix://{site.relay.directory}/no.sock\n"
        f"spool = {site.relay.directory}/no/b.sqlite\n"
    )
    with serve(site.sockets, "b", {**REPORT, "broker": "nats"}):
        socket, spool = site.finding("socket"), site.finding("spool")
    assert (socket.result, spool.result) == ("failed", "failed")
    assert "no.sock does not exist" in socket.finding
    assert spool.advice == bridges.ANOTHER_SPOOL


def test_inbound_bridge_needs_the_private_socket(running: Site) -> None:
    running.configure(f"[bridge]\nsource = nats://broker\ntarget = unix://{running.relay.ingest}\n")
    report = {**REPORT, "direction": "in", "broker": "nats", "spool": None}
    with serve(running.sockets, "b", report):
        found = {each.check: each for each in running.examine()}
    assert list(found) == [f"bridge b {each}" for each in ("file", "socket", "status")]
    assert {each.result for each in found.values()} == {"ok"}
    assert str(running.relay.ingest) in found["bridge b socket"].finding
