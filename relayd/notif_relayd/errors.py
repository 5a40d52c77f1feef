# SPDX-License-Identifier: Apache-2.0
"""Errors that are reported to the operator in one line."""

import contextlib
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from notif_relayd.escaping import printable

UNRECOGNIZED = "unrecognized arguments:"
REQUIRED = "the following arguments are required:"
"""Prefixes of argparse's messages that an unknown option causes."""

CHOICE = re.compile(r"invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)\Z")
"""The end of argparse's message about a value that is not one of the choices."""

BY_SIGNAL = 128
"""A command that a signal ended has this exit status plus the number of the signal, as in sh(1)."""


class StartError(Exception):
    """The daemon cannot start; the message states what is wrong, where, and what to do."""


MAX_MESSAGE = 1000
"""Maximum number of characters of an error message, which may quote a long line of a file."""


def one_line(error: BaseException) -> str:
    """Return the message of an error as printable text in one line, shortened in the middle.

    Each sequence of white space is replaced by a space.
    """
    text = printable(" ".join(str(error).split()))
    if len(text) <= MAX_MESSAGE:
        return text
    return f"{text[: MAX_MESSAGE // 2]}...{text[-MAX_MESSAGE // 2 :]}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelt or abbreviated one probably means, if there is one."""
    import difflib  # noqa: PLC0415 - slow to import, and only necessary after an error

    names = {_folded(each): each for each in known}
    longer = [each for each in names if each.startswith(_folded(name))]
    similar = longer if len(longer) == 1 else difflib.get_close_matches(_folded(name), names, 1)
    return names[similar[0]] if similar else None


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return a message about an unknown name, with the known name that is probably meant."""
    meant = nearest(name, known)
    return f"unknown {what} {name!r}" + (f"; did you mean {meant}?" if meant else "")


def see_help(message: str, command: str) -> str:
    """Return the message with a reference to the help of a command."""
    separator = " See" if message.endswith("?") else "; see"
    return f"{message}{separator} {command} --help"


PrintHelp = Callable[[TextIO], None]


def options_in(*print_help: PrintHelp) -> list[str]:
    """Return the options that help texts of argparse list; it has no other public list."""
    printed = io.StringIO()
    for each in print_help:
        each(printed)
    text = re.sub(r"\x1b\[[\d;]*m", "", printed.getvalue())  # Python 3.14 adds colours
    return re.findall(r"(?:^  |, )(--[\w-]+)", text, re.MULTILINE)


@contextlib.contextmanager
def usage_errors(
    make_error: Callable[[str], Exception], arguments: Sequence[str], *print_help: PrintHelp
) -> Iterator[None]:
    """Raise an error where argparse would print its usage and a message, and exit.

    oslo.config leaves every option that is allowed on the command line to argparse, even if the
    value comes from a file, and even if a running daemon reads the file again.

    Args:
        make_error: called with the message; returns the error to raise.
        arguments: the command line.
        print_help: print the help texts, from which the known options are taken.

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
        message = message if found else last_line
        known = options_in(*print_help)
        option = _unknown_option(message, arguments, known)
        message = unknown("option", option, known) if option else _with_choice(message)
        raise make_error(message) from None


def _with_choice(message: str) -> str:
    """Return a message of argparse, with the choice that is probably meant, if there is one."""
    if (parts := CHOICE.search(message)) is None:
        return message
    meant = nearest(parts["value"], re.findall(r"[^', ]+", parts["choices"]))
    return f"{message}; did you mean {meant}?" if meant else message


def _unknown_option(message: str, arguments: Sequence[str], known: Sequence[str]) -> str | None:
    """Return the option that causes a message of argparse, if an unknown option does."""
    words: Iterable[str] = ()
    if message.startswith(UNRECOGNIZED):
        words = (word for word in message.split() if word.startswith("-"))
    elif message.startswith(REQUIRED):
        # argparse does not mention the misspelt option.
        before_operands = itertools.takewhile("--".__ne__, arguments)
        words = (word for word in before_operands if word.startswith("--"))
    return next((name for word in words if (name := word.partition("=")[0]) not in known), None)
