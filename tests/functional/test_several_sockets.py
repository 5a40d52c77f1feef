# SPDX-License-Identifier: Apache-2.0
"""Several public and private sockets that systemd passes to one relay."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayd.errors import StartError
from notif_relayd.net.listeners import adopt
from notif_relayd.settings import Access, SocketPlan
from support.records import record
from support.relay import Subscriber, connect
from support.service_manager import PASS_DESCRIPTORS, managed_relay
from support.waiting import TIMEOUT


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        yield listener


def test_every_socket_of_a_name_is_served(directory: Path) -> None:
    public, ingest = directory / "new/notifications.sock", directory / "new/ingest.sock"
    with (
        managed_relay(directory, "--relayd-public_mode", "0606") as relay,
        listening(public) as more_public,
        listening(ingest) as more_ingest,
    ):
        relay.listeners.update({"more public": more_public, "more ingest": more_ingest})
        relay.restart()
        relay.wait_logged(f"also listening on {public}")
        assert stat.S_IMODE(public.stat().st_mode) == 0o606
        with Subscriber(relay.public) as first, Subscriber(public) as second:
            relay.wait_status(subscribers=2)
            for path in (relay.ingest, ingest):
                with connect(path) as producer:
                    producer.sendall(record(path=str(path)))
                    for subscriber in (first, second):
                        assert subscriber.line() == record(path=str(path))
            relay.restart()
            with connect(ingest) as producer:
                producer.sendall(record())
                for subscriber in (first, second):
                    assert subscriber.line() == record()


@pytest.mark.parametrize("name", ["notif-relayd.socket", "control", "Public", ""])
def test_listening_socket_with_another_name_is_an_error(directory: Path, name: str) -> None:
    path = directory / "new/notifications.sock"
    with listening(path) as listener:
        result = subprocess.run(
            [
                *(sys.executable, "-c", PASS_DESCRIPTORS, str(listener.fileno()), "--"),
                *("-m", "notif_relayd", "--runtime-dir", str(directory)),
            ],
            pass_fds=[listener.fileno()],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": name},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert str(path) in line
    assert "FileDescriptorName=public" in line


def test_passed_socket_without_a_file_is_an_error() -> None:
    plan = SocketPlan("public", "/unused", Access())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # The kernel chooses an abstract address.
        listener.listen()
        with pytest.raises(StartError, match="every user may connect: set a path"):
            adopt(listener.fileno(), plan, (-1, -1))


def test_link_in_place_of_a_passed_socket_is_not_followed(directory: Path) -> None:
    path, other = directory / "new/notifications.sock", directory / "other"
    other.touch(0o600)
    with listening(path) as listener:
        path.unlink()
        path.symlink_to(other)
        result = subprocess.run(
            [
                *(sys.executable, "-c", PASS_DESCRIPTORS, str(listener.fileno()), "--"),
                *("-m", "notif_relayd", "--runtime-dir", str(directory)),
                *("--relayd-public_mode", "0666"),
            ],
            pass_fds=[listener.fileno()],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "public"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert result.returncode == 1
    assert f"{path} is not a socket" in result.stderr
    assert stat.S_IMODE(other.stat().st_mode) == 0o600
