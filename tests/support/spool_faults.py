# SPDX-License-Identifier: Apache-2.0
"""A program that uses a spool again and again, with a fault at each system call in turn.

Its arguments are a scenario, the kind of the fault, a directory, and the number of system calls
from one fault to the next. `faults.c` is preloaded. Each run is a child process. This one then
opens the spool that the child has left, checks and uses it, and prints the number of runs.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import mmap
import os
import shutil
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from notif_relayd_bridge.errors import SpoolError
from notif_relayd_bridge.spool.file import MAX_WAL_SIZE, PAGE_SIZE
from notif_relayd_bridge.spool.spool import Spool
from support.spool import MAX_AGE, Clock, batch, contents, open_spool, rows

FAULTS = {
    # The kind in faults.c, and the number of the error.
    "kill-before": (1, 0),
    "kill-after": (2, 0),
    "kill-within": (3, 0),
    "broken": (4, errno.EIO),
    "full": (5, errno.ENOSPC),
}

MAX_BYTES = 1536 * 1024

MAX_RUNS = 5000

calls = ctypes.CDLL(None)
T = TypeVar("T")


class Books:
    """What a child has done, in memory that its parent shares: row numbers.

    The record in a row has the number of the row. So the rows show how many a gap must count.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self.set(0, 0, 0, 0)

    def set(self, added: int, adding: int, removed: int, removing: int) -> None:
        """Note the last row that was added and removed, and those that are now being so."""
        struct.pack_into("4q", self._memory, 0, added, adding, removed, removing)

    def get(self) -> tuple[int, int, int, int]:
        """Return what was set."""
        added, adding, removed, removing = struct.unpack_from("4q", self._memory)
        return added, adding, removed, removing

    def check(self, found: Sequence[tuple[int, bytes]], lost: int) -> None:
        """Check what a spool contains.

        Args:
            found: its rows.
            lost: a row that must contain a gap of unknown size unless it was removed; 0 for none.
        """
        added, adding, removed, removing = self.get()
        check_rows(found, {added, adding}, {removed, removing}, lost)


def check_rows(
    found: Sequence[tuple[int, bytes]], last: Collection[int], removed: Collection[int], lost: int
) -> None:
    """Check that rows are complete and in order from `removed` to `last`."""
    position: int | None = None
    for (row, _), content in zip(found, contents(found), strict=True):
        if content == "None spool_lost":
            assert row == lost
            before = row - 1
        elif isinstance(content, str):
            before = row - int(content.split()[0])
        else:
            assert content == row
            before = row - 1
        assert before in removed if position is None else before == position
        position = row
    assert set(last) & set(removed) if position is None else position in last


