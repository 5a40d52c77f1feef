# SPDX-License-Identifier: Apache-2.0
"""The rows of a spool. The callers make the transactions."""

import contextlib
import dataclasses
import math
import sqlite3
from collections.abc import Sequence

from notif_relay import records as library
from notif_relayd_bridge.spool.file import PAGE_SIZE
from notif_relayd_bridge.spool.missing import Missing

MAX_HEAD_SIZE = 4 * 1024 * 1024
"""Size in bytes after which `Spool.head` returns no further row."""

_RESERVED_PAGES = 8
"""Pages for the tables themselves, for a gap record, and for the inner nodes of the tree."""

_MAX_STRIDE = 64
"""Pages that are made free at once, at most; a spool of 256 MiB stays full except for 0.1 %."""

_SHRINK_PAGES = 256
"""Pages of an empty spool from which its file is written anew."""

_MAX_DROPPED_ROWS = 1000
"""Rows that are replaced by a gap at once."""


@dataclasses.dataclass(slots=True)
class Totals:
    """Figures of a spool."""

    count: int = 0
    """Number of rows."""
    size: int = 0
    """Total size of the records in bytes."""
    last: int = 0
    """Number of the last row that was ever added."""
    dropped: int = 0
    """Number of records that were replaced by gaps, without gap records."""
    used: int = 0
    """Size of the used pages in bytes."""
    first_added: float | None = None
    """Time of the oldest row; None if there is none."""

    def restore(self, before: "Totals") -> None:
        """Take the figures of an earlier moment."""
        self.count, self.size = before.count, before.size
        self.last, self.dropped = before.last, before.dropped
        self.used, self.first_added = before.used, before.first_added


