# SPDX-License-Identifier: Apache-2.0
"""Standard streams that are closed, full or a broken pipe, or whose encoding is not UTF-8.

As with coreutils, output that cannot be written is an error in one line with exit status 1, a
broken pipe ends the program without a message, and a closed stream is an error only if it is used.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from notif_relayd.errors import BY_SIGNAL
from notif_relayd.escaping import escaped

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2

ESCAPE = "notif_relayd.escape"
"""Name of the error handler for characters that the encoding of a stream lacks."""


class OutputError(Exception):
    """Standard output cannot be written.

    This is no OSError, because argparse, autopage, oslo.config and rich handle some of them.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}")
        self.is_broken_pipe = isinstance(error, BrokenPipeError)


def run(program: str, main: Callable[[Sequence[str]], int]) -> int:
    """Run a program with checked standard streams and return its exit status.

    Args:
        program: name at the beginning of an error message.
        main: takes the arguments and returns the exit status.
    """
    _open_closed_streams()
    codecs.register_error(ESCAPE, _escape)
    output = _Output(STDOUT)
    sys.stdout = _text(output, sys.stdout.encoding, line_buffering=output.isatty())
    try:
        try:
            return main(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except OutputError as error:
        output.discards = True  # The interpreter flushes the buffers once more.
        if error.is_broken_pipe:
            return BY_SIGNAL + signal.SIGPIPE
        sys.stderr.write(f"{program}: {error}\n")
        return 1


def ignore_errors_of_stderr() -> None:
    """Discard what standard error does not accept, as there is no other place to report it."""
    sys.stderr = _text(_Diagnostics(STDERR), sys.stderr.encoding, line_buffering=True)


def was_closed(descriptor: int) -> bool:
    """Return whether a descriptor from 0 to 2 was closed when the program started."""
    # A descriptor that another program has passed is inheritable; those opened below are not.
    return not os.get_inheritable(descriptor)


def _open_closed_streams() -> None:
    """Open the closed ones of the descriptors 0, 1 and 2, so that no socket gets its number.

    Input and output are opened in the wrong direction, and therefore fail as if they were closed.
    Standard error accepts messages and discards them.
    """
    if sys.stdin is None:
        # os.open returns the lowest number that is free.
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_WRONLY), closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", closefd=False)


def _text(raw: io.FileIO, encoding: str, line_buffering: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors=ESCAPE, line_buffering=line_buffering
    )


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return escaped(error.object[error.start : error.end]), error.end


class _Output(io.FileIO):
    """Standard output."""

    discards = False
    """Whether all data is discarded."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: ReadableBuffer) -> int:
        """Write data and return the number of bytes that were written.

        Raises:
            OutputError: nothing can be written.
        """
        if self.discards:
            return memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError as error:
            raise OutputError(error) from error
        if written is None:
            raise OutputError(OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
        return written


class _Diagnostics(io.FileIO):
    """Standard error; what it does not accept is discarded."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: ReadableBuffer) -> int:
        """Write data and return the number of bytes that were written or discarded."""
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written
