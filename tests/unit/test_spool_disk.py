# SPDX-License-Identifier: Apache-2.0
"""The spool of a bridge on a full disk, after a crash of the host, and in several processes."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from notif_relayd_bridge.errors import SpoolError
from support.spool import (
    LOST,
    MAX_AGE,
    Clock,
    batch,
    change,
    check_books,
    contents,
    copy_killed,
    disk_usage,
    open_spool,
    rows,
    spool_with,
)

# Full disk


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_file_size_limit_is_an_error(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=64 * 1024 * 1024)
    spool.add(batch(0, 10))
    with file_size_limit(200_000):
        with pytest.raises(SpoolError, match=r"cannot use the spool .*/spool: disk I/O error"):
            spool.add(batch(10, 1000, 1000))
        assert (spool.count, spool.last) == (10, 10)
        assert contents(rows(spool)) == [*range(10)]
    spool.add(batch(10, 1000, 1000))
    assert check_books(rows(spool), range(1010)) == 0
    spool.close()


def test_old_rows_stay_if_no_gap_can_be_written(tmp_path: Path) -> None:
    clock = Clock()
    spool = open_spool(tmp_path, clock=clock)
    spool.add(batch(0, 5))
    clock.now = MAX_AGE + 1
    with file_size_limit(1000):
        assert contents(rows(spool)) == [0, 1, 2, 3, 4]
        assert (spool.count, spool.dropped) == (5, 0)
    assert contents(rows(spool)) == ["5 spool_expired"]
    spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system of 10 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=10m,mode=700", "tmpfs", str(directory)]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("cannot mount a file system")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def fill_disk(directory: Path) -> Path:
    """Return a file that takes the rest of a disk."""
    path = directory / "other"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def test_full_disk_is_an_error_until_there_is_room(small_disk: Path) -> None:
    spool = open_spool(small_disk, max_bytes=64 * 1024 * 1024)
    spool.add(batch(0, 100, 1000))
    other = fill_disk(small_disk)
    for _ in range(2):
        with pytest.raises(SpoolError, match=r"cannot use the spool .*: database or disk is full"):
            spool.add(batch(100, 100, 1000))
        assert (spool.count, spool.size, spool.last, spool.dropped) == (100, 100_000, 100, 0)
        assert contents(rows(spool)) == [*range(100)]
    other.unlink()
    spool.add(batch(100, 100, 1000))
    spool.remove_up_to(50)
    assert contents(rows(spool)) == [*range(50, 200)]
    spool.close()


def test_spool_reuses_its_space_on_a_full_disk(small_disk: Path) -> None:
    spool = open_spool(small_disk, max_bytes=4 * 1024 * 1024)
    for first in range(0, 8000, 100):
        spool.add(batch(first, 100, 1000))
    spool.remove_up_to(7000)
    fill_disk(small_disk)
    for first in range(8000, 40_000, 100):
        spool.add(batch(first, 100, 1000))
        spool.remove_up_to(first - 900)
    assert contents(rows(spool)) == [*range(39_000, 40_000)]
    spool.close()


def test_filled_disk_stops_only_the_spool(small_disk: Path) -> None:
    spool = open_spool(small_disk, max_bytes=64 * 1024 * 1024)
    added = 0
    with pytest.raises(SpoolError, match="database or disk is full"):  # noqa: PT012
        while added < 10_000:
            spool.add(batch(added, 10, 1000))
            added += 10
    assert added > 2000
    assert check_books(rows(spool), range(added)) == 0
    copy_killed(small_disk, small_disk.parent / "copy")
    spool.close()
    for directory in (small_disk, small_disk.parent / "copy"):
        spool = open_spool(directory, max_bytes=64 * 1024 * 1024)
        assert check_books(rows(spool), range(added)) == 0
        spool.close()


# Crash of the host


def restart_host(directory: Path) -> None:
    """Let a spool believe that the host was restarted."""
    change(directory, "UPDATE state SET boot = 'another'")


@pytest.mark.parametrize("count", [1, 5])
def test_crash_of_the_host_is_a_gap(
    tmp_path: Path, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    spool = spool_with(tmp_path, count)
    copy_killed(tmp_path, tmp_path / "copy")
    spool.close()
    restart_host(tmp_path / "copy")
    spool = open_spool(tmp_path / "copy", clock=Clock())
    assert contents(rows(spool)) == [*range(count), LOST]
    assert len(caplog.messages) == 1
    spool.close()
    spool = open_spool(tmp_path / "copy", clock=Clock())
    assert contents(rows(spool)) == [*range(count), LOST]
    spool.close()


@pytest.mark.parametrize("removed", [0, 5])
def test_orderly_restart_of_the_host_is_no_gap(tmp_path: Path, removed: int) -> None:
    spool = spool_with(tmp_path, 5)
    spool.remove_up_to(removed)
    spool.close()
    restart_host(tmp_path)
    spool = open_spool(tmp_path, clock=Clock())
    assert contents(rows(spool)) == [*range(removed, 5)]
    spool.close()


def test_crash_of_the_host_with_an_empty_spool_is_no_gap(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 5)
    spool.remove_up_to(5)
    copy_killed(tmp_path, tmp_path / "copy")
    spool.close()
    restart_host(tmp_path / "copy")
    spool = open_spool(tmp_path / "copy", clock=Clock())
    assert rows(spool) == []
    spool.add(batch(5, 1))
    copy_killed(tmp_path / "copy", tmp_path / "second")
    spool.close()
    restart_host(tmp_path / "second")
    spool = open_spool(tmp_path / "second", clock=Clock())
    assert contents(rows(spool)) == [5, LOST]
    spool.close()


def test_text_that_is_not_utf8_is_another_start(tmp_path: Path) -> None:
    spool_with(tmp_path, 2).close()
    change(tmp_path, "UPDATE state SET boot = CAST(x'ff00' AS TEXT)")
    spool = open_spool(tmp_path, clock=Clock())
    assert contents(rows(spool)) == [0, 1]
    assert spool.replaced is None
    spool.close()


def test_each_filling_of_a_spool_is_a_gap_after_a_crash(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 5)
    spool.remove_up_to(5)
    spool.add(batch(5, 1))
    copy_killed(tmp_path, tmp_path / "copy")
    spool.close()
    restart_host(tmp_path / "copy")
    spool = open_spool(tmp_path / "copy", clock=Clock())
    assert contents(rows(spool)) == [5, LOST]
    spool.close()


def test_note_of_another_start_of_the_host_is_no_loss(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 5)
    note = (tmp_path / "spool.lock").read_bytes()
    spool.remove_up_to(5)
    spool.close()
    boot = note.split()[2]
    (tmp_path / "spool.lock").write_bytes(note.replace(boot, boot[::-1]))
    restart_host(tmp_path)
    spool = open_spool(tmp_path, clock=Clock())
    assert (rows(spool), spool.last) == ([], 5)
    spool.close()


def test_time_while_the_host_is_off_does_not_count(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 50_000.0
    spool = open_spool(tmp_path, clock=clock)
    spool.add(batch(0, 1))
    clock.now += 300.0
    spool.add(batch(1, 1))
    spool.close()
    restart_host(tmp_path)
    clock.now = 20.0
    spool = open_spool(tmp_path, clock=clock)
    assert spool.oldest == 320.0
    clock.now = MAX_AGE - 299.0
    assert contents(rows(spool)) == ["1 spool_expired", 1]
    spool.close()


# Processes


def test_lock_ends_with_the_process(tmp_path: Path) -> None:
    program = (
        "import sys; from support.spool import *; from pathlib import Path;"
        "spool = open_spool(Path(sys.argv[1])); spool.add(batch(0, 3)); print(flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    path = os.pathsep.join(each for each in sys.path if each)
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        with pytest.raises(SpoolError, match="another process uses it"):
            open_spool(tmp_path)
        process.kill()
    spool = open_spool(tmp_path)
    assert contents(rows(spool)) == [0, 1, 2]
    spool.close()


def test_nothing_is_left_after_a_close(tmp_path: Path) -> None:
    spool_with(tmp_path, 3).close()
    assert {path.name for path in tmp_path.iterdir()} == {"spool", "spool.lock"}
    assert disk_usage(tmp_path) < 20_000
