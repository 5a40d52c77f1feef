# SPDX-License-Identifier: Apache-2.0
"""What can be asked of the daemon: one command for each method of the control socket.

The columns are the fields of the daemon's answers under their own names, in every format, so that
-c takes the same names everywhere. A value keeps its type in JSON; only a table shows durations
the way people read them.
"""

import argparse
from collections.abc import Sequence
from typing import TypeVar

import msgspec
from cliff.columns import FormattableColumn
from cliff.lister import Lister
from cliff.show import ShowOne

from notif_relayctl.accounts import user_name
from notif_relayctl.client import ask
from notif_relayctl.command import CtlCommand
from notif_relayctl.durations import duration
from notif_relayd.control.schema import ProducerStatus, Status, SubscriberStatus
from notif_relayd.escaping import printable

T = TypeVar("T")

Columns = tuple[str, ...]
Values = tuple[object, ...]


class Duration(FormattableColumn):  # type: ignore[type-arg]  # generic from cliff 4.9 on
    """Seconds for a machine, days and hours for a reader."""

    def human_readable(self) -> str:
        """For instance `3 days, 4:05:06`."""
        return duration(self._value)


class Question(CtlCommand):
    """What is asked of the control socket."""

    def ask(self, method: str, kind: type[T], **parameters: object) -> T:
        """The daemon's answer."""
        return ask(self.app.options.control_path, method, kind, **parameters)


class ShowStatus(Question, ShowOne):
    """Show the state and the counters of the relay."""

    example = "relayctl status -f json | jq .records_dropped"

    def take_action(self, _arguments: argparse.Namespace) -> tuple[Columns, Values]:
        """Ask for it."""
        status = self.ask("status", Status)
        return Status.__struct_fields__, _values(status)


class ListProducers(Question, Lister):
    """List the connections of programs that send."""

    example = "relayctl producers --sort-column rejected --sort-descending"

    def take_action(self, _arguments: argparse.Namespace) -> tuple[Columns, list[Values]]:
        """Ask for them."""
        return _table(ProducerStatus, self.ask("producers", list[ProducerStatus]))


class ListSubscribers(Question, Lister):
    """List the connections of programs that read."""

    example = "relayctl subscribers -c pid -c command -c lag -c dropped"

    def take_action(self, _arguments: argparse.Namespace) -> tuple[Columns, list[Values]]:
        """Ask for them."""
        return _table(SubscriberStatus, self.ask("subscribers", list[SubscriberStatus]))


class Disconnect(Question):
    """End one connection; its program may connect again."""

    example = "relayctl disconnect 7"

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """The connection."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "id", type=int, metavar="ID", help="the id that producers and subscribers show"
        )
        return parser

    def take_action(self, arguments: argparse.Namespace) -> None:
        """Ask for it, and say who it was."""
        who = self.ask("disconnect", str, id=arguments.id)
        self.app.stdout.write(f"disconnected {printable(who)}\n")


def _table(
    kind: type[msgspec.Struct], connections: Sequence[msgspec.Struct]
) -> tuple[Columns, list[Values]]:
    columns = ("user" if name == "uid" else name for name in kind.__struct_fields__)
    return tuple(columns), [_values(each) for each in connections]


def _values(entry: msgspec.Struct) -> Values:
    return tuple(_value(name, value) for name, value in msgspec.structs.asdict(entry).items())


def _value(name: str, value: object) -> object:
    match value:
        case int() if name == "uid":
            return user_name(value)
        case float() if name.endswith("_seconds"):
            return Duration(value)
        case str():
            return printable(value)  # A process may call itself anything.
    return value
