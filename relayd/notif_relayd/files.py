# SPDX-License-Identifier: Apache-2.0
"""Writing and locking of files that an option names.

An output may be anything that can be written to: a regular file, a device such as /dev/null, a
FIFO, a link to one of them, or an open descriptor such as /dev/stdout. Only a regular file is ever
replaced or removed. Everything else is opened and written to.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable

STANDARD_OUTPUT = "-"
"""Path that stands for standard output."""

_NAMED_DESCRIPTORS = {STANDARD_OUTPUT: 1, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})")


def write_output(path: str, data: bytes) -> None:
    """Write a file; replace a regular file atomically.

    Like a redirection of the shell, this waits for a reader of a FIFO.

    Raises:
        OSError: it cannot be written.
    """
    fd = open_node(path, wait=True)
    if fd is None:
        _replace(os.path.realpath(path), data)
        return
    with open(fd, "wb") as node:
        node.write(data)


def open_node(path: str, *, wait: bool) -> int | None:
    """Open an existing output that is not a regular file; return its descriptor.

    Args:
        path: the output; `STANDARD_OUTPUT` for standard output.
        wait: whether to wait for a process that reads a FIFO, instead of raising an error.

    Returns:
        `None` if the path is a regular file or does not exist.

    Raises:
        OSError: it cannot be opened.
    """
    number = named_descriptor(path)
    if number is not None:
        # Opening the path would write to the start of a regular file.
        return os.dup(number)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode):
        return None
    flags = os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags if wait else flags | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISFIFO(mode):
            raise OSError(errno.ENXIO, "no process reads from this FIFO", path) from None
        raise
    os.set_blocking(fd, True)
    return fd


def check_writable(path: str) -> None:
    """Check that a log or a pidfile can be written.

    A regular file is neither opened nor created. Everything else is opened for a moment, because
    only this shows whether a process reads a FIFO. If it has no other writer, this process reads
    its end.

    Raises:
        OSError: it cannot be written.
    """
    node = open_node(path, wait=False)
    if node is not None:
        os.close(node)
        return
    target = os.path.realpath(path)
    if not os.path.exists(target):
        target = os.path.dirname(target)
        os.stat(target)
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def check_parent(path: str, *, volatile: str) -> None:
    """Check that a file can be created in the directory of a path.

    Args:
        path: the file.
        volatile: a directory, with a slash at its end. Directories in it, and itself, may be
            missing, because they are created before the program starts.

    Raises:
        OSError: it cannot be created.
    """
    directory = os.path.realpath(os.path.dirname(path))
    if f"{directory}/".startswith(volatile) and not os.path.lexists(directory):
        return
    if not stat.S_ISDIR(os.stat(directory).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def named_descriptor(path: str) -> int | None:
    """Return the number of the open descriptor that a path such as /dev/stdout stands for."""
    described = _DESCRIPTOR.fullmatch(path)
    return int(described[1]) if described else _NAMED_DESCRIPTORS.get(path)


def lock(path: str, open_file: Callable[[str], int], operation: int) -> int:
    """Open and lock a file that other processes may remove; return its descriptor.

    Args:
        path: the file.
        open_file: opens it, and creates it if it is missing.
        operation: that of flock(2).

    Raises:
        BlockingIOError: the operation does not wait, and another process has locked the file.
        OSError: the file cannot be opened or locked.
    """
    while True:
        fd = open_file(path)
        try:
            fcntl.flock(fd, operation)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path)):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # The previous holder has removed the file.


def _replace(path: str, data: bytes) -> None:
    # With O_EXCL, no other user can provide the temporary file or a link in its place.
    temporary = f"{path}.{secrets.token_hex(8)}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(fd, stat.S_IMODE(os.stat(path).st_mode))
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
