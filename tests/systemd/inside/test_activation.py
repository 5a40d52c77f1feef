# SPDX-License-Identifier: Apache-2.0
"""The first connection starts the service, and no record is lost during the start."""

import os
import pwd

from support.container import (
    CONTROL,
    INGEST,
    PUBLIC,
    PUBLIC_UNIT,
    SERVICE,
    Journal,
    connect,
    drop_in,
    record,
    relays,
    show,
    states,
    systemctl,
)

STARTED = "Started notif-relayd.service"


def test_first_producer_starts_the_service(journal: Journal) -> None:
    with connect(INGEST):
        journal.entry(MESSAGE=STARTED)
    assert states() == ("active", "active", "active")


def test_first_subscriber_starts_the_service(journal: Journal) -> None:
    with connect(PUBLIC):
        journal.entry(MESSAGE=STARTED)
    assert states() == ("active", "active", "active")


def test_records_sent_before_the_start_arrive(journal: Journal) -> None:
    os.mkfifo("/run/gate")
    drop_in("ExecStartPre=+/bin/sh -c 'read go < /run/gate'")
    sent = [record() for _ in range(100)]
    with connect(PUBLIC) as subscriber:
        with connect(INGEST) as producer:
            producer.sendall(b"".join(sent))
        with open("/run/gate", "w") as gate:  # waits for the command
            assert show("SubState") == "start-pre"
            gate.write("go\n")
        lines = subscriber.makefile("rb")
        assert [lines.readline() for _ in sent] == sent
    os.unlink("/run/gate")


def test_next_connection_starts_a_stopped_service() -> None:
    assert relays()
    first = show("MainPID")
    files = os.stat(PUBLIC).st_ino, os.stat(INGEST).st_ino
    systemctl("stop", SERVICE)
    assert states() == ("inactive", "active", "active")
    assert relays()
    assert show("MainPID") != first
    assert (os.stat(PUBLIC).st_ino, os.stat(INGEST).st_ino) == files


def test_stopped_service_removes_its_control_socket() -> None:
    assert relays()
    assert os.path.exists(CONTROL)
    systemctl("stop", SERVICE)
    assert not os.path.exists(CONTROL)


def test_stopping_the_public_socket_stops_all_units() -> None:
    assert relays()
    systemctl("stop", PUBLIC_UNIT)
    assert states() == ("inactive", "inactive", "inactive")


def test_starting_the_service_starts_its_sockets() -> None:
    systemctl("stop", PUBLIC_UNIT)
    systemctl("start", SERVICE)
    assert states() == ("active", "active", "active")
    assert relays()


def test_relay_works_after_a_restart_of_the_service() -> None:
    assert relays()
    first = show("MainPID")
    systemctl("restart", SERVICE)
    assert show("MainPID") != first
    assert relays()


def test_relay_works_after_a_restart_of_the_sockets() -> None:
    assert relays()
    systemctl("restart", PUBLIC_UNIT)
    assert relays()


def test_service_runs_as_its_own_user_without_privileges() -> None:
    assert relays()
    process = f"/proc/{show('MainPID')}"
    with open(f"{process}/status") as lines:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in lines)
    assert set(status["Uid"].split()) == {str(pwd.getpwnam("notif-relayd").pw_uid)}
    assert (int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, "1", "2")
