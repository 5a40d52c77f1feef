# SPDX-License-Identifier: Apache-2.0
"""The base class of all commands, and types of arguments."""

import argparse
import os
import threading

from cliff.command import Command

from notif_relayctl.errors import CtlError


class CtlCommand(Command):
    """A command of relayctl. The docstring of a subclass is the help text of the command."""

    example = ""
    """A command line, shown at the end of the help text."""

    def get_epilog(self) -> str:
        """Return the example. cliff's method reads the metadata of all installed distributions."""
        return f"Example: {self.example}"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Return a parser without abbreviations: a later option could change their meaning."""
        parser = super().get_parser(prog_name)
        parser.allow_abbrev = False
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command and return its exit status."""
        try:
            return super().run(parsed_args)
        except ValueError as error:  # cliff raises it for a -c that names no column.
            raise CtlError(str(error)) from None

    def runtime_path(self, name: str) -> str:
        """Return the path of a socket in the runtime directory."""
        return os.path.join(self.app.options.runtime_dir, name)


def number(text: str) -> int:
    """Convert an argument to a number of at least 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def seconds(text: str) -> float:
    """Convert an argument to a positive, finite number of seconds."""
    value = float(text)
    if not 0 < value < threading.TIMEOUT_MAX:
        raise ValueError
    return value
