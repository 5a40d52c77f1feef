# SPDX-License-Identifier: Apache-2.0
"""Records for the spool of a bridge, and their comparison with what comes out of it."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from notif_relay.records import gap, gap_report
from notif_relayd_bridge.spool.spool import Spool
from support.records import numbered_record

MAX_AGE = 1000.0
MAX_BYTES = 256 * 1024

PATHS = ("spool", "spool-wal", "spool.lock")
"""Everything that a spool leaves when its process ends."""

FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A file system in memory, for tests that synchronise many files."""

UNKNOWN = gap(None, "relay_restarted")


LOST = "None spool_lost"
"""What `contents` returns for a gap in place of a damaged file."""


class Clock:
    """A clock that only a test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def batch(first: int, count: int, size: int = 100) -> list[bytes]:
    """Return records with ascending numbers."""
    return [numbered_record(number, size) for number in range(first, first + count)]


def rows(spool: Spool, after: int = 0) -> list[tuple[int, bytes]]:
    """Return all rows after a row."""
    found: list[tuple[int, bytes]] = []
    while more := spool.head(found[-1][0] if found else after, 1000):
        found += more
    return found


def contents(records: Iterable[tuple[int, bytes]]) -> list[int | str]:
    """Return the number of each record; of a gap, its content, as in `4 spool_full`."""
    result: list[int | str] = []
    for _, record in records:
        report = gap_report(record)
        if report is not None:
            result.append(f"{report.dropped} {report.reason}")
        else:
            result.append(json.loads(record)["number"])
    return result


def check_books(found: Sequence[tuple[int, bytes]], expected: Sequence[int]) -> int:
    """Check that each expected record is there, in order, or within a gap with its number.

    Returns:
        The number of records within gaps.
    """
    missing = 0
    position = 0
    for _, record in found:
        report = gap_report(record)
        if report is None:
            assert json.loads(record)["number"] == expected[position]
            position += 1
        else:
            assert report.dropped is not None
            missing += report.dropped
            position += report.dropped
    assert position == len(expected)
    numbers = [row for row, _ in found]
    assert numbers == sorted(set(numbers))
    return missing


def open_spool(directory: Path, **arguments: object) -> Spool:
    """Open the spool in a directory, with arguments that differ from the usual ones."""
    usual: dict[str, object] = {"max_bytes": MAX_BYTES, "max_age": MAX_AGE}
    return Spool(str(directory / "spool"), **{**usual, **arguments})  # type: ignore[arg-type]


def spool_with(directory: Path, count: int, size: int = 100) -> Spool:
    """Open a spool and add records."""
    spool = open_spool(directory)
    spool.add(batch(0, count, size))
    return spool


def change(directory: Path, *statements: str) -> None:
    """Change the database of a spool that is not in use."""
    with closing(sqlite3.connect(directory / "spool", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def copy_killed(directory: Path, copy: Path) -> None:
    """Copy the files of an open spool, as they are if its process is killed now."""
    copy.mkdir()
    for name in PATHS:
        if (directory / name).exists():
            (copy / name).write_bytes((directory / name).read_bytes())


def disk_usage(directory: Path) -> int:
    """Return the size of all files in a directory in bytes."""
    return sum(entry.stat().st_size for entry in os.scandir(directory))
