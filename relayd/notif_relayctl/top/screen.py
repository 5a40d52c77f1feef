# SPDX-License-Identifier: Apache-2.0
"""The layout of relayctl top.

It is imported for `top` only, since importing rich takes longer than other commands take to run.
"""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, OverflowMethod, RenderableType
from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from notif_relayctl.display import shown, symbol
from notif_relayctl.formats import ABSENT
from notif_relayctl.top.traffic import Rate
from notif_relayctl.top.view import Frame, Order
from notif_relayctl.units import duration, size

KEYS = "q quit   tab other table   {} sort by column   r reverse"

TITLES = {"records_rate": "records/s", "bytes_rate": "bytes/s"}

TEXTS = {"command", "user"}
"""Columns that contain text; the others contain numbers."""

HEAD_LINES = 5

BAR_WIDTH = 30


def whole_screen(frame: Frame, lines: int) -> Layout:
    """Return the frame for a terminal with `lines` lines; rows that do not fit are omitted."""
    layout = Layout()
    layout.split_column(
        Layout(_head(frame), size=HEAD_LINES),
        *(Layout(table) for table in _tables(frame, lines)),
        Layout(Text(KEYS.format(symbol("←→", "left/right")), style="reverse"), size=1),
    )
    return layout


def page(frame: Frame) -> Group:
    """Return the frame with all rows, for output that is not a terminal."""
    return Group(_head(frame), *_tables(frame))


def _head(frame: Frame) -> RenderableType:
    traffic, status = frame.traffic, frame.traffic.status
    up = duration(status.uptime_seconds)
    share = status.ring_bytes / max(1, status.ring_limit_bytes)
    filled = "#" * round(BAR_WIDTH * min(1, max(0, share)))
    ring = f"[{filled:<{BAR_WIDTH}}] {_size(status.ring_bytes)} of {_size(status.ring_limit_bytes)}"
    lines = (
        _flow("in  ", traffic.records_in, traffic.bytes_in, rejected=status.records_rejected),
        _flow(
            "out ",
            traffic.records_out,
            traffic.bytes_out,
            dropped=status.records_dropped,
            discarded=status.records_discarded,
        ),
        f"ring {ring}",
    )
    return Group(
        Text(f"notif-relayd {shown(status.version)}, pid {status.pid}, up {up}", style="bold"),
        *(Text(line, style=_style(frame)) for line in lines),
        Text(shown(frame.problem or ""), style="bold red"),
    )


def _flow(direction: str, records: Rate, size: Rate, **totals: int) -> str:
    counts = "".join(f", {name} {number:,}" for name, number in totals.items())
    return f"{direction} {_count(records)} records/s, {_size(size)}/s{counts}"


def _tables(frame: Frame, rows: int | None = None) -> list[Table]:
    """Return the tables with at most `rows` rows each, since rich is slow with thousands."""
    traffic, view, style = frame.traffic, frame.view, _style(frame)
    tables = [
        _connections(f"{kind}: {len(connections)}", order.apply(connections)[:rows], order, style)
        for kind, connections, order in (
            ("producers", traffic.producers, view.orders[0]),
            ("subscribers", traffic.subscribers, view.orders[1]),
        )
    ]
    tables[view.focus].title_style = "bold reverse"
    types = _table("busiest event types", style)
    if frame.not_counted:
        types.add_column(Text(f"not shown: {shown(frame.not_counted)}"), no_wrap=False)
    else:
        types.add_column("event type", ratio=1, no_wrap=True, overflow=_overflow())
        types.add_column("records/s", justify="right")
        for name, rate in frame.event_types:
            types.add_row(Text(shown(name)), _count(rate))
    return [*tables, types]


def _connections(title: str, rows: Sequence[tuple[Any, ...]], order: Order, style: str) -> Table:
    table = _table(title, style)
    direction = symbol("▼", " v") if order.descending else symbol("▲", " ^")
    for name in order.columns:
        mark = direction if name == order.column else ""
        table.add_column(
            Text(TITLES.get(name, name) + mark),
            justify="left" if name in TEXTS else "right",
            no_wrap=True,
            overflow=_overflow(),
        )
    for row in rows:
        cells = zip(order.columns, row, strict=True)
        table.add_row(*(Text(_SHOWN.get(name, str)(value)) for name, value in cells))
    return table


def _table(title: str, style: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        row_styles=[style],
        box=None,
        expand=True,
    )


def _overflow() -> OverflowMethod:
    return "ellipsis" if symbol("…", "") else "crop"


def _style(frame: Frame) -> str:
    """Return the style of values that are out of date if there is a problem."""
    return "dim" if frame.problem else ""


def _count(rate: Rate) -> str:
    return ABSENT if rate is None else f"{rate:,.1f}"


def _size(rate: Rate) -> str:
    return ABSENT if rate is None else size(rate)


def _whole(number: int) -> str:
    return f"{number:,}"


_SHOWN: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(TEXTS, shown),
    "records_rate": _count,
    "bytes_rate": _size,
    "rejected": _whole,
    "lag": _whole,
    "dropped": _whole,
}
