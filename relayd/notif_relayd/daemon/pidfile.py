# SPDX-License-Identifier: Apache-2.0
"""The pidfile of a daemon in the background.

A lock on a file beside it, which the daemon holds while it runs, decides whether the pidfile is in
use. Its content cannot decide that, because another process may have the same number by now.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from types import TracebackType

from notif_relayd.errors import StartError
from notif_relayd.files import check_writable, named_descriptor, open_node
from notif_relayd.lock_file import locked

MAX_SIZE = 16 * 1024
"""Maximum size of an existing pidfile, in bytes."""

_is_number = re.compile(rb"[-+]?[0-9]*").fullmatch
"""Matches the content of a file that is replaced, without white space at its ends."""

_WHITE_SPACE = b" \t\r\n\0"
"""White space in a pidfile. A crash of the host may leave zero bytes."""


class Pidfile:
    """A pidfile, locked if it is a regular file. As a context, remove it at the end.

    A regular file whose content is not a number is an error, because the path is probably wrong.

    Args:
        path: the file; `-` for standard output.

    Raises:
        StartError: a running daemon uses the file, or it cannot be used.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with contextlib.ExitStack() as stack, _errors(path):
            node = open_node(path, wait=False)
            self._is_regular = node is None
            if node is None:
                try:
                    stack.enter_context(self._lock())
                except BlockingIOError:
                    raise self._in_use() from None
            self._fd = self._open() if node is None else node
            self._stack = stack.pop_all()

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
        self._stack.close()

    def write(self) -> None:
        """Write the number of this process.

        Raises:
            StartError: it cannot be written.
        """
        text = f"{os.getpid()}\n".encode()
        with _errors(self._path):
            if self._is_regular:
                os.pwrite(self._fd, text, 0)
                os.ftruncate(self._fd, len(text))
            else:
                # Close it, because the reader of a pipe waits for its end.
                with open(self._fd, "wb") as node:
                    node.write(text)

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        return locked(_lock_path(self._path), fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _in_use(self) -> StartError:
        holder = "another process"
        with contextlib.suppress(OSError), open(self._path, "rb") as file:
            if found := re.match(rb"[0-9]{1,20}", file.read(MAX_SIZE)):
                holder = f"process {found[0].decode()}"
        return StartError(
            f"--pidfile {self._path} is in use by {holder}: stop it or use another path"
        )

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o644)
        try:
            _check_content(self._path, os.pread(fd, MAX_SIZE + 1, 0))
        except BaseException:
            os.close(fd)
            raise
        return fd


def check_pidfile(path: str) -> None:
    """Check that a pidfile can be written, without writing it.

    Raises:
        StartError: it cannot be. That a running daemon uses it is no error.
    """
    with _errors(path):
        check_writable(path)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                _check_content(path, file.read(MAX_SIZE + 1))
        if named_descriptor(path) is None and (os.path.isfile(path) or not os.path.exists(path)):
            check_writable(_lock_path(path))


def _lock_path(path: str) -> str:
    directory, name = os.path.split(os.path.realpath(path))
    return os.path.join(directory, f".{name}.lock")


@contextlib.contextmanager
def _errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = {
            errno.ENOENT: "create the directory",
            errno.EACCES: "give the daemon's user write permission for the file and its directory",
        }.get(error.errno or 0, "use another path")
        raise StartError(
            f"--pidfile {path} cannot be written: {error.strerror}; {remedy}"
        ) from error


def _check_content(path: str, content: bytes) -> None:
    if len(content) > MAX_SIZE or not _is_number(content.strip(_WHITE_SPACE)):
        raise StartError(
            f"--pidfile {path} is not a pidfile: its content is not a process ID; correct the "
            "path, or remove the file"
        )
