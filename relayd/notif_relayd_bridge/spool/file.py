# SPDX-License-Identifier: Apache-2.0
"""The file of a spool: its lock, its creation, its checks, and what replaces it if it is damaged.

For the spool `PATH`, one process at a time holds the lock on `PATH.lock`. This file also has a
note: the last row that was removed, the last one that was added, and the start of the host. The
note is written with each transaction and not synchronised, so it counts until the host is started
again. It tells an empty spool from one whose file, or whose write-ahead log, is lost.

A new file is complete before it gets its name, so any other file of that name is damaged if there
is a note. Without a note, it is the file of another program, and is left alone. A damaged file is
renamed to `PATH.damaged`, where it replaces an older one, and a new one begins with a gap of
unknown size. The damaged file is renamed first. If the process ends then, the next one finds a note
without a file, and does the same. A file that the disk cannot read is damaged as well. While the
database is open, SQLite itself reports EIO as damage.
"""

import contextlib
import fcntl
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from typing import NamedTuple

from notif_relay import records
from notif_relayd.escaping import printable_path
from notif_relayd.files import check_parent, check_writable
from notif_relayd_bridge.errors import SpoolError

APPLICATION_ID = 0x6E72_6273
"""Identifies a spool among the databases of SQLite; "nrbs" in ASCII."""

VERSION = 1
"""Version of the tables. A file of a newer version is refused, and not replaced."""

PAGE_SIZE = 4096
"""Page size in bytes: that of the page cache, so that a commit writes no more than it has to."""

MAX_WAL_SIZE = 4 * 1024 * 1024
"""Size in bytes to which the write-ahead log is truncated. A larger transaction exceeds it."""

MAX_TIME = 1e12
"""Maximum time of a row, in seconds: no clock that counts from a start of the host reaches it."""

_SCHEMA = {
    "records": "CREATE TABLE records"
    " (id INTEGER PRIMARY KEY, added REAL NOT NULL, record BLOB NOT NULL)",
    "state": "CREATE TABLE state"
    " (boot TEXT NOT NULL, clock_offset REAL NOT NULL, unsynced INTEGER NOT NULL)",
}
"""`records` are the rows, with the time when they were added.

`state` has one row: the start of the host in which the spool was opened last, or an empty string in
a new file; what to add to the clock; and whether the next start of the host means that rows may
have been lost.
"""

_SUFFIXES = ("", "-wal", "-shm", "-journal")
"""Of the files that SQLite uses for one database."""

_HEADER = re.compile(
    rb"SQLite format 3\0.{44}(?P<version>.{4}).{4}(?P<application_id>.{4})", re.DOTALL
)
"""The start of a database: https://www.sqlite.org/fileformat2.html#the_database_header"""

_NOTE = re.compile(rb"(\d{18}) (\d{18}) ([ -~]{36})\n")
_NOTE_SIZE = 75

_INPUT_OUTPUT_ERROR = "disk I/O error"
"""SQLite's text for SQLITE_IOERR; there are no codes before Python 3.11."""

_BOOT_ID = "/proc/sys/kernel/random/boot_id"

_PRAGMAS = (
    # Without the file for shared memory, and no other process can read or write the database.
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    "synchronous = NORMAL",
    f"wal_autocheckpoint = {MAX_WAL_SIZE // PAGE_SIZE}",
    f"journal_size_limit = {MAX_WAL_SIZE}",
    # Debian's default overwrites deleted rows, which would write each record once more.
    "secure_delete = OFF",
    "temp_store = MEMORY",
    "trusted_schema = OFF",
    "cell_size_check = ON",
)


class DamagedError(Exception):
    """The file is missing, damaged, or no spool; the message states the reason."""


class Note(NamedTuple):
    """What the lock file says about the spool."""

    removed: int
    """The last row that was removed."""
    last: int
    """The last row that was added."""
    boot: str
    """The start of the host in which this was written."""

    @property
    def has_rows(self) -> bool:
        """Whether the spool was not empty."""
        return self.removed < self.last


def check_path(path: str, volatile: str) -> None:
    """Check that a spool can be used, without opening it.

    Args:
        path: the file.
        volatile: a directory that may be missing, with a slash at its end.

    Raises:
        SpoolError: it cannot be used.
    """
    try:
        check_parent(path, volatile=volatile)
        exists, *_ = [_is_file(path, path + suffix) for suffix in _SUFFIXES]
        if exists:
            check_writable(path)
            if not _is_file(path, path + ".lock"):
                _check_header(path, is_new=True)
    except OSError as error:
        raise _error(path, error.strerror or str(error)) from error


def _error(spool: str, reason: str) -> SpoolError:
    return SpoolError(f"cannot use the spool {printable_path(spool)}: {reason}")


