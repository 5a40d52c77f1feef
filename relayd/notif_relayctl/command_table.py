# SPDX-License-Identifier: Apache-2.0
"""The commands of relayctl, each loaded only when it is used.

Importing all commands takes longer than running one of them. The table therefore names the class of
each command and repeats the first line of its help, so that neither `relayctl status` nor
`relayctl --help` has to import the others.
"""

import argparse
from importlib.metadata import EntryPoint

import autopage.argparse
from cliff.command import Command
from cliff.commandmanager import CommandManager
from cliff.help import HelpCommand

from notif_relayctl.command import CtlCommand
from notif_relayctl.errors import CtlError
from notif_relayd.errors import see_help, unknown

PROGRAM = "relayctl"

PACKAGE = "notif_relayctl"

COMMANDS = {
    "bridges": (
        "bridges.command:ListBridges",
        "List the bridges between this host's relay and message brokers",
    ),
    "complete": (
        "complete:Complete",
        "Print the completion of commands, options and values for a shell",
    ),
    "disconnect": ("commands:Disconnect", "End one connection; its program may connect again"),
    "doctor": ("doctor.command:Doctor", "Check the relay and its set-up, and suggest remedies"),
    "exporter": (
        "prometheus.exporter:Exporter",
        "Serve the metrics of the relay to Prometheus over HTTP",
    ),
    "groups": (
        "commands:ListGroups",
        "List the groups of subscribers that share the notifications",
    ),
    "help": ("command_table:Help", "Show the help of a command"),
    "metrics": (
        "prometheus.metrics:ShowMetrics",
        "Print the metrics in the text format of Prometheus",
    ),
    "producers": ("commands:ListProducers", "List the connections of programs that send"),
    "send": ("send:Send", "Send notifications to the relay, as a service does"),
    "status": ("commands:ShowStatus", "Show the state and the counters of the relay"),
    "subscribers": ("commands:ListSubscribers", "List the connections of programs that read"),
    "tail": ("tail:Tail", "Show notifications as they arrive"),
    "top": ("top.command:Top", "Show rates, connections and event types continuously"),
    "watch": ("tail:Tail", "Show notifications as they arrive"),
}
"""Module and class of each command below `PACKAGE`, and the first line of its help."""


class Commands(CommandManager):
    """Finds commands in `COMMANDS` instead of the metadata of all installed distributions."""

    def __init__(self) -> None:
        super().__init__("")  # No entry points; older versions of cliff require the argument.

    def load_all(self) -> None:
        """Add all commands; `cliff.app.App` adds its own ``help`` and ``complete`` before."""
        for name, (value, _) in COMMANDS.items():
            self.commands[name] = EntryPoint(name, f"{PACKAGE}.{value}", PACKAGE)

    def find_command(self, argv: list[str]) -> tuple[type[Command], str, list[str]]:
        """Return the command that the words start with, its name, and the remaining words.

        Raises:
            CtlError: the command does not exist. Unlike cliff's method, this one accepts no
                abbreviation, which could run a command that was not meant.
        """
        name, *arguments = argv
        if name in self.commands:
            return self.commands[name].load(), name, arguments
        raise CtlError(see_help(unknown("command", name, COMMANDS), PROGRAM))


class Help(CtlCommand, HelpCommand):
    """Show the help of a command."""

    example = "relayctl help tail"

    def take_action(self, arguments: argparse.Namespace) -> int:
        """Show the help of one command, or the list of all commands."""
        if arguments.cmd:
            return super().take_action(arguments)
        # Not cliff's own list: it imports every command and reads the metadata of all installed
        # distributions.
        parser = self.app.parser
        with autopage.argparse.help_pager(self.app.stdout) as out:
            parser.print_help(out)
            out.write("\nCommands:\n")
            for name, (_, summary) in COMMANDS.items():
                out.write(f"  {name:<13}  {summary}\n")
        return 0