class Run:
    """One use of a spool. After an error, the fault is over and the action is repeated."""

    def __init__(self, directory: Path, books: Books, lost: int = 0) -> None:
        self.clock = Clock()
        self._directory = directory
        self._books = books
        self._lost = lost
        self.spool = self._retried(self._open)

    def add(self, count: int, size: int = 100, keep: int = 0) -> None:
        """Add records."""
        _, added, _, removed = self._books.get()
        adding = added + count
        self._books.set(added, adding, removed, removed)
        records = batch(added + 1, count, size)
        self._retried(lambda: self.spool.add(records, keep))
        self._books.set(adding, adding, removed, removed)

    def remove(self, count: int) -> None:
        """Remove the oldest rows."""
        _, added, _, removed = self._books.get()
        row = self.spool.head(0, count)[-1][0]
        self._books.set(added, added, removed, row)
        self._retried(lambda: self.spool.remove_up_to(row))
        self._books.set(added, added, row, row)

    def reopen(self) -> None:
        """Close the spool and open it again."""
        self.spool.close()
        self.spool = self._retried(self._open)

    @property
    def log_size(self) -> int:
        """Size of the write-ahead log in bytes."""
        return (self._directory / "spool-wal").stat().st_size

    def _open(self) -> Spool:
        return open_spool(self._directory, max_bytes=MAX_BYTES, clock=self.clock)

    def _retried(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except SpoolError as error:
            assert "spool: " in str(error)  # noqa: PT017
            calls.faults_disarm()
            if hasattr(self, "spool"):
                added, _, removed, _ = self._books.get()
                found = rows(self.spool)
                check_rows(found, {added}, {removed}, self._lost)
                assert self.spool.last == added
                assert self.spool.count == len(found)
                assert self.spool.size == sum(len(record) for _, record in found)
            return action()


def everything(run: Run) -> None:
    run.add(3)
    run.remove(1)
    run.add(2, 5000)
    run.reopen()
    run.add(1, 10_000)
    run.remove(100)
    run.add(3)
    run.clock.now += 2 * MAX_AGE
    run.add(2)
    run.remove(2)
    run.reopen()


def overflow(run: Run) -> None:
    run.add(20, 10_000, keep=run.spool.head(0, 5)[-1][0])
    run.add(1, 300_000)
    run.remove(10)
    run.add(3, 1000)


def empty(run: Run) -> None:
    run.remove(1000)
    run.remove(1000)
    run.add(1)


def checkpoint(run: Run) -> None:
    run.add(20, 10_000)
    run.add(1)
    run.remove(1)


def long_log(run: Run) -> None:
    """Fill the write-ahead log until the next transaction copies it to the database."""
    run.add(20, 10_000)
    while run.log_size < MAX_WAL_SIZE - 40 * PAGE_SIZE:
        run.add(2, 10_000)
        run.remove(2)


def nothing(directory: Path, books: Books) -> None:
    del directory, books


def filled(directory: Path, books: Books) -> None:
    run = Run(directory, books)
    run.add(200, 10_000)
    run.spool.close()


def much(directory: Path, books: Books) -> None:
    run = Run(directory, books)
    run.add(1200, 1000)
    run.spool.close()


def damaged(directory: Path, books: Books) -> None:
    run = Run(directory, books)
    run.add(9)
    run.spool.close()
    with (directory / "spool").open("r+b") as file:
        file.truncate(5000)
    books.set(9, 9, 8, 8)


def damaged_without_note(directory: Path, books: Books) -> None:
    damaged(directory, books)
    (directory / "spool.lock").unlink()
    books.set(1, 1, 0, 0)


class Scenario(NamedTuple):
    """What is done in each run."""

    prepare: Callable[[Path, Books], None]
    use: Callable[[Run], None]
    first: Callable[[Run], None] | None = None
    """What is done without a fault; None: the fault may happen when the spool is opened."""
    lost: int = 0
    """The row that contains a gap of unknown size."""


SCENARIOS = {
    "everything": Scenario(nothing, everything),
    "overflow": Scenario(filled, overflow, Run.reopen),
    "empty": Scenario(much, empty, Run.reopen),
    "checkpoint": Scenario(nothing, checkpoint, long_log),
    "damaged": Scenario(damaged, everything, lost=9),
    "damaged-without-note": Scenario(damaged_without_note, everything, lost=1),
}


def child(scenario: Scenario, fault: str, number: int, directory: Path, books: Books) -> int:
    """Return 0 if the fault was not reached, otherwise 1."""
    kind, error = FAULTS[fault]
    if scenario.first is None:
        calls.faults_arm(kind, ctypes.c_long(number), error)
    run = Run(directory, books, scenario.lost)
    if scenario.first is not None:
        scenario.first(run)
        calls.faults_arm(kind, ctypes.c_long(number), error)
    scenario.use(run)
    run.spool.close()
    return int(calls.faults_disarm())


def one_run(scenario: Scenario, fault: str, number: int, directory: Path, prepared: Path) -> bool:
    """Return whether the fault was reached."""
    books = Books()
    books.set(*Books.get(BOOKS))
    shutil.copytree(prepared, directory)
    process = os.fork()
    if not process:
        try:
            os._exit(child(scenario, fault, number, directory, books))
        except BaseException:  # noqa: BLE001 - the child must not return
            calls.faults_disarm()
            traceback.print_exc()
            os._exit(2)
    status = os.waitpid(process, 0)[1]
    assert status in {0, 0x100, signal.SIGKILL}, f"{fault} at call {number}: {status:#x}"
    spool = open_spool(directory, max_bytes=MAX_BYTES, clock=Clock())
    books.check(rows(spool), scenario.lost)
    spool.add(batch(spool.last + 1, 1))
    assert rows(spool, spool.last - 1) == [(spool.last, batch(spool.last, 1)[0])]
    spool.close()
    shutil.rmtree(directory)
    return status != 0


BOOKS = Books()


def main(name: str, fault: str, directory: Path, stride: int) -> None:
    """Run one scenario until a run ends before its fault."""
    logging.disable()  # A fault must not hit the log.
    scenario = SCENARIOS[name]
    prepared = directory / "prepared"
    prepared.mkdir()
    scenario.prepare(prepared, BOOKS)
    for number in range(1, MAX_RUNS, stride):
        if not one_run(scenario, fault, number, directory / "run", prepared):
            print(number)  # noqa: T201
            return
    raise AssertionError(f"no end after {MAX_RUNS} system calls")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
