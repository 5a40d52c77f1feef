# SPDX-License-Identifier: Apache-2.0
"""The command relayctl bridges."""

import argparse

from cliff.lister import Lister

from notif_relayctl.bridges.client import NO_PERMISSION, Bridge, Problem, add_bridge_dir, query_all
from notif_relayctl.columns import Duration, Nullable, Size, Text
from notif_relayctl.command import CtlCommand
from notif_relayctl.errors import NotAllowedError

RUNNING = "running"

Row = tuple[object, ...]


class ListBridges(CtlCommand, Lister):
    """List the bridges between this host's relay and message brokers.

    behind counts the notifications that a bridge has taken and that are not confirmed, spooled_*
    those of them on disk, and dropped those that it had to remove from there. A bridge that does
    not answer has a state other than running, and no figures.
    """

    example = "relayctl bridges --sort-column behind --sort-descending"
    columns = (
        *("name", "state", "direction", "broker", "connected", "confirmed", "behind"),
        *("spooled_bytes", "spooled_seconds", "dropped"),
    )

    _refusal: str | None = None
    """Why this user may query no bridge."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the option for the directory."""
        parser = super().get_parser(prog_name)
        add_bridge_dir(parser)
        return parser

    def take_action(self, arguments: argparse.Namespace) -> tuple[tuple[str, ...], list[Row]]:
        """Query the bridges and return one row for each."""
        bridges = query_all(arguments.bridge_dir)
        problems = [each.answer for each in bridges if isinstance(each.answer, Problem)]
        refused = [each for each in problems if each.state == NO_PERMISSION]
        if len(refused) == len(bridges):
            self._refusal = refused[0].reason
        return self.columns, [_row(each) for each in bridges]

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Print the table; raise an error if no bridge may be queried."""
        status = super().run(parsed_args)
        if self._refusal is not None:
            raise NotAllowedError(self._refusal)
        return status


def _state(bridge: Bridge) -> str:
    return bridge.answer.state if isinstance(bridge.answer, Problem) else RUNNING


def _row(bridge: Bridge) -> Row:
    name, state, answer = Text(bridge.name), _state(bridge), bridge.answer
    if isinstance(answer, Problem):
        nothing = Nullable(None)
        unknown = (nothing,) * 5
        return name, state, *unknown, Size(None), Duration(None), nothing
    spool = answer.spool
    return (
        *(name, state),
        *map(Nullable, (answer.direction, answer.broker, answer.connected)),
        *map(Nullable, (answer.confirmed, answer.behind)),
        Size(spool.bytes if spool else None),
        Duration(spool.oldest_seconds if spool else None),
        Nullable(spool.dropped if spool else None),
    )
