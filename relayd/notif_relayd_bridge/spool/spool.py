# SPDX-License-Identifier: Apache-2.0
"""Notifications on disk while the broker is away: a queue in a SQLite database.

End of the process, also by SIGKILL: what `Spool.add` and `Spool.remove_up_to` have committed stays.

Crash of the host: a transaction is on the disk when SQLite has synchronised its write-ahead log,
which is with the first `add` to an empty spool, every 4 MiB, and in `Spool.close`. Of the later
transactions, the first ones remain, which are usually those older than 30 seconds. So rows that
were added last may be missing, and rows that were removed last may be back. The file is not
damaged. The next process adds a gap of unknown size at the end, unless the spool was empty.

Size: the database stays within `max_bytes`, apart from rows that must be kept and the page of a
gap. The write-ahead log has at most 4 MiB, and twice the size of the largest `add`. The file of a
spool that was full shrinks when the spool is empty. A damaged file is kept until the next one.

Full disk: `add` fails and changes nothing, until there is room. `remove_up_to` may fail as well,
because a removal is written, too. The next process may then return these rows again.

If the spool is full, or rows are too old, the oldest rows are replaced by one gap record with the
number of records. A gap record among them counts with its own number. The sum is unknown if one of
the numbers is.

Age is measured by a clock that counts from the start of the host and cannot be set. Changes of the
date make no difference. Time in which the host is off is not counted.
"""

import contextlib
import dataclasses
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from notif_relayd.escaping import printable, printable_path
from notif_relayd_bridge.errors import SpoolError
from notif_relayd_bridge.spool.file import DamagedError, Note, SpoolFile, boot_id, is_damage
from notif_relayd_bridge.spool.rows import Rows, Totals

LOG = logging.getLogger(__name__)

MIN_MAX_BYTES = 64 * 1024
"""Minimum of `max_bytes`. A spool is useful from several times the size of a record on."""

T = TypeVar("T")


