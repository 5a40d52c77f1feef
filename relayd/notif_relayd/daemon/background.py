# SPDX-License-Identifier: Apache-2.0
"""The daemon in the background, and its pidfile."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence

from daemon import DaemonContext
from daemon.pidfile import TimeoutPIDLockFile
from lockfile import Error as LockError

from notif_relayd.errors import StartError


@contextlib.contextmanager
def background(pidfile: str | None, sockets: Sequence[socket.socket]) -> Iterator[None]:
    """Continue in a background process; the foreground process exits with status 0.

    Args:
        pidfile: holds the process ID inside the context; `None` for no file.
        sockets: stay open, as the log files do; all other descriptors are closed.

    Raises:
        StartError: the pidfile cannot be used.
    """
    log_files = [getattr(handler, "stream", None) for handler in logging.getLogger().handlers]
    context = DaemonContext(
        detach_process=True,
        files_preserve=[*sockets, *(each for each in log_files if each is not None)],
        pidfile=_pid_lock(pidfile) if pidfile else None,
        umask=0o022,
    )
    with context:
        yield


def _pid_lock(path: str) -> TimeoutPIDLockFile:
    """Return the lock for a pidfile, after every check that is possible before the fork.

    The file of a process that no longer exists is removed. A file with any other content is not,
    because the path may be wrong.
    """
    lock = TimeoutPIDLockFile(path, acquire_timeout=0)
    try:
        pid = lock.read_pid()
        if pid is not None and _exists(pid):
            raise StartError(f"--pidfile {path} is in use by process {pid}: stop it first")
        if pid is not None or (lock.is_locked() and not os.path.getsize(path)):
            lock.break_lock()
        lock.acquire()
        lock.release()
    except (OSError, LockError) as error:
        raise StartError(f"--pidfile {path} cannot be used: {error}") from error
    return lock


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # The process belongs to another user.
    return True
