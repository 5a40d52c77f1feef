# SPDX-License-Identifier: Apache-2.0
"""What relayctl top shows at a moment, and in which order: all of it but how it looks."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from notif_relayctl.top import keys
from notif_relayctl.top.traffic import Producer, Subscriber, Traffic

Row = TypeVar("Row", bound=tuple[Any, ...])


@dataclass(slots=True)
class Order:
    """By which column a table is sorted."""

    columns: tuple[str, ...]
    column: str
    descending: bool = True

    def move(self, step: int) -> None:
        """Sort by another column, round and round."""
        place = self.columns.index(self.column) + step
        self.column = self.columns[place % len(self.columns)]

    def apply(self, rows: Iterable[Row]) -> list[Row]:
        """The rows in this order; what has no value yet counts as least."""
        place = self.columns.index(self.column)
        return sorted(
            rows, key=lambda row: (row[place] is not None, row[place]), reverse=self.descending
        )


def _orders() -> tuple[Order, Order]:
    return Order(Producer._fields, "records_rate"), Order(Subscriber._fields, "records_rate")


@dataclass(slots=True)
class View:
    """Which table the keys are for, and how each is sorted."""

    orders: tuple[Order, Order] = field(default_factory=_orders)
    """Of producers and of subscribers."""
    focus: int = 0

    def press(self, key: str) -> None:
        """Do what the key is for, if it is for anything."""
        order = self.orders[self.focus]
        match key:
            case keys.TAB:
                self.focus = 1 - self.focus
            case "r":
                order.descending = not order.descending
            case keys.LEFT:
                order.move(-1)
            case keys.RIGHT:
                order.move(1)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture."""

    traffic: Traffic
    event_types: list[tuple[str, float]]
    """The busiest, and how many of each come in a second."""
    not_counted: str | None
    """Why there are no event types."""
    problem: str | None
    """Why the picture is an old one."""
    view: View
