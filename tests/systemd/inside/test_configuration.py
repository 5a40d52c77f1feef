# SPDX-License-Identifier: Apache-2.0
"""Options in relayd.conf with sockets that systemd passes."""

import json
import shutil
import socket
from functools import partial
from pathlib import Path

import pytest

from support.container import (
    INGEST,
    INGEST_UNIT,
    PUBLIC,
    PUBLIC_UNIT,
    SERVICE,
    Journal,
    access,
    allowed,
    configure,
    connect,
    drop_in,
    record,
    relays,
    run,
    show,
    states,
    systemctl,
)


def test_mode_and_group_apply_to_passed_sockets() -> None:
    configure("[relayd]", "public_mode = 0666", "ingest_group = notif-relayd")
    systemctl("start", SERVICE)
    assert access(PUBLIC) == ("0666", "notif-relayd", "notif-subscribers")
    assert access(INGEST) == ("0660", "notif-relayd", "notif-relayd")
    assert PUBLIC in allowed("outsider")
    assert INGEST in allowed("admin")
    assert INGEST not in allowed("writer")


def test_unavailable_group_error_names_the_option(
    journal: Journal,
) -> None:
    configure("[relayd]", "public_group = adm")
    with connect(PUBLIC):
        entry = journal.entry(SYSLOG_IDENTIFIER="notif-relayd")
    assert "public_group" in str(entry["MESSAGE"])


def test_invalid_configuration_keeps_the_sockets(journal: Journal) -> None:
    configure("[relayd]", "ring_size = many")
    drop_in("RestartSec=100ms")
    with connect(PUBLIC):
        # More starts in less time than systemd's default start limit allows.
        for _ in range(7):
            journal.entry(SYSLOG_IDENTIFIER="notif-relayd", MESSAGE="ring_size")
        assert states()[1:] == ("active", "active")
    configure("[relayd]", "ring_size = 1048576")
    assert relays()


def test_reload_applies_new_limits_without_a_restart(journal: Journal) -> None:
    configure("[relayd]", "max_subscribers = 2")
    assert relays()
    pid = show("MainPID")
    configure("[relayd]", "max_subscribers = 1")
    systemctl("reload", SERVICE)
    journal.entry(MESSAGE="configuration reloaded")
    with connect(PUBLIC), connect(PUBLIC) as refused:
        assert b"max_subscribers" in refused.makefile("rb").readline()
    assert show("MainPID") == pid


def test_reload_fails_with_the_error_of_the_configuration(journal: Journal) -> None:
    configure("[relayd]", "max_subscribers = 2")
    assert relays()
    pid = show("MainPID")
    configure("[relayd]", "max_subscriber = 1")
    assert run("systemctl", "reload", SERVICE).returncode != 0
    journal.entry(SYSLOG_IDENTIFIER="notif-relayd", MESSAGE="did you mean max_subscribers")
    assert (show("MainPID"), show("ActiveState")) == (pid, "active")
    configure("[relayd]", "max_subscribers = 1")
    systemctl("reload", SERVICE)
    journal.entry(MESSAGE="configuration reloaded")
    assert relays()
    assert "]: ok\n" not in journal.text()


def test_drop_ins_link_the_paths_of_a_service(request: pytest.FixtureRequest) -> None:
    """The drop-ins are those of docs/howto/services.rst."""
    check_drop_ins(request, "Symlinks")


def test_drop_ins_add_sockets(request: pytest.FixtureRequest) -> None:
    check_drop_ins(request, "ListenStream")


def check_drop_ins(request: pytest.FixtureRequest, setting: str) -> None:
    """Check that both paths of both sockets work with drop-ins that have this setting."""
    paths = {PUBLIC_UNIT: "/run/nova/notifications.sock", INGEST_UNIT: "/run/nova/ingest.sock"}
    assert relays()
    before = connect(PUBLIC), connect(INGEST)
    request.addfinalizer(lambda: systemctl("daemon-reload"))  # After the files are removed.
    for unit, path in paths.items():
        directory = Path(f"/run/systemd/system/{unit}.d")
        directory.mkdir(parents=True)
        request.addfinalizer(partial(shutil.rmtree, directory))
        (directory / "nova.conf").write_text(f"[Socket]\n{setting}={path}\n")
    systemctl("daemon-reload")
    systemctl("stop", PUBLIC_UNIT, SERVICE)
    for connection in before:
        with connection:
            assert connection.recv(1) == b""
    systemctl("start", PUBLIC_UNIT)
    assert access(paths[PUBLIC_UNIT]) == ("0660", "notif-relayd", "notif-subscribers")
    assert access(paths[INGEST_UNIT]) == ("0660", "notif-relayd", "notif-producers")
    with connect(PUBLIC) as first, connect(paths[PUBLIC_UNIT]) as second:
        for path in (INGEST, paths[INGEST_UNIT]):
            with connect(path) as producer:
                sent = record()
                producer.sendall(sent)
                for subscriber in (first, second):
                    assert subscriber.recv(len(sent), socket.MSG_WAITALL) == sent
    assert run("relayctl", "status").returncode == 0
    conf = Path("/run/nova/nova.conf")
    lines = ("[oslo_messaging_notifications]", "driver=unix", f"sock_path={paths[PUBLIC_UNIT]}")
    conf.write_text("\n".join(lines))
    shutil.chown("/run/nova", "daemon", "daemon")
    examined = run("relayctl", "doctor", "-f", "json", "--service-config", str(conf))
    assert not [row for row in json.loads(examined.stdout) if row["result"] == "failed"]
    systemctl("stop", PUBLIC_UNIT)
    assert not Path(paths[PUBLIC_UNIT]).exists()
    shutil.rmtree("/run/nova")
