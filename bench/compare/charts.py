# SPDX-License-Identifier: Apache-2.0
"""Charts of the results: each figure as a function of its parameter."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

from compare.figures import Rounds
from compare.peers import ALTERNATIVES, LIMIT, RELAY
from compare.verdicts import column

COLOURS = dict(
    zip(
        [RELAY.name, LIMIT.name, *(peer.name for peer in ALTERNATIVES)],
        ["#d62728", "#555555", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b", "#e377c2"],
        strict=True,
    )
)
SIZE = (8, 5)
"""Inches."""


def draw(figures: Mapping[str, Rounds], directory: Path) -> list[Path]:
    """Draw the charts of the measured figures and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (figure_name, drawing) in DRAWINGS.items():
        if figure_name in figures:
            figure = drawing(figures[figure_name])
            drawn.append(directory / f"{name}.png")
            figure.savefig(drawn[-1], dpi=110)
            plt.close(figure)
    return drawn


def _lines(axes: Any, found: Rounds, value: str) -> None:
    """Draw a line for each peer, with the minimum and maximum of the rounds."""
    for peer in {name: None for peers in found.values() for name in peers}:
        points = [(int(case), column(found, case, peer, value)) for case in found]
        points = [(x, values) for x, values in points if values]
        middle = [statistics.median(values) for _, values in points]
        spread = [
            [y - min(values) for y, (_, values) in zip(middle, points, strict=True)],
            [max(values) - y for y, (_, values) in zip(middle, points, strict=True)],
        ]
        axes.errorbar(
            [x for x, _ in points],
            middle,
            yerr=spread,
            label=peer,
            color=COLOURS[peer],
            linewidth=2.5 if peer == RELAY.name else 1.2,
            linestyle="--" if peer == LIMIT.name else "-",
            marker="o",
            markersize=4,
            capsize=3,
        )


def _set_ticks(axis: Any, ticks: list[int]) -> None:
    axis.set_ticks(ticks, [f"{each:,}" for each in ticks])
    axis.set_minor_locator(mpl.ticker.NullLocator())


def _fanout(value: str, label: str, title: str) -> Callable[[Rounds], Any]:
    def drawing(found: Rounds) -> Any:
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        _lines(axes, found, value)
        axes.set(xscale="log", yscale="log", xlabel="subscribers", ylabel=label, title=title)
        _set_ticks(axes.xaxis, [int(case) for case in found])
        axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(
            mpl.ticker.FuncFormatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}")
        )
        axes.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        axes.grid(which="both", alpha=0.25)
        figure.legend(loc="outside right center")
        return figure

    return drawing


def _latency(found: Rounds) -> Any:
    figure, grid = plt.subplots(
        1,
        len(found),
        figsize=(3 * len(found) + 1, 5),
        layout="constrained",
        sharey=True,
        sharex=True,
    )
    for axes, case in zip(grid if len(found) > 1 else [grid], found, strict=True):
        for number, peer in enumerate(found[case]):
            middle = [
                statistics.median(column(found, case, peer, value) or [float("nan")])
                for value in ("p50", "p90", "p99")
            ]
            axes.plot(middle, [number] * 3, color=COLOURS[peer], linewidth=2, alpha=0.5)
            for marker, x in zip("o|D", middle, strict=True):
                axes.plot(x, number, marker, color=COLOURS[peer], markersize=8)
        axes.set_yticks(range(len(found[case])), list(found[case]))
        width, _, rate = case.partition(" at ")
        axes.set(xscale="log", title=f"1 to {width}, {int(rate):,} per second", xlabel="µs")
        axes.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        axes.grid(axis="x", which="both", alpha=0.25)
    axes.invert_yaxis()
    figure.suptitle("Latency of a record: ● median, | 90th and ◆ 99th percentile")
    return figure


def _growth(label: str, title: str) -> Callable[[Rounds], Any]:
    def drawing(found: Rounds) -> Any:
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        _lines(axes, found, "rate")
        cases = [int(case) for case in found]
        axes.set_xscale(
            "symlog" if 0 in cases else "log", **({"linthresh": 5} if 0 in cases else {})
        )
        axes.set(xlabel=label, ylabel="delivered records per second", title=title)
        _set_ticks(axes.xaxis, cases)
        axes.yaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:,.0f}"))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.legend()
        return figure

    return drawing


def _memory(found: Rounds) -> Any:
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    cases = [int(case) for case in found]
    for value, label in (("idle", "idle"), ("most", "all subscribers behind, ring full")):
        middle = [statistics.median(column(found, str(x), RELAY.name, value)) for x in cases]
        axes.plot(
            cases,
            middle,
            marker="o",
            label=label,
            color=COLOURS[RELAY.name],
            linestyle=":" if value == "idle" else "-",
        )
    axes.set(
        xlabel="subscribers that never read", ylabel="resident MiB", title="Memory of the relay"
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.legend()
    return figure


def _emitting(found: Rounds) -> Any:
    figure, grid = plt.subplots(1, len(found), figsize=(10, 3.5), layout="constrained")
    for axes, (case, ways) in zip(grid, found.items(), strict=True):
        middle = [statistics.median(column(found, case, way, "each")) for way in ways]
        ours = [
            COLOURS[RELAY.name] if way.startswith(("RelayHandler", "driver = unix")) else "#999999"
            for way in ways
        ]
        bars = axes.barh(list(ways), middle, color=ours)
        axes.bar_label(bars, fmt="%.1f µs", padding=3)
        axes.margins(x=0.3)
        axes.invert_yaxis()
        axes.set(title=f"Emitting {case}", xlabel="µs per call")
    return figure


DRAWINGS: dict[str, tuple[str, Callable[[Rounds], Any]]] = {
    "fanout-rate": (
        "fanout",
        _fanout("rate", "delivered records per second", "Maximum throughput, 1 KiB records"),
    ),
    "fanout-cpu": (
        "fanout",
        _fanout("cpu_each", "µs per delivered record", "Processor time of the relay"),
    ),
    "latency": ("latency", _latency),
    "producers": ("producers", _growth("producers", "Maximum throughput to 4 subscribers")),
    "stalled": (
        "stalled",
        _growth("stalled subscribers", "Maximum throughput to 1 subscriber, with stalled ones"),
    ),
    "memory": ("memory", _memory),
    "emitting": ("emitting", _emitting),
}
"""Name of the chart: name of the figure, and drawing function."""
