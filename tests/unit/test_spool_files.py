# SPDX-License-Identifier: Apache-2.0
"""The file of a spool: damaged, foreign, missing, in use, or no file."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from notif_relayd_bridge.errors import SpoolError
from notif_relayd_bridge.spool.file import check_path
from notif_relayd_bridge.spool.spool import Spool
from support.spool import (
    LOST,
    batch,
    change,
    contents,
    copy_killed,
    open_spool,
    rows,
    spool_with,
)


def overwrite(start: int, data: bytes) -> Callable[[Path], object]:
    def do(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(data)

    return do


def foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (id)")


def sql(statement: str) -> Callable[[Path], object]:
    return lambda path: change(path.parent, statement)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not a database of SQLite"),
    "text": (lambda path: path.write_bytes(b"[bridge]\n" * 1000), "not a database of SQLite"),
    "short": (lambda path: os.truncate(path, 50), "not a database of SQLite"),
    "truncated": (lambda path: os.truncate(path, 8192), "malformed"),
    "truncated within a page": (lambda path: os.truncate(path, 9000), "malformed"),
    "torn page": (overwrite(8192, b"\xff" * 2048), "malformed|Tree|Page"),
    "zeroed header": (overwrite(0, bytes(100)), "not a database of SQLite"),
    "random table": (overwrite(4096, bytes(range(256)) * 16), "malformed|Tree|Page"),
    "foreign": (foreign, "the database of another program"),
    "missing": (lambda path: path.unlink(), "the file is missing"),
    "other tables": (sql("CREATE TABLE more (id)"), "its tables"),
    "no state": (sql("DELETE FROM state"), "its rows"),
    "two states": (sql("INSERT INTO state VALUES ('', 0, 0)"), "its rows"),
    "odd state": (sql("UPDATE state SET boot = x'00'"), "its rows"),
    "odd offset": (sql("UPDATE state SET clock_offset = 9e999"), "its rows"),
    "text row": (sql("UPDATE records SET record = 'text' WHERE id = 3"), "its rows"),
    "odd time": (sql("UPDATE records SET added = -1 WHERE id = 3"), "its rows"),
    "endless time": (sql("UPDATE records SET added = 9e999 WHERE id = 3"), "its rows"),
    "large row": (sql("UPDATE records SET record = zeroblob(1048577) WHERE id = 3"), "its rows"),
    "negative row": (sql("INSERT INTO records VALUES (-1, 0, x'00')"), "its rows"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_moved_aside(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    spool_with(tmp_path, 100, 1000).close()
    harm, reason = DAMAGES[damage]
    harm(tmp_path / "spool")
    content = (tmp_path / "spool").read_bytes() if damage != "missing" else None
    spool = open_spool(tmp_path)
    assert contents(rows(spool)) == [LOST]
    assert rows(spool)[0][0] == 100
    assert spool.replaced is not None
    [message] = caplog.messages
    assert f"the spool {tmp_path}/spool is damaged and its records are not sent: " in message
    assert re.search(reason, message)
    spool.add(batch(1, 2))
    spool.close()
    spool = open_spool(tmp_path)
    assert contents(rows(spool)) == [LOST, 1, 2]
    assert spool.replaced is None
    spool.close()
    assert len(caplog.messages) == 1
    if content is not None:
        assert (tmp_path / "spool.damaged").read_bytes() == content
        assert (tmp_path / "spool.damaged").stat().st_mode & 0o777 in {0o600, 0o644}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_text("host-1\n"), "not a database of SQLite"),
        (lambda path: path.touch(), "not a database of SQLite"),
        (foreign, "the database of another program"),
    ],
)
def test_file_of_another_program_is_left_alone(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "spool"
    path.touch()
    make(path)
    content = path.read_bytes()
    for use in (lambda: check_path(str(path), "/none/"), lambda: open_spool(tmp_path)):
        with pytest.raises(SpoolError, match=f"{reason}; correct the path"):
            use()
        assert path.read_bytes() == content


def test_broken_chain_of_pages_is_noticed_at_once(tmp_path: Path) -> None:
    spool_with(tmp_path, 3, 50_000).close()
    overwrite(10 * 4096, b"\0\0\xff\xff")(tmp_path / "spool")
    spool = open_spool(tmp_path)
    assert spool.replaced is not None
    assert contents(rows(spool)) == [LOST]
    spool.close()


def test_only_the_last_damaged_file_is_kept(tmp_path: Path) -> None:
    spool_with(tmp_path, 1).close()
    for number in range(3):
        (tmp_path / "spool").write_bytes(b"%d" % number)
        open_spool(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"spool", "spool.damaged", "spool.lock"}
    assert (tmp_path / "spool.damaged").read_bytes() == b"2"


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Spool]:
    """Return a full spool whose file is damaged, except what SQLite has in memory."""
    spool = open_spool(tmp_path, max_bytes=8 * 1024 * 1024)
    while not spool.dropped:
        spool.add(batch(spool.last, 1000, 1000))
    spool.close()
    spool = open_spool(tmp_path, max_bytes=8 * 1024 * 1024)
    for start in range(8192, (tmp_path / "spool").stat().st_size, 4096):
        overwrite(start, b"\xff" * 4096)(tmp_path / "spool")
    yield spool
    spool.close()


def test_damage_is_noticed_when_rows_are_read(unreadable: Spool) -> None:
    after, last = 0, unreadable.last
    while not unreadable.replaced:
        after = unreadable.head(after, 10)[-1][0]
    assert contents(rows(unreadable)) == [LOST]
    assert (rows(unreadable)[0][0], unreadable.last, unreadable.count) == (last, last, 1)


def test_damage_is_noticed_when_rows_are_removed(unreadable: Spool) -> None:
    row, last = 0, unreadable.last
    while not unreadable.replaced:
        row += 1
        assert row < last
        unreadable.remove_up_to(row)
    assert contents(rows(unreadable)) == [LOST]
    assert (rows(unreadable)[0][0], unreadable.last, unreadable.count) == (last, last, 1)


def test_damage_is_noticed_when_rows_are_added(unreadable: Spool) -> None:
    end = unreadable.last + 10_000
    while not unreadable.replaced:
        last = unreadable.last
        assert last < end
        unreadable.add(batch(last, 10, 1000))
    # The new rows have the numbers that the user of the spool expects.
    assert [row for row, _ in rows(unreadable)] == [*range(last, last + 11)]
    assert contents(rows(unreadable)) == [LOST, *range(last, last + 10)]
    assert (unreadable.last, unreadable.count) == (last + 10, 11)


def test_damaged_file_that_cannot_be_moved_is_an_error(unreadable: Spool, tmp_path: Path) -> None:
    (tmp_path / "spool.damaged").mkdir()
    with pytest.raises(SpoolError, match=r"cannot use the spool .*: Is a directory"):
        rows(unreadable)
    last = unreadable.last
    assert (unreadable.count, unreadable.size, unreadable.replaced) == (0, 0, None)
    with pytest.raises(SpoolError, match="Is a directory"):
        unreadable.add(batch(0, 1))
    (tmp_path / "spool.damaged").rmdir()
    unreadable.add(batch(0, 1))
    assert contents(rows(unreadable)) == [LOST, 0]
    assert unreadable.last == last + 1


def test_missing_log_of_a_killed_process_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = spool_with(tmp_path, 5)
    copy_killed(tmp_path, tmp_path / "copy")
    spool.close()
    (tmp_path / "copy/spool-wal").unlink()
    spool = open_spool(tmp_path / "copy")
    assert contents(rows(spool)) == [LOST]
    assert rows(spool)[0][0] == 5
    assert caplog.messages == [
        f"the spool {tmp_path}/copy/spool has lost its last records;"
        " a gap of unknown size takes their place"
    ]
    spool.close()


def test_torn_log_of_a_killed_process_is_noticed(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 5)
    size = (tmp_path / "spool-wal").stat().st_size
    spool.add(batch(5, 5))
    copy_killed(tmp_path, tmp_path / "copy")
    spool.close()
    os.truncate(tmp_path / "copy/spool-wal", size + 100)
    spool = open_spool(tmp_path / "copy")
    assert contents(rows(spool)) == [0, 1, 2, 3, 4, LOST]
    assert rows(spool)[-1][0] == 10
    spool.close()


def test_missing_log_of_an_empty_spool_is_no_loss(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 5)
    spool.close()
    spool = open_spool(tmp_path)
    spool.remove_up_to(5)
    copy_killed(tmp_path, tmp_path / "copy")
    spool.close()
    (tmp_path / "copy/spool-wal").unlink()
    spool = open_spool(tmp_path / "copy")
    # The rows that were removed are back, and no gap is reported.
    assert contents(rows(spool)) == [0, 1, 2, 3, 4]
    spool.close()


def test_log_without_a_file_is_moved_aside(tmp_path: Path) -> None:
    spool = spool_with(tmp_path, 5)
    copy_killed(tmp_path, tmp_path / "copy")
    spool.close()
    (tmp_path / "copy/spool").unlink()
    (tmp_path / "copy/spool.lock").unlink()
    spool = open_spool(tmp_path / "copy")
    assert contents(rows(spool)) == [LOST]
    assert (tmp_path / "copy/spool.damaged-wal").stat().st_size > 0
    spool.close()


@pytest.mark.parametrize("note", [b"", b"x", b"-1 -1\n", b"9" * 74 + b"\n", b"\0" * 75, b"9" * 200])
def test_odd_note_is_harmless(tmp_path: Path, note: bytes) -> None:
    spool_with(tmp_path, 5).close()
    (tmp_path / "spool.lock").write_bytes(note)
    spool = open_spool(tmp_path)
    assert contents(rows(spool)) == [0, 1, 2, 3, 4]
    spool.add(batch(5, 1))
    spool.close()


def test_note_with_the_highest_number_is_a_loss(tmp_path: Path) -> None:
    spool_with(tmp_path, 5).close()
    note = (tmp_path / "spool.lock").read_bytes()
    (tmp_path / "spool.lock").write_bytes(b"0" * 18 + b" " + b"9" * 18 + note[37:])
    spool = open_spool(tmp_path)
    spool.add(batch(5, 1))
    assert contents(rows(spool)) == [0, 1, 2, 3, 4, LOST, 5]
    spool.close()


# Neither a file of ours nor one that may be replaced


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal", "-shm", ".lock"])
@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "broken link"])
def test_other_nodes_are_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"spool{suffix}"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            (tmp_path / "theirs").write_bytes(b"text")
            path.symlink_to("theirs")
        case _:
            path.symlink_to("theirs")
    with pytest.raises(SpoolError, match=f"{path} is not a regular file; remove it"):
        open_spool(tmp_path)
    assert not path.is_file() or (tmp_path / "theirs").read_bytes() == b"text"


def test_newer_version_is_refused(tmp_path: Path) -> None:
    spool_with(tmp_path, 1).close()
    change(tmp_path, "PRAGMA user_version = 2")
    with pytest.raises(SpoolError, match="its version, 2, is newer than that of this program"):
        open_spool(tmp_path)
    change(tmp_path, "PRAGMA user_version = 1")
    spool = open_spool(tmp_path)
    assert contents(rows(spool)) == [0]
    spool.close()


def test_database_in_use_is_refused(tmp_path: Path) -> None:
    spool_with(tmp_path, 3).close()
    with closing(sqlite3.connect(tmp_path / "spool", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SpoolError, match=r"/spool: database is locked"):
            open_spool(tmp_path)
    spool = open_spool(tmp_path)
    assert contents(rows(spool)) == [0, 1, 2]
    with (
        closing(sqlite3.connect(tmp_path / "spool", timeout=0)) as other,
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("SELECT * FROM records")
    spool.close()


def test_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match=r"missing/spool: No such file or directory"):
        open_spool(tmp_path / "missing")


def test_error_releases_the_lock(tmp_path: Path) -> None:
    spool_with(tmp_path, 1).close()
    (tmp_path / "spool-wal").mkdir()
    with pytest.raises(SpoolError):
        open_spool(tmp_path)
    (tmp_path / "spool-wal").rmdir()
    open_spool(tmp_path).close()


def test_path_is_printable_in_errors(tmp_path: Path) -> None:
    directory = tmp_path / "new\nline"
    with pytest.raises(SpoolError, match=r"new\\nline/spool: No such"):
        open_spool(directory)
