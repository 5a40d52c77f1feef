# SPDX-License-Identifier: Apache-2.0
"""The program relayctl: options, help, and errors in one line.

relayctl uses cliff because OpenStack's operators know its options -f and -c. Only cliff's commands,
help and output formats are used, not its interactive shell, log file and verbosity levels.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cliff.app import App
from cliff.command import Command

from notif_relay import paths
from notif_relay.version import __version__
from notif_relayctl.command import path
from notif_relayctl.command_table import PROGRAM, Commands
from notif_relayctl.errors import CtlError
from notif_relayctl.instances import instance_directory
from notif_relayd.errors import (
    BY_SIGNAL,
    one_line,
    options_in,
    see_help,
    unknown,
    usage_errors,
)
from notif_relayd.escaping import printable


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status."""
    try:
        return _run(list(arguments))
    except CtlError as error:
        # The message may quote arguments, records, or the answer of a program other than the relay.
        sys.stderr.write(f"{PROGRAM}: {printable(one_line(error))}\n")
        return error.exit_status
    except KeyboardInterrupt as interrupt:
        # A command that restores the terminal turns another signal into KeyboardInterrupt with the
        # number of the signal.
        return BY_SIGNAL + int(interrupt.args[0] if interrupt.args else signal.SIGINT)
    except OSError as error:  # for example, the terminal no longer exists
        sys.stderr.write(f"{PROGRAM}: {printable(str(error))}\n")
        return 1


def _run(arguments: list[str]) -> int:
    relayctl = Relayctl()  # Before the redirection, because it keeps sys.stderr for the commands.
    try:
        return relayctl.run(arguments)
    except SystemExit as exiting:
        if exiting.code:
            raise
        return 0


class Relayctl(App):
    """The cliff application."""

    NAME = PROGRAM

    def __init__(self) -> None:
        commands = Commands()
        super().__init__(
            description="Query, watch and test the notification relay of this host.",
            version=__version__,
            command_manager=commands,
        )
        commands.load_all()

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, Any] | None = None,
    ) -> argparse.ArgumentParser:
        """Return the parser of the global options, which may precede or follow the command."""
        parser = argparse.ArgumentParser(
            prog=self.NAME,
            usage="%(prog)s [--instance NAME | --runtime-dir DIR | --control-path PATH] "
            "COMMAND ...",
            description=description,
            epilog="Exit status: 0 success, 1 error, 3 relay or bridge not running, 4 permission "
            "denied.",
            add_help=False,
            allow_abbrev=False,
            **argparse_kwargs or {},
        )
        parser.add_argument(
            "--runtime-dir",
            type=path,
            metavar="DIR",
            default=paths.RUNTIME_DIR,
            help="directory of the relay's sockets (default: that of relayd.conf, or %(default)s)",
        )
        parser.add_argument(
            "--instance",
            metavar="NAME",
            dest="runtime_dir",
            type=instance_directory,
            help=f"use the relay notif-relayd@NAME, whose sockets are in {paths.RUNTIME_DIR}/NAME",
        )
        parser.add_argument(
            "--control-path",
            type=path,
            metavar="PATH",
            help=f"the control socket (default: {paths.CONTROL_SOCKET} in that directory)",
        )
        parser.add_argument("--version", action="version", version=f"{self.NAME} {version}")
        parser.add_argument(
            "-h", "--help", action="store_true", help="show this help, or the help of a command"
        )
        return parser

    def run(self, argv: list[str]) -> int:
        """Run the command that the arguments name, or show the help if they name none."""
        command, parsed = self.parse(argv)
        return command.run(parsed)

    def parse(self, argv: list[str]) -> tuple[Command, argparse.Namespace]:
        """Return the command that the arguments name, and its parsed arguments."""
        with self._usage_errors(argv, self.parser):
            self.options, words = self.parser.parse_known_args(argv)
        if self.options.help or not words:
            words = ["help", *words[:1]]
        if words[0].startswith("-"):
            self._refuse_option(words[0].partition("=")[0])
        command_class, name, remaining = self.command_manager.find_command(words)
        command = command_class(self, self.options)
        parser = command.get_parser(f"{self.NAME} {name}")
        # Not while the command runs: its own messages on standard error must be printed.
        with self._usage_errors(remaining, parser, self.parser):
            return command, parser.parse_args(remaining)

    def _refuse_option(self, option: str) -> NoReturn:
        message = unknown("global option", option, options_in(self.parser.print_help))
        if not message.endswith("?"):
            message += "; the options of a command follow its name"
        raise CtlError(see_help(message, self.NAME))

    @staticmethod
    def _usage_errors(
        arguments: list[str], *parsers: argparse.ArgumentParser
    ) -> contextlib.AbstractContextManager[None]:
        """Raise an error that names the help of the first parser."""
        return usage_errors(
            lambda message: CtlError(see_help(message, parsers[0].prog)),
            arguments,
            *(parser.print_help for parser in parsers),
        )