def _is_file(spool: str, path: str) -> bool:
    """Return whether a regular file exists.

    Raises:
        SpoolError: there is something else, which a misspelt option may name.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise _error(spool, f"{printable_path(path)} is not a regular file; remove it")
    return True


def _check_header(path: str, *, is_new: bool) -> None:
    """Check the start of an existing file.

    Args:
        path: the file.
        is_new: whether there has been no spool at this path.

    Raises:
        DamagedError: it is not that of a spool.
        SpoolError: likewise, and the file is of another program because there has been no spool; or
            the file has a newer version.
    """
    # Before SQLite opens the file: closing any descriptor of it would release SQLite's locks.
    with open(path, "rb") as file:
        try:
            header = _HEADER.match(file.read(100))
        except OSError as error:
            raise DamagedError(error.strerror or str(error)) from error
    problem = ""
    if header is None:
        problem = "it is not a database of SQLite"
    elif int.from_bytes(header["application_id"], "big") != APPLICATION_ID:
        problem = "it is the database of another program"
    if problem and is_new:
        raise _error(path, f"{problem}; correct the path, or remove the file")
    if header is None or problem:
        raise DamagedError(problem)
    version = int.from_bytes(header["version"], "big")
    if version > VERSION:
        raise _error(path, f"its version, {version}, is newer than that of this program")


class SpoolFile:
    """The locked file of a spool.

    Args:
        path: the file, in a directory to which only the bridge can write.

    Raises:
        SpoolError: another process uses the spool, or the lock file cannot be used.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        with self.errors():
            self._fd = self._lock()

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raise `SpoolError` for an error of the system or of SQLite."""
        try:
            yield
        except OSError as error:
            raise self.error(error.strerror or str(error)) from error
        except sqlite3.Error as error:
            raise self.error(str(error)) from error

    def error(self, reason: str) -> SpoolError:
        """Return the error for a reason."""
        return _error(self.path, reason)

    def read_note(self) -> Note | None:
        """Return the note; None if there was no spool.

        Raises:
            SpoolError: the note cannot be read.
        """
        with self.errors():
            note = os.pread(self._fd, _NOTE_SIZE, 0)
        found = _NOTE.fullmatch(note)
        if found is None:
            return Note(0, 0, "") if note else None
        return Note(int(found[1]), int(found[2]), found[3].decode().strip())

    def write_note(self, note: Note) -> None:
        """Write the note.

        Raises:
            SpoolError: it cannot be written.
        """
        line = b"%018d %018d %-36.36b\n" % (note.removed, note.last, note.boot.encode())
        with self.errors():
            os.pwrite(self._fd, line, 0)

    def connect(self) -> sqlite3.Connection:
        """Open the database, and create it if there was none.

        Raises:
            DamagedError: the file is damaged, and has to be replaced.
            SpoolError: the file cannot be used.
            sqlite3.Error: as `SpoolError`; a plain `DatabaseError` as `DamagedError`.
        """
        with self.errors():
            exist = [_is_file(self.path, self.path + suffix) for suffix in _SUFFIXES]
        if not any(exist) and self.read_note() is None:
            self._create(lost=False)
        elif not exist[0]:
            raise DamagedError("the file is missing")
        with self.errors():
            _check_header(self.path, is_new=self.read_note() is None)
            os.chmod(self.path, 0o600)
        try:
            return _connect_checked(self.path)
        except sqlite3.OperationalError as error:
            if str(error) == _INPUT_OUTPUT_ERROR:  # From reading: nothing is written here.
                raise DamagedError(str(error)) from error
            raise

    def replace(self) -> str:
        """Move the file aside, create a new one that has lost rows, and return the old one's name.

        Raises:
            SpoolError: the file cannot be moved or created.
        """
        damaged = self.path + ".damaged"
        if self.read_note() is None:
            self.write_note(Note(0, 0, ""))
        with self.errors():
            os.fsync(self._fd)
            for suffix in _SUFFIXES:
                try:
                    os.rename(self.path + suffix, damaged + suffix)
                except FileNotFoundError:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(damaged + suffix)
            self._sync_directory()
        self._create(lost=True)
        return damaged

    def _create(self, *, lost: bool) -> None:
        new = self.path + ".new"
        with self.errors():
            for suffix in _SUFFIXES:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(new + suffix)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(new, flags, 0o600))
            with contextlib.closing(_connect(new)) as connection:
                connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
                connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
                for table in _SCHEMA.values():
                    connection.execute(table)
                connection.execute("INSERT INTO state VALUES ('', 0, ?)", (lost,))
                connection.execute("COMMIT")
                # Otherwise, SQLite would ignore a full disk when the connection is closed.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            os.rename(new, self.path)
            self._sync_directory()

    def _lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        name = self.path + ".lock"
        _is_file(self.path, name)
        fd = os.open(name, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise self.error("another process uses it; run one bridge per spool") from None
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _sync_directory(self) -> None:
        fd = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def boot_id() -> str:
    """Return what identifies the start of the host; an empty string if that is not known."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error of SQLite means that the file is damaged."""
    # SQLITE_CORRUPT and SQLITE_NOTADB have no other class. There are no codes before Python 3.11.
    return type(error) is sqlite3.DatabaseError


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    # A damaged file may contain text that is not UTF-8.
    connection.text_factory = lambda text: text.decode(errors="replace")
    return connection


def _connect_checked(path: str) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").fetchall()
        _check(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    """Check everything that the spool relies on.

    Raises:
        DamagedError: the file is damaged.
    """
    tables = dict(connection.execute("SELECT name, sql FROM sqlite_master"))
    if tables != _SCHEMA:
        raise DamagedError("its tables are not those of a spool")
    [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise DamagedError(str(found).rpartition("\n")[2])
    [odd] = connection.execute(
        "SELECT count(*) FROM records WHERE id < 1 OR typeof(added) != 'real'"
        " OR added NOT BETWEEN 0 AND ? OR typeof(record) != 'blob' OR length(record) > ?",
        (MAX_TIME, records.MAX_RECORD_SIZE),
    ).fetchone()
    states = connection.execute(
        "SELECT count(*), total(typeof(boot) = 'text' AND typeof(clock_offset) = 'real'"
        " AND abs(clock_offset) <= ? AND unsynced IN (0, 1)) FROM state",
        (MAX_TIME,),
    ).fetchone()
    if odd or states != (1, 1):
        raise DamagedError("its rows are not those of a spool")
