# SPDX-License-Identifier: Apache-2.0
"""relayctl as a program: options, help, and one line for whatever goes wrong.

cliff was chosen because OpenStack's operators know its -f and -c. Of its application we keep the
commands, the help and the formats. What else it brings is for a client with many commands: an
interactive shell, a log file, levels of verbosity. The commands are listed here and not found
through entry points, since nobody is to add any and a search costs every start.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from cliff.app import App
from cliff.command import Command

from notif_relay import paths
from notif_relay.version import __version__
from notif_relayctl.command_table import PROGRAM, Commands
from notif_relayctl.errors import CtlError
from notif_relayd.escaping import printable

BY_SIGNAL = 128
"""What a shell adds to the number of the signal that ended a command."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit status."""
    try:
        status = _run(list(arguments))
        if not sys.stdout.closed:  # as a pager for the help leaves it
            sys.stdout.flush()
        return status
    except CtlError as error:
        # It may quote arguments, records, or what something else than the relay has answered.
        sys.stderr.write(f"{PROGRAM}: {printable(' '.join(str(error).split()))}\n")
        return error.exit_status
    except KeyboardInterrupt as interrupt:
        # A command that has to tidy up makes one of another signal, with its number.
        return BY_SIGNAL + int(interrupt.args[0] if interrupt.args else signal.SIGINT)
    except OSError as error:
        # Of standard output. The interpreter must not try to write the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return BY_SIGNAL + signal.SIGPIPE
        sys.stderr.write(f"{PROGRAM}: the output cannot be written: {error.strerror}\n")
        return 1


def _run(arguments: list[str]) -> int:
    relayctl = Relayctl()  # Commands write to the standard error that it finds now.
    complaint = io.StringIO()
    try:
        # Only here: a command's own messages would be lost, and kept in memory.
        with contextlib.redirect_stderr(complaint):
            command, parsed = relayctl.parse(arguments)
        return command.run(parsed)
    except SystemExit as leaving:
        if not leaving.code:
            return 0
        # argparse prints its usage before what is wrong.
        wrong = complaint.getvalue().strip().rpartition("error: ")[2]
        raise CtlError(f"{wrong}; see {PROGRAM} help") from None


class Relayctl(App):
    """The application."""

    NAME = PROGRAM

    def __init__(self) -> None:
        commands = Commands()
        super().__init__(
            description="Tells how the notification relay of this host is doing, and tries it out.",
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
        """The options for all commands; they may stand before or after the command."""
        parser = argparse.ArgumentParser(
            prog=self.NAME,
            usage="%(prog)s [--runtime-dir DIR | --control-path PATH] COMMAND ...",
            description=description,
            epilog="Exit status: 0 done, 3 the relay does not run, 4 you may not, 1 else.",
            add_help=False,
            allow_abbrev=False,
            **argparse_kwargs or {},
        )
        parser.add_argument(
            "--runtime-dir",
            metavar="DIR",
            default=paths.RUNTIME_DIR,
            help="directory of the relay's sockets (default: %(default)s)",
        )
        parser.add_argument(
            "--control-path",
            metavar="PATH",
            help=f"the control socket (default: {paths.CONTROL_SOCKET} in that directory)",
        )
        parser.add_argument("--version", action="version", version=f"{self.NAME} {version}")
        parser.add_argument(
            "-h", "--help", action="store_true", help="show this, or after a command its own help"
        )
        return parser

    def run(self, argv: list[str]) -> int:
        """Run the command that the arguments name, or show help where they name none."""
        command, parsed = self.parse(argv)
        return command.run(parsed)

    def parse(self, argv: list[str]) -> tuple[Command, argparse.Namespace]:
        """Return the command that the arguments name, or help, and its own arguments."""
        self.options, words = self.parser.parse_known_args(argv)
        if self.options.control_path is None:
            self.options.control_path = os.path.join(self.options.runtime_dir, paths.CONTROL_SOCKET)
        if self.options.help or not words:
            words = ["help", *words[:1]]
        command_class, name, rest = self.command_manager.find_command(words)
        command = command_class(self, self.options)
        return command, command.get_parser(f"{self.NAME} {name}").parse_args(rest)
