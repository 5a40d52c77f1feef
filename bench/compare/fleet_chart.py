# SPDX-License-Identifier: Apache-2.0
"""Chart of the results of bench/fleet.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
from matplotlib import pyplot as plt

COLOURS = dict(
    zip(
        ["relay", "bridge", "broker", "source", "hub"],
        ["#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#8c564b"],
        strict=True,
    )
)

EACH_HOST, OTHERS = ("relay", "bridge"), ("broker", "source", "hub")


def draw(found: Sequence[Mapping[str, float]], names: Mapping[str, str], path: Path) -> None:
    """Draw processor time and memory over the number of hosts.

    Args:
        found: the results for each number of hosts.
        names: the names of the programs in the results, and in the chart.
        path: file of the chart.
    """
    figure, grid = plt.subplots(2, 2, figsize=(9, 6.5), layout="constrained", sharex=True)
    hosts = [each["hosts"] for each in found]
    for row, (value, label) in zip(
        grid, (("busy", "% of a processor"), ("memory", "resident MiB")), strict=True
    ):
        for axes, programs in zip(row, (EACH_HOST, OTHERS), strict=True):
            for name in programs:
                points = [each[f"{name}_{value}"] for each in found]
                axes.plot(hosts, points, marker="o", color=COLOURS[name], label=names[name])
            axes.set(ylabel=label)
            axes.set_ylim(bottom=0)
            axes.set_xticks(hosts)
            axes.grid(alpha=0.25)
    rate = found[0]["rate"] / found[0]["hosts"]
    grid[0][0].set_title(f"Each host, {rate:.0f} records per second")
    grid[0][1].set_title("Broker and hub, records of all hosts")
    for axes in grid[1]:
        axes.set(xlabel="hosts")
    for axes in grid[0]:
        axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
