# SPDX-License-Identifier: Apache-2.0
"""relayctl complete: print the completion of a program for a shell.

packaging/completions.py generates the files, which "make install" and packages install.
"""

import argparse
from pathlib import Path

from notif_relayctl.command import CtlCommand

DIRECTORY = Path(__file__).with_name("completions")
"""One file for each program and shell."""

PROGRAMS = ("notif-relayd", "notif-relayd-bridge", "relayctl")

SHELLS = ("bash", "fish", "zsh")


class Complete(CtlCommand):
    """Print the completion of commands, options and values for a shell."""

    example = "relayctl complete --shell fish > ~/.config/fish/completions/relayctl.fish"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the options for the shell and the program."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "--shell", default="bash", choices=SHELLS, help="the shell (default: %(default)s)"
        )
        parser.add_argument(
            "--name",
            default="relayctl",
            choices=PROGRAMS,
            help="the program whose arguments are completed (default: %(default)s)",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Print the file."""
        text = (DIRECTORY / f"{arguments.name}.{arguments.shell}").read_text(encoding="utf-8")
        self.app.stdout.write(text)
