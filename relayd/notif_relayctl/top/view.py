# SPDX-License-Identifier: Apache-2.0
"""The content of one frame of relayctl top, and the order of its tables."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from notif_relayctl.top import keys
from notif_relayctl.top.traffic import Producer, Subscriber, Traffic

Row = TypeVar("Row", bound=tuple[Any, ...])


@dataclass(slots=True)
class Order:
    """The column by which a table is sorted, and the direction."""

    columns: tuple[str, ...]
    column: str
    descending: bool = True

    def move(self, step: int) -> None:
        """Sort by the column `step` columns to the right; the first follows the last."""
        place = self.columns.index(self.column) + step
        self.column = self.columns[place % len(self.columns)]

    def apply(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows in this order. `None` is less than any value."""
        place = self.columns.index(self.column)
        return sorted(
            rows, key=lambda row: (row[place] is not None, row[place]), reverse=self.descending
        )


def _orders() -> tuple[Order, Order]:
    return Order(Producer._fields, "records_rate"), Order(Subscriber._fields, "records_rate")


@dataclass(slots=True)
class View:
    """The table that the keys control, and the order of each table."""

    orders: tuple[Order, Order] = field(default_factory=_orders)
    """Orders of the producers and the subscribers."""
    focus: int = 0
    """Index into `orders`."""

    def press(self, key: str) -> None:
        """Process a key; ignore it if it has no meaning."""
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
    """The content of the screen at one time."""

    traffic: Traffic
    event_types: list[tuple[str, float]]
    """The most frequent event types, each with its records per second."""
    not_counted: str | None
    """Why event types are not counted; `None` if they are."""
    problem: str | None
    """Why there is no newer sample; `None` if this is the newest."""
    view: View
