# SPDX-License-Identifier: Apache-2.0
"""The base class of all commands, and types of arguments."""

import argparse
import re
import threading

from cliff.command import Command

from notif_relay import paths
from notif_relayctl.errors import CtlError
from notif_relayctl.location import socket_path

COLUMN_OPTIONS = {
    "columns": "show only this column; may be repeated; columns: {}",
    "sort_columns": "sort by this column; may be repeated, and the first one takes precedence",
    "variables": argparse.SUPPRESS,
}
"""Help texts of cliff's options whose values are columns. cliff ignores an unknown column."""

DIGITS = re.compile("[0-9]{1,100}")
"""A number in an argument. int() also accepts spaces, underscores and other digits."""


class CtlCommand(Command):
    """A command of relayctl. The docstring of a subclass is the help text of the command."""

    example = ""
    """A command line, shown at the end of the help text."""

    columns: tuple[str, ...] = ()
    """Names of the columns, if the command shows a table."""

    def get_epilog(self) -> str:
        """Return the example. cliff's method reads the metadata of all installed distributions."""
        return f"Example: {self.example}"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return the parser; a subclass adds options."""
        try:
            parser = super().get_parser(prog_name)
        except ValueError:
            raise CtlError("CLIFF_MAX_TERM_WIDTH in the environment is not a number") from None
        # A later option could change the meaning of an abbreviation.
        parser.allow_abbrev = False
        for action in parser._actions:  # noqa: SLF001 - cliff's options, added before
            if action.dest == "max_width":
                action.type = columns_or_0
            if action.dest in COLUMN_OPTIONS:
                action.type, action.choices = column, self.columns
                action.help = COLUMN_OPTIONS[action.dest].format(", ".join(self.columns))
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command and return its exit status."""
        try:
            return super().run(parsed_args)
        except ValueError as error:  # A path in the answer of another program contains a null byte.
            raise CtlError(str(error)) from None

    def runtime_path(self, name: str) -> str:
        """Return the path of a socket of the relay that the options select."""
        return socket_path(self.app.options.runtime_dir, name)

    @property
    def control_path(self) -> str:
        """The control socket."""
        return self.app.options.control_path or self.runtime_path(paths.CONTROL_SOCKET)


def column(text: str) -> str:
    """Convert an argument to the name of a column, as cliff does."""
    return text.strip().lower().replace(" ", "_")


def utf8(text: str) -> str:
    """Convert an argument to text, also in a locale whose encoding is not that of the argument."""
    try:
        return text.encode(errors="surrogateescape").decode()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not valid UTF-8") from None


def path(text: str) -> str:
    """Return an argument that names a file. An empty one would select the default."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def number(text: str) -> int:
    """Convert an argument to a number of at least 1."""
    if not DIGITS.fullmatch(text) or (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def columns_or_0(text: str) -> int:
    """Convert an argument to a number of columns."""
    if not DIGITS.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def seconds(text: str) -> float:
    """Convert an argument to a positive, finite number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds greater than 0")
    return value
