# SPDX-License-Identifier: Apache-2.0
"""Relays of their own for two services, beside the relay of the host."""

import json
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.container import (
    DEADLINE,
    PUBLIC_UNIT,
    access,
    configure,
    connect,
    needs_loopback,
    record,
    relays,
    run,
    show,
    systemctl,
)

SERVICES = ("nova", "cinder")


@pytest.fixture
def instances() -> Iterator[None]:
    """Start the sockets of a relay for each of two services."""
    for name in SERVICES:
        systemctl("enable", "--now", f"notif-relayd@{name}.socket")
    yield
    for name in SERVICES:
        systemctl("stop", f"notif-relayd@{name}.service")
        Path(f"/run/notif-relayd/{name}/control.sock").touch()  # as after a crash
        systemctl("disable", "--now", f"notif-relayd@{name}.socket")
        assert not os.path.lexists(f"/run/{name}/notifications.sock")
        assert not os.path.lexists(f"/run/notif-relayd/{name}")
        shutil.rmtree(f"/etc/notif-relayd/{name}", ignore_errors=True)


def configure_service(name: str) -> Path:
    """Write the configuration of a service as the specification has it."""
    path = Path(f"/etc/{name}/{name}.conf")
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "[oslo_messaging_notifications]\ndriver = unix\n"
        f"sock_path = /run/{name}/notifications.sock\n"
    )
    return path


def relayctl(name: str, *arguments: str) -> list[dict[str, Any]]:
    done = run("relayctl", "--instance", name, *arguments, "-f", "json")
    assert (done.returncode, done.stderr) == (0, ""), done
    answer = json.loads(done.stdout)
    return answer if isinstance(answer, list) else [answer]


def test_each_service_has_its_own_relay(instances: None) -> None:
    assert relays()
    for name in SERVICES:
        for path, group in (("notifications", "subscribers"), ("ingest", "producers")):
            expected = ("0660", "notif-relayd", f"notif-{group}")
            assert access(f"/run/{name}/{path}.sock") == expected
        for row in relayctl(name, "doctor", "--no-round-trip"):
            assert row["result"] in ("ok", "skipped"), row
    readers = {name: connect(f"/run/{name}/notifications.sock") for name in SERVICES}
    for name, reader in readers.items():
        with connect(f"/run/{name}/ingest.sock") as producer, reader:
            sent = record()
            producer.sendall(sent)
            assert reader.makefile("rb").readline() == sent
            (status,) = relayctl(name, "status")
            assert (status["records_received"], status["subscribers"]) == (1, 1)
            assert status["public_socket"] == f"/run/notif-relayd/{name}/notifications.sock"
            (row,) = relayctl(name, "producers")
    pids = {show("MainPID", f"notif-relayd@{name}.service") for name in SERVICES}
    assert len(pids | {show("MainPID")}) == 3


def test_doctor_examines_an_instance_and_its_service(instances: None) -> None:
    path = configure_service("nova")
    Path("/etc/notif-relayd/nova").mkdir(parents=True)
    Path("/etc/notif-relayd/nova/limits.conf").write_text("[relayd]\npublic_mode = 0666\n")
    for _ in ("stopped", "running"):
        rows = {
            row["check"]: row for row in relayctl("nova", "doctor", "--service-config", str(path))
        }
        assert rows["configuration /etc/notif-relayd/nova"]["result"] == "ok"
        assert rows["unit notif-relayd@nova.socket"]["result"] == "ok"
        assert rows["directory /run/notif-relayd/nova"]["result"] == "ok"
        assert rows[f"service {path} unix"]["result"] == "ok"
        assert rows["round trip"]["result"] == "ok"
    assert access("/run/nova/notifications.sock")[0] == "0666"
    (status,) = relayctl("nova", "status")
    assert status["records_received"] == 24
    (wrong,) = (
        row
        for row in json.loads(
            run("relayctl", "doctor", "-f", "json", "--service-config", str(path)).stdout
        )
        if row["check"] == f"service {path} unix"
    )
    assert "which belongs to another relay" in wrong["finding"]


def test_restart_of_an_instance_keeps_its_connections(instances: None) -> None:
    with connect("/run/nova/notifications.sock") as reader:
        with connect("/run/nova/ingest.sock") as producer:
            for _ in ("before", "after"):
                sent = record()
                producer.sendall(sent)
                assert reader.recv(len(sent)) == sent
                systemctl("restart", "notif-relayd@nova.service")
        assert show("ActiveState", PUBLIC_UNIT) == "active"


def test_instance_reload_fails_with_its_configuration(instances: None) -> None:
    systemctl("start", "notif-relayd@nova.service")
    wrong = Path("/etc/notif-relayd/nova/wrong.conf")
    wrong.write_text("[relayd]\nmax_subscriber = 1\n")
    assert run("systemctl", "reload", "notif-relayd@nova.service").returncode != 0
    wrong.unlink()
    systemctl("reload", "notif-relayd@nova.service")


def test_restart_of_the_sockets_keeps_the_directory(instances: None) -> None:
    for unit in ("notif-relayd@nova.socket", "notif-relayd-ingest@nova.socket"):
        systemctl("restart", unit)
        systemctl("start", "notif-relayd-ingest@nova.socket", "notif-relayd@nova.service")
        assert access("/run/notif-relayd/nova") == ("0755", "notif-relayd", "notif-relayd")
        with connect("/run/nova/notifications.sock"), connect("/run/nova/ingest.sock"):
            assert relayctl("nova", "status")


def test_exporter_of_an_instance(instances: None) -> None:
    needs_loopback()
    unit = "notif-relayd-exporter@nova.service"
    listen = Path(f"/run/systemd/system/{unit}.d/listen.conf")
    listen.parent.mkdir(parents=True)
    listen.write_text("[Service]\nEnvironment=LISTEN=127.0.0.1:9857\n")
    systemctl("daemon-reload")
    systemctl("start", "notif-relayd@nova.service", "notif-relayd-exporter.service", unit)
    ups = []
    for port in (9856, 9857):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE) as page:
            ups += re.findall(r"^notif_relayd_up (.*)", page.read().decode(), re.MULTILINE)
    systemctl("stop", "notif-relayd-exporter.service", unit)
    shutil.rmtree(listen.parent)
    assert ups == ["0.0", "1.0"]


def test_systemd_analyze_accepts_the_instances(instances: None) -> None:
    units = [f"notif-relayd@nova.{each}" for each in ("service", "socket")]
    units.append("notif-relayd-exporter@nova.service")
    verified = run("systemd-analyze", "verify", *units, "notif-relayd-ingest@nova.socket")
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_relay_is_found_by_its_configuration() -> None:
    systemctl("stop", PUBLIC_UNIT)
    configure("[oslo_messaging_notifications]", "sock_path = /run/own/notifications.sock")
    properties = ("Type=notify", "RuntimeDirectory=own", "User=notif-relayd")
    options = [f"--property={each}" for each in properties]
    started = run("systemd-run", "--unit=own", *options, "notif-relayd")
    assert started.returncode == 0, started.stderr
    try:
        assert run("relayctl", "send", "--event-type", "a").returncode == 0
        status = json.loads(run("relayctl", "status", "-f", "json").stdout)
        assert status["ingest_socket"] == "/run/own/ingest.sock"
        examined = json.loads(run("relayctl", "doctor", "-f", "json").stdout)
        rows = {row["check"]: row for row in examined}
        assert rows["directory /run/own"]["result"] == "ok"
        assert rows["round trip"]["result"] == "ok"
    finally:
        systemctl("stop", "own.service")
