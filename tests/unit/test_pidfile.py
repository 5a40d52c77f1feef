# SPDX-License-Identifier: Apache-2.0
"""The pidfile: which files are replaced, and what remains at the end."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from notif_relayd.daemon.pidfile import MAX_SIZE, Pidfile
from notif_relayd.errors import StartError

OWN = f"{os.getpid()}\n"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"1\n", b"0\n", b"-1\n", b"4194304\n"),
        *(b"9" * 20, b"9" * 5000, b" 7\r\n", b"7\n\0\0", b"\0" * 4096),
    ],
)
def test_stale_file_is_replaced_and_removed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pid"
    path.write_bytes(content)
    with Pidfile(str(path)) as pidfile:
        pidfile.write()
        assert path.read_text() == OWN
    assert list(tmp_path.iterdir()) == []


def test_file_of_a_running_daemon_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with Pidfile(str(path)) as pidfile:
        with pytest.raises(StartError, match="in use by another process: stop it"):
            Pidfile(str(path))
        pidfile.write()
        with pytest.raises(StartError, match=f"in use by process {os.getpid()}: stop it"):
            Pidfile(str(path))
        assert path.read_text() == OWN
    with Pidfile(str(path)) as pidfile:
        pidfile.write()


@pytest.mark.parametrize(
    "content",
    [b"host-1\n", b"7 8\n", b"7\nx", b"\xff\n", b"root:x:0:0\n" * 9, b" " * (MAX_SIZE + 1)],
)
def test_file_with_other_content_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostname"
    path.write_bytes(content)
    with pytest.raises(StartError, match="hostname is not a pidfile"):
        Pidfile(str(path))
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_lock_of_a_reader_does_not_prevent_the_start(tmp_path: Path) -> None:
    """After a crash, any user who may read the pidfile can lock it."""
    path = tmp_path / "pid"
    path.write_text("7\n")
    with path.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_EX)
        with Pidfile(str(path)) as pidfile:
            pidfile.write()
            assert path.read_text() == OWN
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
            assert modes == {"pid": 0o644, ".pid.lock": 0o600}


def test_file_that_replaced_the_pidfile_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with Pidfile(str(path)) as pidfile:
        pidfile.write()
        path.unlink()
        path.write_text("another\n")
    assert path.read_text() == "another\n"


@pytest.mark.parametrize("exists", [True, False])
def test_link_is_followed_and_remains(tmp_path: Path, exists: bool) -> None:
    path, target = tmp_path / "pid", tmp_path / "target"
    path.symlink_to("target")
    if exists:
        target.write_text("7\n")
    with Pidfile(str(path)) as pidfile:
        pidfile.write()
        assert target.read_text() == OWN
    assert path.is_symlink()
    assert target.read_text() == ""


def test_number_is_written_to_a_fifo(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    os.mkfifo(path)
    with pytest.raises(StartError, match="no process reads from this FIFO"):
        Pidfile(str(path))
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with Pidfile(str(path)) as pidfile:
        pidfile.write()
        assert os.read(reader, 100).decode() == OWN
        assert os.read(reader, 100) == b""  # The end: the daemon has closed it.
    os.close(reader)
    assert path.is_fifo()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.symlink_to("missing/pid"), "create the directory"),
    ],
)
def test_unusable_path_is_an_error(
    tmp_path: Path, make: Callable[[Path], None], reason: str
) -> None:
    path = tmp_path / "pid"
    make(path)
    with pytest.raises(StartError, match=reason) as raised:
        Pidfile(str(path))
    assert str(path) in str(raised.value)
