# SPDX-License-Identifier: Apache-2.0
"""Standard input, output and error, any of which may be closed."""

import contextlib
import os
import sys

from notif_relayd.errors import StartError
from notif_relayd.settings import PROGRAM

STDOUT, STDERR = 1, 2


def occupy_closed() -> None:
    """Open /dev/null in place of each closed descriptor from 0 to 2.

    Otherwise a socket or a file would get this number, and everything that is written to standard
    error would reach it. The stream in `sys` remains `None`, which shows that it was closed.
    """
    for fd in range(STDERR + 1):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def open_closed() -> None:
    """Provide each stream in `sys` that is `None`; `occupy_closed` has opened its descriptor."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(fd, "w" if fd else "r", encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, stream)


def is_journal(fd: int) -> bool:
    """Return whether systemd has connected a descriptor to the journal."""
    # systemd.exec(5), JOURNAL_STREAM: device and inode of the journal's stream.
    status = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def report(message: str) -> None:
    """Write a message to standard error; if that is closed, to standard output."""
    stream = sys.stderr or sys.stdout
    if stream is not None:
        with contextlib.suppress(OSError):
            _write(stream.fileno(), f"{PROGRAM}: {message}")


def print_ok() -> None:
    """Print "ok", except to the journal, which shows the result of the command itself.

    Raises:
        StartError: it cannot be written.
    """
    if sys.stdout is None:
        raise StartError("cannot write to standard output: it is closed")
    if not is_journal(STDOUT):
        try:
            _write(STDOUT, "ok")
        except OSError as error:
            raise StartError(f"cannot write to standard output: {error.strerror}") from error


def _write(fd: int, line: str) -> None:
    # Without the buffer of the stream, which would be written again at exit after an error.
    os.write(fd, f"{line}\n".encode(errors="backslashreplace"))
