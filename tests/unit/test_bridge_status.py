# SPDX-License-Identifier: Apache-2.0
"""The status socket of a bridge: what it answers, and clients that misbehave."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from notif_relayd_bridge import status
from notif_relayd_bridge.errors import StartError
from notif_relayd_bridge.status import MAX_BURST, StatusServer, default_path
from support.relayctl import bind_listener
from support.waiting import TIMEOUT


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "status.sock"


@pytest.fixture
def server(path: Path) -> Iterator[StatusServer]:
    with closing(StatusServer(os.fspath(path), lambda: {"name": "b"})) as server:
        yield server


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(TIMEOUT)
    client.connect(os.fspath(path))
    return client


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def answer(client: socket.socket) -> bytes:
    """Return everything until the end of the connection."""
    with client, client.makefile("rb") as stream:
        return stream.read()


def test_connection_gets_one_line(path: Path, server: StatusServer) -> None:
    for _ in range(3):
        assert answer(connected(path)) == b'{"name":"b"}\n'


def test_only_owner_and_group_may_connect(path: Path, server: StatusServer) -> None:
    status = path.lstat()
    assert stat.S_IMODE(status.st_mode) == 0o660
    assert status.st_gid == os.getegid()
    assert os.listdir(path.parent) == [path.name]


def test_clients_that_do_not_read_keep_nothing_open(path: Path, server: StatusServer) -> None:
    before = open_descriptors()
    with ExitStack() as stack:
        for _ in range(MAX_BURST // 2):
            client = stack.enter_context(connected(path))
            with suppress(BrokenPipeError):  # It has its answer.
                client.send(b"x" * 1000)
        assert answer(connected(path)) == b'{"name":"b"}\n'
        assert open_descriptors() == before + MAX_BURST // 2
    assert answer(connected(path)) == b'{"name":"b"}\n'


def test_answers_pause_after_a_burst(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "MAX_RATE", 1e-6)
    server = StatusServer(os.fspath(path), dict)
    for _ in range(MAX_BURST):
        assert answer(connected(path)) == b"{}\n"
    with connected(path) as client:
        server.close()  # which does not wait for the end of the pause
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert "status" not in {each.name for each in threading.enumerate()}


def test_stale_socket_is_replaced(path: Path) -> None:
    bind_listener(path).close()
    with closing(StatusServer(os.fspath(path), dict)):
        assert answer(connected(path)) == b"{}\n"
    assert os.listdir(path.parent) == []


def test_socket_in_use_is_refused(path: Path, server: StatusServer) -> None:
    with pytest.raises(StartError, match="another process listens"):
        StatusServer(os.fspath(path), dict)
    assert answer(connected(path)) == b'{"name":"b"}\n'


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_other_file_is_refused(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("kept")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(StartError, match="is not a socket"):
        StatusServer(os.fspath(path), dict)
    assert os.listdir(path.parent) == [path.name]


def test_missing_directory_is_refused(directory: Path) -> None:
    path = os.fspath(directory / "missing" / "status.sock")
    with pytest.raises(StartError, match=f"{path}: No such file or directory"):
        StatusServer(path, dict)


def test_file_of_another_process_is_not_removed(path: Path, server: StatusServer) -> None:
    path.unlink()
    path.write_text("kept")
    server.close()
    assert path.read_text() == "kept"


def test_default_needs_its_directory(directory: Path) -> None:
    assert default_path("b", os.fspath(directory)) is None
    (directory / "b").mkdir()
    assert default_path("b", os.fspath(directory)) == os.fspath(directory / "b" / "status.sock")


def test_largest_answer_fits_in_the_buffer(path: Path) -> None:
    with (
        closing(StatusServer(os.fspath(path), lambda: {"name": "x" * 30_000})),
        connected(path) as client,
    ):
        assert len(json.loads(answer(client))["name"]) == 30_000
