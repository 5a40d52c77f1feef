# SPDX-License-Identifier: Apache-2.0
"""The pidfile of a daemon in the background.

A lock on the file, which the daemon holds while it runs, decides whether the file is in use. Its
content cannot decide that, because another process may have the same number by now.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from types import TracebackType

from notif_relayd.errors import StartError
from notif_relayd.files import lock, open_node

MAX_SIZE = 64
"""Maximum size of a pidfile, in bytes. A larger file whose content is not a number is not replaced,
because the path is probably wrong."""

_DIGITS = re.compile(rb"[-+0-9\s\0]*")
"""Content of a file of any size that is replaced. A crash of the host may leave zero bytes."""

_HEAD = 4096
"""Bytes of a larger file that are examined."""


class Pidfile:
    """A pidfile, locked if it is a regular file. As a context, remove it at the end.

    Args:
        path: the file; `-` for standard output.

    Raises:
        StartError: a running daemon uses the file, or it cannot be used.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with self._errors():
            node = open_node(path, wait=False)
            self._is_regular = node is None
            self._fd = self._locked() if node is None else node

    def __enter__(self) -> "Pidfile":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._is_regular:
            with contextlib.suppress(OSError):
                # Through a link, the file stays, without a number that may be used again.
                os.ftruncate(self._fd, 0)
                if os.path.samestat(os.fstat(self._fd), os.lstat(self._path)):
                    os.unlink(self._path)
            os.close(self._fd)

    def write(self) -> None:
        """Write the number of this process.

        Raises:
            StartError: it cannot be written.
        """
        text = f"{os.getpid()}\n".encode()
        with self._errors():
            if self._is_regular:
                os.pwrite(self._fd, text, 0)
                os.ftruncate(self._fd, len(text))
            else:
                # Close it, because the reader of a pipe waits for its end.
                with open(self._fd, "wb") as node:
                    node.write(text)

    def _locked(self) -> int:
        try:
            fd = lock(self._path, _open, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with open(self._path, "rb") as file:
                found = re.match(rb"[0-9]{1,20}", file.read(_HEAD))
            holder = f"process {found[0].decode()}" if found else "another process"
            raise StartError(
                f"--pidfile {self._path} is in use by {holder}: stop it or use another path"
            ) from None
        size = os.fstat(fd).st_size
        if size > MAX_SIZE and not _DIGITS.fullmatch(os.pread(fd, _HEAD, 0)):
            os.close(fd)
            raise StartError(
                f"--pidfile {self._path} is not a pidfile: it has {size} bytes; correct the path, "
                "or remove the file"
            )
        return fd

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            remedy = {
                errno.ENOENT: "create the directory",
                errno.EACCES: "give the daemon's user write permission",
            }.get(error.errno or 0, "use another path")
            raise StartError(
                f"--pidfile {self._path} cannot be written: {error.strerror}; {remedy}"
            ) from error


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(path, flags, 0o644)
