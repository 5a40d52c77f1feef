# SPDX-License-Identifier: Apache-2.0
"""Tables of the results in Markdown: the requirements, and all measurements."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence

from compare.figures import Rounds
from compare.verdicts import Verdict

VALUES = {
    "rate": ("delivered records per second", "{:,.0f}"),
    "cpu_each": ("processor time per record, µs", "{:.2f}"),
    "p50": ("p50, µs", "{:,.0f}"),
    "p90": ("p90, µs", "{:,.0f}"),
    "p99": ("p99, µs", "{:,.0f}"),
    "own_cpu": ("load generator's processor time, %", "{:.0f}"),
    "lost": ("lost", "{:.0f}"),
    "idle": ("idle, MiB", "{:.1f}"),
    "loaded": ("loaded, MiB", "{:.1f}"),
    "most": ("maximum, MiB", "{:.1f}"),
    "each": ("per call, µs", "{:.1f}"),
    "seconds": ("seconds", "{:.3f}"),
}
"""Heading and format of each value."""

HEADS = {
    "fanout": "Maximum throughput from 1 producer to N subscribers, 1 KiB",
    "fanout-8k": "Maximum throughput from 1 producer to N subscribers, 8 KiB",
    "latency": "Latency to N subscribers at a fixed number of records per second",
    "producers": "Maximum throughput from N producers to 4 subscribers",
    "stalled": "Maximum throughput to 1 subscriber, with N others that never read",
    "memory": "Resident memory with N subscribers that never read",
    "emitting": "Cost of emitting for a service",
    "start-up": "Start-up",
}

SHOWN = {
    "fanout": ("rate", "cpu_each", "own_cpu", "lost"),
    "fanout-8k": ("rate", "cpu_each", "own_cpu", "lost"),
    "latency": ("p50", "p90", "p99"),
    "producers": ("rate", "cpu_each", "lost"),
    "stalled": ("rate", "cpu_each", "lost"),
    "memory": ("idle", "loaded", "most"),
    "emitting": ("each",),
    "start-up": ("seconds",),
}


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with aligned columns, so that it is readable as text."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(heads))]
    cells.insert(1, ["-" * width for width in widths])
    return "".join("| " + " | ".join(map(str.ljust, row, widths)) + " |\n" for row in cells)


def reached(found: Sequence[Verdict]) -> str:
    """Return the table of the requirements."""
    return table(*_reached(found))


def as_csv(found: Sequence[Verdict]) -> str:
    """Return the requirements as CSV, for the documentation."""
    heads, rows = _reached(found)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([heads, *rows])
    return text.getvalue()


def _reached(found: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    heads = ["figure", "work", "compared with", "ratio", "range", "required", "reached"]
    return heads, [
        [
            each.what,
            each.case,
            f"{each.than}: {each.peer}" if each.peer else each.than,
            f"{each.ratio:.2f}",
            f"{min(each.ratios):.2f} to {max(each.ratios):.2f}",
            "" if each.must is None else f"{each.must:.2f}",
            "" if each.must is None else ("yes" if each.reached else "NO"),
        ]
        for each in found
    ]


def measured(name: str, found: Rounds) -> str:
    """Return the medians of a figure, with the minimum and maximum of its first value."""
    shown = SHOWN[name]
    return table(
        ("work", "with", *(VALUES[value][0] for value in shown), "rounds"),
        (
            (
                case,
                peer,
                *(_median(rounds, value) for value in shown),
                _spread(rounds, shown[0]),
            )
            for case, peers in found.items()
            for peer, rounds in peers.items()
        ),
    )


def _median(rounds: Sequence[Mapping[str, float]], value: str) -> str:
    if value == "own_cpu":
        numbers = [100 * each["own_cpu"] / each["seconds"] for each in rounds]
    else:
        numbers = [each[value] for each in rounds]
    return VALUES[value][1].format(statistics.median(numbers))


def _spread(rounds: Sequence[Mapping[str, float]], value: str) -> str:
    numbers = [each[value] for each in rounds]
    form = VALUES[value][1]
    return f"{form.format(min(numbers))} to {form.format(max(numbers))}"


def page(
    machine: Mapping[str, str], figures: Mapping[str, Rounds], found: Sequence[Verdict]
) -> str:
    """Return the complete file."""
    parts = [
        "<!-- Written by `make bench`. -->\n",
        table(("measured", "with"), machine.items()),
        "Greater ratios are better; 1 means equal. Each ratio is the median over the rounds; their "
        "range follows.\n",
        reached(found),
    ]
    for name, rounds in figures.items():
        parts += [f"## {HEADS[name]}\n", measured(name, rounds)]
    return "\n".join(parts)
