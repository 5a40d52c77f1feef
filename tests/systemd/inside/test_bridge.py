# SPDX-License-Identifier: Apache-2.0
"""Bridges as services in the sandbox of their unit."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.container import (
    DEADLINE,
    INGEST,
    PUBLIC,
    SERVICE,
    Journal,
    access,
    allowed,
    connect,
    needs_loopback,
    record,
    run,
    show,
    systemctl,
)
from support.nats_server import NatsServer, needs_nats
from support.waiting import wait_until

CONFIGURATIONS = Path("/etc/notif-relayd/bridge")
SPOOLS = Path("/var/lib/notif-relayd-bridge")
USER = "notif-relayd-bridge"

BROKERS = ("rabbit", "kafka", "nats")


def unit(name: str) -> str:
    return f"notif-relayd-bridge@{name}.service"


@pytest.fixture(scope="module", autouse=True)
def short_pauses(users: None) -> Iterator[None]:
    """Let bridges that have ended start again soon."""
    drop_in = Path("/run/systemd/system/notif-relayd-bridge@.service.d/test.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Service]\nRestartSec=100ms\n")
    systemctl("daemon-reload")
    yield
    shutil.rmtree(drop_in.parent)
    systemctl("daemon-reload")


@pytest.fixture(autouse=True)
def bridges(journal: Journal) -> Iterator[None]:
    """Stop all bridges after the test, and remove their spools."""
    # The previous test has removed the directory.
    assert run("systemd-tmpfiles", "--create", "notif-relayd-bridge.conf").returncode == 0
    yield
    systemctl("stop", unit("*"))
    shutil.rmtree(SPOOLS, ignore_errors=True)


def configure(name: str, *lines: str) -> None:
    path = CONFIGURATIONS / f"{name}.conf"
    path.write_text("\n".join(["[bridge]", *lines, ""]))
    path.chmod(0o640)
    shutil.chown(path, "root", USER)


def size(name: str) -> int:
    """Return the size of a spool and its write-ahead log."""
    return sum(path.stat().st_size for path in SPOOLS.glob(f"{name}.sqlite*"))


def groups() -> set[str]:
    """Return the groups of the relay that have a member; none while the relay starts."""
    listed = run("relayctl", "groups", "-f", "json")
    rows = [] if listed.returncode else json.loads(listed.stdout)
    return {row["group"] for row in rows if row["members"]}


def states(user: str) -> dict[str, str]:
    """Return the states that `relayctl bridges` shows to a user, by the name of the bridge."""
    listed = run("relayctl", "bridges", "-f", "json", user=user)
    return {row["name"]: row["state"] for row in json.loads(listed.stdout)}


def test_bridges_run_and_stop_without_their_brokers(journal: Journal) -> None:
    for name in BROKERS:
        configure(name, f"target = {name}://user:password@127.0.0.1:9")
    systemctl("start", *map(unit, BROKERS))
    wait_until(lambda: groups() == {f"bridge:{name}" for name in BROKERS}, "they are members")
    before = {name: size(name) for name in BROKERS}
    with connect(INGEST) as producer:
        producer.sendall(record())
    wait_until(lambda: all(size(each) > before[each] for each in BROKERS), "it is spooled")
    for name in BROKERS:
        assert show("ActiveState", unit(name)) == "active"
        assert access(f"/run/notif-relayd-bridge/{name}") == ("2750", USER, "notif-relayd")
        status = Path(f"/proc/{show('MainPID', unit(name))}/status").read_text()
        assert f"Uid:\t{os.stat(SPOOLS).st_uid}\t" in status
        assert "CapEff:\t0000000000000000\n" in status
    assert states("admin") == dict.fromkeys(sorted(BROKERS), "running")
    assert states("reader") == dict.fromkeys(sorted(BROKERS), "no permission")
    examined = json.loads(run("relayctl", "doctor", "--no-round-trip", "-f", "json").stdout)
    results = {row["check"]: row["result"] for row in examined}
    for part in ("file", "socket", "spool"):
        assert {results[f"bridge {name} {part}"] for name in BROKERS} == {"ok"}
    assert access(str(SPOOLS)) == ("0700", USER, USER)
    start = time.monotonic()
    systemctl("stop", unit("*"))
    assert time.monotonic() - start < DEADLINE / 2
    for name in BROKERS:
        assert (show("Result", unit(name)), show("NRestarts", unit(name))) == ("success", "0")
    assert os.listdir("/run/notif-relayd-bridge") == []
    assert "password" not in journal.text()


@needs_nats
def test_bridges_send_to_a_broker_and_receive(journal: Journal, tmp_path: Path) -> None:
    needs_loopback()
    with NatsServer(tmp_path) as server, connect(PUBLIC) as subscriber:
        server.add_stream()
        server.kill()
        configure("nats", f"target = {server.url}")
        systemctl("start", unit("nats"))
        wait_until(lambda: groups() == {"bridge:nats"}, "the bridge is a member")
        before, sent = size("nats"), record()
        with connect(INGEST) as producer:
            producer.sendall(sent)
        wait_until(lambda: size("nats") > before, "the record is in the spool")
        # After a kill, the spool is complete and trusted: the bridge reads the number of the boot.
        os.kill(int(show("MainPID", unit("nats"))), signal.SIGKILL)
        server.start()
        wait_until(lambda: [each.data for each in server.messages()] == [sent[:-1]], "it arrives")
        lines = subscriber.makefile("rb")
        assert lines.readline() == sent
        configure("in", f"source = {server.url}")
        systemctl("start", unit("in"))
        assert json.loads(lines.readline()) == json.loads(sent) | {"_bridge": "in"}


def test_bridge_starts_again_after_an_error_and_a_hang_up(journal: Journal) -> None:
    configure("nats", "target = nats://127.0.0.1:9", "spool_max_age = yes")
    assert run("systemctl", "start", unit("nats")).returncode != 0
    journal.entry(SYSLOG_IDENTIFIER=USER, MESSAGE="[bridge] spool_max_age in")
    configure("nats", "target = nats://127.0.0.1:9")
    wait_until(lambda: show("ActiveState", unit("nats")) == "active", "it starts again")
    pid = show("MainPID", unit("nats"))
    os.kill(int(pid), signal.SIGHUP)
    wait_until(
        lambda: (
            show("ActiveState", unit("nats")) == "active" and show("MainPID", unit("nats")) != pid
        ),
        "another process runs",
    )


def test_user_of_the_bridges_has_only_the_access_it_needs() -> None:
    systemctl("start", SERVICE)
    assert allowed(USER) == {PUBLIC, INGEST}
    configure("nats", "target = nats://127.0.0.1:9")
    for user, status in ((USER, 0), ("admin", 1), ("notif-relayd", 1)):
        assert run("cat", str(CONFIGURATIONS / "nats.conf"), user=user).returncode == status


def test_bridge_unit_is_valid_and_has_exposure_of_at_most_1_2() -> None:
    verified = run("systemd-analyze", "verify", unit("nats"))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")
    # In tenths of 10; mostly for the network.
    scored = run("systemd-analyze", "security", "--offline=true", "--threshold=12", unit("nats"))
    assert scored.returncode == 0, scored.stdout
