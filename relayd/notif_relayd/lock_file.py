# SPDX-License-Identifier: Apache-2.0
"""Locks that no other user can hold.

A process that can open a file, even only for reading, can hold a lock on it. A lock that decides
whether the daemon starts is therefore on a file that only the daemon's user can open.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from notif_relayd.errors import StartError
from notif_relayd.files import lock


@contextlib.contextmanager
def locked(path: str, operation: int) -> Iterator[None]:
    """Context in which this process and its children hold a lock on a file, which exists for it.

    Args:
        path: the file.
        operation: that of flock(2).

    Raises:
        BlockingIOError: the operation does not wait, and another process has locked the file.
        OSError: the file cannot be created or locked.
        StartError: another user may have opened the file.
    """
    fd = lock(path, _open_own, operation)
    try:
        yield
    finally:
        # Removed while it is locked: a process that waits for the lock notices it in `lock`.
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(fd)


def _open_own(path: str) -> int:
    """Open or create a file that no other user can have opened."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        # The path may be a directory, a link, a socket or the file of another user. If nothing is
        # there, the directory is the problem.
        if error.errno == errno.ENOENT or not os.path.lexists(path):
            raise
    else:
        status = os.fstat(fd)
        mine = status.st_uid == os.geteuid() and not status.st_mode & 0o077
        if stat.S_ISREG(status.st_mode) and mine:
            return fd
        os.close(fd)
    raise StartError(
        f"{path} is not a file that only the daemon's user, uid {os.geteuid()}, can open: remove it"
    )
