# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common: help that ends with an example, and errors of one line."""

import argparse
import os
import threading

from cliff.command import Command

from notif_relayctl.errors import CtlError


class CtlCommand(Command):
    """One of relayctl's commands; its docstring is its help."""

    example = ""

    def get_epilog(self) -> str:
        """The example; cliff's own would read the metadata of everything installed first."""
        return f"Example: {self.example}"

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Do what is to be done."""
        try:
            return super().run(parsed_args)
        except ValueError as error:  # How cliff says that -c names no column.
            raise CtlError(str(error)) from None

    def beside_control(self, name: str) -> str:
        """The path of the relay's socket of this name."""
        return os.path.join(self.app.options.runtime_dir, name)


def number(text: str) -> int:
    """An argument that counts something, from 1."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def seconds(text: str) -> float:
    """An argument that is a time, more than none and not endless."""
    value = float(text)
    if not 0 < value < threading.TIMEOUT_MAX:
        raise ValueError
    return value
