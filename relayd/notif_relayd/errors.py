# SPDX-License-Identifier: Apache-2.0
"""Errors that are reported to the operator in one line."""

import contextlib
import io
from collections.abc import Callable, Iterator

BY_SIGNAL = 128
"""A command that a signal ended has this exit status plus the number of the signal, as in sh(1)."""


class StartError(Exception):
    """The daemon cannot start; the message states what is wrong, where, and what to do."""


def one_line(error: BaseException) -> str:
    """Return the message of an error, with each sequence of white space replaced by a space."""
    return " ".join(str(error).split())


@contextlib.contextmanager
def usage_errors(make_error: Callable[[str], Exception]) -> Iterator[None]:
    """Raise an error where argparse would print its usage and a message, and exit.

    oslo.config leaves every option that is allowed on the command line to argparse, even if the
    value comes from a file, and even if a running daemon reads the file again.

    Args:
        make_error: called with argparse's message; returns the error to raise.

    Raises:
        SystemExit: an option such as ``--help`` has been handled.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except SystemExit as exiting:
        if not exiting.code:
            raise
        # argparse prints the usage and "PROGRAM: error: MESSAGE", oslo.config only a message.
        last_line = printed.getvalue().strip().rpartition("\n")[2]
        _, found, message = last_line.partition(": error: ")
        raise make_error(message if found else last_line) from None