class Rows:
    """The rows of an open spool.

    Args:
        connection: the database.
        max_bytes: maximum size of the database in bytes.
        totals: the figures, which the methods keep.
    """

    def __init__(self, connection: sqlite3.Connection, max_bytes: int, totals: Totals) -> None:
        self._db = connection
        self._max_pages = max_bytes // PAGE_SIZE - _RESERVED_PAGES
        self._stride = min(_MAX_STRIDE, self._max_pages // 16)
        self._totals = totals

    def load(self) -> tuple[int, float]:
        """Compute the figures; return the number of the last row that exists, and its time."""
        totals = self._totals
        totals.count, size, last, latest = self._db.execute(
            "SELECT count(*), total(length(record)), ifnull(max(id), 0), ifnull(max(added), 0.0)"
            " FROM records"
        ).fetchone()
        totals.size = int(size)
        totals.last = max(totals.last, last)
        self.measure()
        return last, latest

    def measure(self) -> None:
        """Compute the size and the age of the rows; call it at the end of each transaction."""
        self._totals.used = self._used_pages() * PAGE_SIZE
        self._totals.first_added = self.first_added(0)

    def append(self, records: Sequence[bytes], now: float, keep: int = 0) -> None:
        """Append rows; see `Spool.add`."""
        totals = self._totals
        room = 0
        for record in records:
            totals.last += 1
            pages = len(record) // PAGE_SIZE + 2
            if pages > room:
                room = self._make_room(pages, keep)
            fits = pages <= room or totals.last <= keep
            if fits and len(record) <= library.MAX_RECORD_SIZE:
                self._insert(totals.last, now, record)
                room -= pages
            else:
                self._omit(record, now, keep)
                room = 0

    def add_lost(self, last: int, now: float) -> None:
        """Add a gap of unknown size after the row `last`, the last one that is left.

        It takes the number of the last row that was added, if that is lost. So the user of a spool
        does not find it if it has read all rows, and the numbers of new rows are those it expects.
        """
        if last == self._totals.last:
            self._totals.last += 1
        self._insert(self._totals.last, now, library.gap(None, "spool_lost"))

    def head(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return rows; see `Spool.head`."""
        rows: list[tuple[int, bytes]] = []
        size = 0
        query = "SELECT id, record FROM records WHERE id > ? ORDER BY id LIMIT ?"
        with contextlib.closing(self._db.execute(query, (after, limit))) as cursor:
            for row, record in cursor:
                rows.append((row, record))
                size += len(record)
                if size >= MAX_HEAD_SIZE:
                    break
        return rows

    def first_added(self, after: int) -> float | None:
        """Return the time of the first row after the row `after`; None if there is none."""
        row = self._db.execute(
            "SELECT added FROM records WHERE id > ? ORDER BY id LIMIT 1", (after,)
        ).fetchone()
        return None if row is None else row[0]

    def expire(self, keep: int, since: float) -> None:
        """Replace the rows that were added before `since` by a gap, except up to `keep`."""
        while self._drop(keep, "spool_expired", since=since):
            pass

    def remove_up_to(self, row: int) -> None:
        """Remove rows; see `Spool.remove_up_to`."""
        count, size = self._db.execute(
            "SELECT count(*), total(length(record)) FROM records WHERE id <= ?", (row,)
        ).fetchone()
        self._db.execute("DELETE FROM records WHERE id <= ?", (row,))
        self._totals.count -= count
        self._totals.size -= int(size)

    def shrink(self) -> None:
        """Truncate the file of an empty spool if it is large."""
        if self._pragma("page_count") > _SHRINK_PAGES:
            with contextlib.suppress(sqlite3.OperationalError):
                self._db.execute("VACUUM")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _insert(self, row: int, added: float, record: bytes) -> None:
        self._db.execute("INSERT INTO records VALUES (?, ?, ?)", (row, added, record))
        self._totals.count += 1
        self._totals.size += len(record)

    def _pragma(self, name: str) -> int:
        value: int = self._db.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    def _used_pages(self) -> int:
        return self._pragma("page_count") - self._pragma("freelist_count")

    def _make_room(self, pages: int, keep: int) -> int:
        """Replace rows by a gap until there are free pages; return the number of free pages."""
        while True:
            room = self._max_pages - self._used_pages()
            if room >= pages:
                return room
            wanted = max(pages - room, self._stride) * PAGE_SIZE
            if not self._drop(keep, "spool_full", size=wanted):
                return room

    def _drop(
        self,
        keep: int,
        reason: library.GapReason,
        *,
        since: float = math.inf,
        size: float = math.inf,
    ) -> bool:
        """Replace the oldest rows by a gap, in the place of the last of them.

        Args:
            keep: rows up to this one stay.
            reason: reason of the gap.
            since: rows that were added at this time or later stay.
            size: number of bytes after which the others stay.

        Returns:
            Whether anything has changed. A gap alone stays as it is.
        """
        gap = Missing()
        end = None
        query = (
            "SELECT id, added, length(record), CASE WHEN length(record) <= ? THEN record END"
            " FROM records WHERE id > ? ORDER BY id LIMIT ?"
        )
        arguments = (library.MAX_GAP_SIZE, keep, _MAX_DROPPED_ROWS)
        with contextlib.closing(self._db.execute(query, arguments)) as cursor:
            for row, added, length, small in cursor:
                if added >= since or gap.bytes >= size:
                    break
                end = row, added
                gap.add(length, small)
        if end is None or (gap.rows == 1 and not gap.dropped):
            return False
        self._db.execute("DELETE FROM records WHERE id > ? AND id <= ?", (keep, end[0]))
        self._insert_gap(gap, reason, *end)
        return True

    def _omit(self, record: bytes, now: float, keep: int) -> None:
        """Add a gap in place of a record, and merge it with a gap before it."""
        gap = Missing()
        previous = self._db.execute(
            "SELECT id, record FROM records WHERE id > ? ORDER BY id DESC LIMIT 1", (keep,)
        ).fetchone()
        if previous is not None and library.gap_report(previous[1]) is not None:
            gap.add(len(previous[1]), previous[1])
            self._db.execute("DELETE FROM records WHERE id = ?", previous[:1])
        self._totals.count += 1
        self._totals.size += len(record)
        gap.add(len(record), record)
        self._insert_gap(gap, "spool_full", self._totals.last, now)

    def _insert_gap(self, gap: Missing, reason: library.GapReason, row: int, added: float) -> None:
        self._totals.count -= gap.rows
        self._totals.size -= gap.bytes
        self._totals.dropped += gap.dropped
        self._insert(row, added, library.gap(gap.number, reason))
