# SPDX-License-Identifier: Apache-2.0
"""How relayctl top looks.

The only module that imports rich, and imported only for `top`: it takes longer to load than all
the other commands take to run.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from notif_relayctl.durations import duration
from notif_relayctl.formats import ABSENT
from notif_relayctl.top.traffic import Rate
from notif_relayctl.top.view import Frame, Order
from notif_relayd.escaping import printable

KEYS = "q quit   tab other table   ←→ sort by column   r reverse"

TITLES = {"records_rate": "records/s", "bytes_rate": "bytes/s"}

TEXTS = {"command", "user"}
"""Columns that are no numbers."""

HEAD_LINES = 5

BAR_WIDTH = 30


def whole_screen(frame: Frame, lines: int) -> Layout:
    """For a terminal of so many lines: what has no room is cut off."""
    layout = Layout()
    layout.split_column(
        Layout(_head(frame), size=HEAD_LINES),
        *(Layout(table) for table in _tables(frame, lines)),
        Layout(Text(KEYS, style="reverse"), size=1),
    )
    return layout


def page(frame: Frame) -> Group:
    """For anything else: all there is."""
    return Group(_head(frame), *_tables(frame))


def _head(frame: Frame) -> RenderableType:
    traffic, status = frame.traffic, frame.traffic.status
    up = duration(status.uptime_seconds)
    share = status.ring_bytes / max(1, status.ring_limit_bytes)
    filled = "#" * round(BAR_WIDTH * min(1, max(0, share)))
    ring = f"[{filled:<{BAR_WIDTH}}] {_size(status.ring_bytes)} of {_size(status.ring_limit_bytes)}"
    return Group(
        Text(f"notif-relayd {printable(status.version)}, pid {status.pid}, up {up}", style="bold"),
        _flow("in  ", traffic.records_in, traffic.bytes_in, rejected=status.records_rejected),
        _flow(
            "out ",
            traffic.records_out,
            traffic.bytes_out,
            dropped=status.records_dropped,
            discarded=status.records_discarded,
        ),
        Text(f"ring {ring}"),
        Text(printable(frame.problem or ""), style="bold red"),
    )


def _flow(way: str, records: Rate, size: Rate, **totals: int) -> Text:
    counts = "".join(f", {name} {number:,}" for name, number in totals.items())
    return Text(f"{way} {_count(records)} records/s, {_size(size)}/s{counts}")


def _tables(frame: Frame, rows: int | None = None) -> list[Table]:
    """The tables, with no more than so many rows each, since rich is slow with thousands."""
    traffic, view = frame.traffic, frame.view
    tables = [
        _connections(f"{kind}: {len(connections)}", order.apply(connections)[:rows], order)
        for kind, connections, order in (
            ("producers", traffic.producers, view.orders[0]),
            ("subscribers", traffic.subscribers, view.orders[1]),
        )
    ]
    tables[view.focus].title_style = "bold reverse"
    types = _table("busiest event types")
    if frame.not_counted:
        types.add_column(Text(f"not shown: {printable(frame.not_counted)}"), no_wrap=False)
    else:
        types.add_column("event type", ratio=1, no_wrap=True)
        types.add_column("records/s", justify="right")
        for name, rate in frame.event_types:
            types.add_row(Text(printable(name)), _count(rate))
    return [*tables, types]


def _connections(title: str, rows: Sequence[tuple[Any, ...]], order: Order) -> Table:
    table = _table(title)
    for name in order.columns:
        mark = ("▼" if order.descending else "▲") if name == order.column else ""
        table.add_column(
            Text(TITLES.get(name, name) + mark),
            justify="left" if name in TEXTS else "right",
            no_wrap=True,
        )
    for row in rows:
        cells = zip(order.columns, row, strict=True)
        table.add_row(*(Text(_SHOWN.get(name, str)(value)) for name, value in cells))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, expand=True)


def _count(rate: Rate) -> str:
    return ABSENT if rate is None else f"{rate:,.1f}"


def _size(size: Rate) -> str:
    if size is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:  # noqa: PLR2004 (of each unit the next is 1024)
            return f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"


def _whole(number: int) -> str:
    return f"{number:,}"


_SHOWN: dict[str, Callable[[Any], str]] = {
    "records_rate": _count,
    "bytes_rate": _size,
    "rejected": _whole,
    "lag": _whole,
    "dropped": _whole,
}