def boot_time() -> float:
    """Return the time since the start of the host in seconds, including suspension."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Spool:
    """A queue of records on disk, of one process. Not thread-safe: one call at a time.

    The rows have ascending numbers, which are not used again.

    Args:
        path: the database; see the module `file` for the others beside it.
        max_bytes: maximum size of the database in bytes, at least 64 KiB.
        max_age: maximum age of a row in seconds; older rows are replaced when the spool is used.
        clock: see `boot_time`.

    Raises:
        SpoolError: another process uses the spool, or the file cannot be used.
        ValueError: max_bytes is too small.
    """

    def __init__(
        self,
        path: str,
        max_bytes: int,
        max_age: float,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        if max_bytes < MIN_MAX_BYTES:
            raise ValueError(f"max_bytes is {max_bytes}, less than {MIN_MAX_BYTES}")
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._clock = clock
        self._boot = boot_id()
        self._clock_offset = 0.0
        self._latest = 0.0
        self._removed = 0
        self._totals = Totals()
        self._closed = False
        self._marked = False
        """Whether the database says on the disk that a crash of the host may lose rows."""
        self._connection: sqlite3.Connection | None = None
        self.replaced: str | None = None
        """Why the last file was moved aside; None if none was."""
        self._file = SpoolFile(path)
        try:
            self._run(int)
        except BaseException:
            self._disconnect()
            self._file.release()
            raise

    @property
    def count(self) -> int:
        """Number of rows, including gap records."""
        return self._totals.count

    @property
    def size(self) -> int:
        """Total size of the records in bytes."""
        return self._totals.size

    @property
    def last(self) -> int:
        """Number of the last row that was ever added; 0 if there was none."""
        return self._totals.last

    @property
    def dropped(self) -> int:
        """Number of records that this object has replaced by gaps; gap records do not count."""
        return self._totals.dropped

    @property
    def oldest(self) -> float | None:
        """Age of the oldest row in seconds; None if there is none."""
        added = self._totals.first_added
        if added is None:
            return None
        return max(0.0, self._latest - added, self._clock_offset + self._clock() - added)

    def report(self) -> dict[str, object]:
        """Return the figures for the status of the bridge; any thread may call this.

        The size is that of the used pages, by which the spool is full.
        """
        oldest = self.oldest
        return {
            "records": self.count,
            "bytes": self._totals.used if self.count else 0,
            "max_bytes": self._max_bytes,
            "oldest_seconds": None if oldest is None else round(oldest, 3),
            "dropped": self.dropped,
        }

    def add(self, records: Sequence[bytes], keep: int = 0) -> None:
        """Append rows, numbered from `last` + 1, in one transaction.

        A record of more than 1 MiB is replaced by a gap.

        Args:
            records: the rows.
            keep: rows up to this one are sent and unconfirmed, and do not become part of a gap,
                even if the spool is full.

        Raises:
            SpoolError: nothing was added.
        """
        if records:
            self._run(lambda: self._add(records, keep))

    def head(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return rows after the row `after`, in order, with their numbers.

        Args:
            after: number of a row, which need not exist; rows after it may be replaced by a gap.
            limit: maximum number of rows. There may be fewer, because of `MAX_HEAD_SIZE`.

        Raises:
            SpoolError: they cannot be read.
        """
        return self._run(lambda: self._head(after, limit))

    def remove_up_to(self, row: int) -> None:
        """Remove all rows up to and including `row`, in one transaction.

        Raises:
            SpoolError: nothing was removed.
        """
        self._run(lambda: self._remove_up_to(min(row, self._totals.last)))

    def close(self) -> None:
        """Synchronise and close the file, and let other processes use it. May be called again."""
        if self._closed:
            return
        self._closed = True
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                with self._transaction(synchronous=True):
                    self._db.execute("UPDATE state SET unsynced = 0")
            self._disconnect()
        self._file.release()

    @property
    def _db(self) -> sqlite3.Connection:
        assert self._connection is not None  # noqa: S101 - see _run
        return self._connection

    def _run(self, action: Callable[[], T]) -> T:
        """Open the file if it is not open, and call `action`; once more after a remedy.

        An action that raises an error has changed nothing.
        """
        with self._file.errors():
            try:
                self._open()
                return action()
            except DamagedError as error:
                self._replace(str(error))
            except sqlite3.Error as error:
                if is_damage(error):
                    self._replace(str(error))
                elif not self._restart_log():
                    raise
            try:
                self._open()
                return action()
            except DamagedError as error:
                raise self._file.error(str(error)) from error

    def _restart_log(self) -> bool:
        """Copy the write-ahead log to the database, and return whether that succeeded.

        The log starts anew then. On a full disk, its file has room for further transactions.
        """
        if self._connection is None:
            return False
        try:
            [busy, *_] = self._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        except sqlite3.Error:
            return False
        return not busy

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _replace(self, reason: str) -> None:
        self._disconnect()
        self._totals.count = self._totals.size = 0
        damaged = self._file.replace()
        self.replaced = reason
        LOG.error(
            "the spool %s is damaged and its records are not sent: %s; it is now %s",
            printable_path(self._file.path),
            printable(reason),
            printable_path(damaged),
        )

    def _open(self) -> None:
        if self._connection is not None:
            return
        if self._closed:
            raise self._file.error("it is closed")
        self._connection = self._file.connect()
        try:
            self._load()
        except BaseException:
            self._disconnect()
            raise

    def _load(self) -> None:
        self._rows = Rows(self._db, self._max_bytes, self._totals)
        last, latest = self._rows.load()
        note = self._file.read_note() or Note(0, 0, "")
        self._removed = note.removed
        self._totals.last = max(self._totals.last, note.last)
        boot, self._clock_offset, unsynced = self._db.execute("SELECT * FROM state").fetchone()
        is_same_boot = boot != "" and boot == self._boot
        lost = note.boot == self._boot != "" and note.has_rows and last < note.last
        if is_same_boot:
            self._marked = bool(unsynced)
        else:
            self._clock_offset = max(latest, self._latest - self._clock())
            self._marked = False
            lost = lost or bool(unsynced)
        self._latest = max(self._latest, latest)
        if lost or not is_same_boot:
            self._begin(last if lost else None)
        if lost and self.replaced is None:
            LOG.error(
                "the spool %s has lost its last records; a gap of unknown size takes their place",
                printable_path(self._file.path),
            )
        self._note_last()

    def _begin(self, last: int | None) -> None:
        """Write the state of the database, and add a gap if rows were lost.

        Args:
            last: the last row that is left; None if no row was lost.
        """
        with self._transaction(synchronous=last is not None):
            if last is not None:
                self._rows.add_lost(last, self._now())
            self._db.execute(
                "UPDATE state SET boot = ?, clock_offset = ?, unsynced = ?",
                (self._boot, self._clock_offset, self._marked),
            )

    @contextlib.contextmanager
    def _transaction(self, *, synchronous: bool = False) -> Iterator[None]:
        before = dataclasses.replace(self._totals)
        if synchronous:
            self._db.execute("PRAGMA synchronous = FULL")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._rows.measure()
            self._db.execute("COMMIT")
        except BaseException:
            self._totals.restore(before)
            with contextlib.suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            raise
        finally:
            if synchronous:
                self._db.execute("PRAGMA synchronous = NORMAL")

    def _now(self) -> float:
        """Return the time for new rows, which does not go back and continues after a restart."""
        self._latest = max(self._latest, self._clock_offset + self._clock())
        return self._latest

    def _add(self, records: Sequence[bytes], keep: int) -> None:
        with self._transaction(synchronous=not self._marked):
            if not self._marked:
                self._db.execute("UPDATE state SET unsynced = 1")
            now = self._now()
            self._rows.expire(keep, now - self._max_age)
            self._rows.append(records, now, keep)
        self._marked = True
        self._note_last()

    def _note_last(self) -> None:
        # The rows are committed. An older note only makes the check of the next process weaker.
        with contextlib.suppress(SpoolError):
            self._file.write_note(Note(self._removed, self.last, self._boot))

    def _head(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        since = self._now() - self._max_age
        first = self._rows.first_added(after)
        if first is not None and first < since:
            # Without room for the transaction, old rows are better than none.
            with contextlib.suppress(sqlite3.OperationalError), self._transaction():
                self._rows.expire(after, since)
        return self._rows.head(after, limit)

    def _remove_up_to(self, row: int) -> None:
        # First, so that a process that ends in between leaves no note of rows that are missing.
        removed = max(row, self._removed)
        self._file.write_note(Note(removed, self.last, self._boot))
        self._removed = removed
        with self._transaction():
            self._rows.remove_up_to(row)
            if not self.count:
                self._db.execute("UPDATE state SET unsynced = 0")
        if not self.count:
            self._marked = False
            self._rows.shrink()
