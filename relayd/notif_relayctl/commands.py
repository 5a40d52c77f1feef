# SPDX-License-Identifier: Apache-2.0
"""The commands that query the control socket, one for each method.

The columns have the names of the fields of the daemon's answers in every format, so that -c accepts
the same names everywhere. A value keeps its type in JSON; a table shows some with their units.
"""

import argparse
from typing import TypeVar

import msgspec
from cliff.lister import Lister
from cliff.show import ShowOne

from notif_relayctl.accounts import user_name
from notif_relayctl.client import ask
from notif_relayctl.columns import Duration, Records, Size, Text
from notif_relayctl.command import CtlCommand, number
from notif_relayd.control.schema import GroupStatus, ProducerStatus, Status, SubscriberStatus
from notif_relayd.escaping import printable

T = TypeVar("T")

Columns = tuple[str, ...]
Values = tuple[object, ...]


def _columns(kind: type[msgspec.Struct]) -> Columns:
    return tuple("user" if name == "uid" else name for name in kind.__struct_fields__)


class ControlCommand(CtlCommand):
    """A command that queries the control socket."""

    def ask(self, method: str, kind: type[T], **parameters: object) -> T:
        """Return the daemon's result, as `notif_relayctl.client.ask`."""
        return ask(self.control_path, method, kind, **parameters)


class ShowStatus(ControlCommand, ShowOne):
    """Show the state and the counters of the relay.

    A table shows sizes, times and numbers of records with their units. All other formats show
    plain numbers, in bytes and seconds.
    """

    example = "relayctl status -f json | jq .records_dropped"
    columns = Status.__struct_fields__

    def take_action(self, _arguments: argparse.Namespace) -> tuple[Columns, Values]:
        """Return the fields of the status."""
        values = _values(self.ask("status", Status))
        return self.columns, tuple(map(_with_unit, self.columns, values))


class ListProducers(ControlCommand, Lister):
    """List the connections of programs that send."""

    example = "relayctl producers --sort-column rejected --sort-descending"
    columns = _columns(ProducerStatus)

    def take_action(self, _arguments: argparse.Namespace) -> tuple[Columns, list[Values]]:
        """Return one row for each connection."""
        return self.columns, [_values(each) for each in self.ask("producers", list[ProducerStatus])]


class ListSubscribers(ControlCommand, Lister):
    """List the connections of programs that read.

    Records that wait for a group are not in the lag of its members: see relayctl groups.
    """

    example = "relayctl subscribers -c pid -c command -c lag -c dropped"
    columns = _columns(SubscriberStatus)

    def take_action(self, _arguments: argparse.Namespace) -> tuple[Columns, list[Values]]:
        """Return one row for each connection."""
        return self.columns, [
            _values(each) for each in self.ask("subscribers", list[SubscriberStatus])
        ]


class ListGroups(ControlCommand, Lister):
    """List the groups of subscribers that share the notifications.

    lag counts the records that wait for a member, unfinished those that members have received and
    not finished. hold_seconds is the time until a group without members ends.
    """

    example = "relayctl groups --sort-column lag --sort-descending"
    columns = _columns(GroupStatus)

    def take_action(self, _arguments: argparse.Namespace) -> tuple[Columns, list[Values]]:
        """Return one row for each group."""
        return self.columns, [_values(each) for each in self.ask("groups", list[GroupStatus])]


class Disconnect(ControlCommand):
    """End one connection; its program may connect again."""

    example = "relayctl disconnect 7"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Add the argument for the connection."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "id",
            type=number,
            metavar="ID",
            help="the connection's id, as shown by producers and subscribers",
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Disconnect, and print what was disconnected."""
        connection = self.ask("disconnect", str, id=arguments.id)
        self.app.stdout.write(f"disconnected {printable(connection)}\n")


def _values(entry: msgspec.Struct) -> Values:
    return tuple(_value(name, value) for name, value in msgspec.structs.asdict(entry).items())


def _value(name: str, value: object) -> object:
    match value:
        case int() if name == "uid":
            return user_name(value)
        case float() | None if name.endswith("_seconds"):
            return Duration(value)
        case str():
            return Text(value)  # A process chooses its own name.
    return value


def _with_unit(name: str, value: object) -> object:
    """Return a value of the status with its unit; in a list, the numbers are easier to compare."""
    match name.split("_"):
        case ["records", *_]:
            return Records(value)
        case ["bytes", *_] | [*_, "bytes"]:
            return Size(value)
    return value
