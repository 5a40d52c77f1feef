# SPDX-License-Identifier: Apache-2.0
"""relayctl with a relay in the sandbox of its unit, and with a stopped one."""

import json
import subprocess

from support.container import (
    INGEST,
    PUBLIC,
    PUBLIC_UNIT,
    connect,
    relays,
    run,
    states,
    systemctl,
)


def test_status_does_not_start_a_stopped_service() -> None:
    asked = run("relayctl", "status")
    assert asked.returncode == 3
    assert states() == ("inactive", "active", "active")


def test_status_of_a_stopped_service_names_its_sockets() -> None:
    assert f"{PUBLIC} exists" in run("relayctl", "status").stderr
    systemctl("stop", PUBLIC_UNIT)
    assert f"{PUBLIC} does not exist" in run("relayctl", "status").stderr


def test_status_is_for_the_relays_own_group() -> None:
    assert relays()
    status = run("relayctl", "status", "-f", "json", user="admin")
    assert status.returncode == 0, status.stderr
    assert json.loads(status.stdout)["records_received"] == 1
    assert run("relayctl", "status", user="outsider").returncode == 4


def test_command_and_user_of_a_peer_are_shown() -> None:
    program = (
        "import socket, sys; peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[1]);"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        ["/usr/bin/python3", "-c", program, INGEST],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user="writer",
        group="writer",
        extra_groups=["notif-producers"],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        with connect(PUBLIC) as subscriber:
            # The answer proves that the relay has accepted all earlier connections.
            subscriber.sendall(b"no request\n")
            assert subscriber.recv(65536)
        shown = run("relayctl", "producers", "-f", "json")
        process.communicate()
    assert shown.returncode == 0, shown.stderr
    (producer,) = json.loads(shown.stdout)
    assert producer["pid"] == process.pid
    assert producer["command"] == "python3"
    assert producer["user"] == "writer"
