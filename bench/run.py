# SPDX-License-Identifier: Apache-2.0
"""Compares the relay with other programs and checks whether it reaches the requirements.

Writes every round to bench/build/SIZE/results.json, and a table in Markdown beside it. A run of
full size writes the table and the charts of the documentation, docs/performance, instead. With
names of figures, it measures only these and takes the others from results.json.

Exit status 1: a requirement is not reached; with --check: a result is more than a quarter worse
than the baseline in two consecutive measurements.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from compare import figures, memory, starting, table
from compare.figures import ALL_PEERS, Rounds
from compare.rabbitmq import missing
from compare.verdicts import Verdict, regressions, verdicts
from support import descriptors

BENCH = Path(__file__).parent
CHARTS = BENCH.parent / "docs" / "performance"
BASELINE = BENCH / "baseline.json"

Plan = dict[str, Callable[[], Rounds]]
"""How to measure each figure."""


def tell(what: str) -> None:
    """Show the progress in one line of a terminal; do nothing if stderr is not a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{what}")


def plan(size: str, rounds: int | None) -> Plan:
    """Return the figures of this size."""
    tables = {"full": figures.full, "quick": figures.quick, "cheap": figures.cheap}[size]()
    count = rounds or {"full": 8, "quick": 4, "cheap": 7}[size]
    found: Plan = {each.name: partial(figures.measure, each, count, tell) for each in tables}
    found["emitting"] = partial(emitting, count, size == "full")
    if size != "cheap":
        found["memory"] = partial(memory.measure, 3 if size == "full" else 1, tell)
        found["start-up"] = partial(starting.measure, 2 * count + 1, tell)
    return found


def emitting(rounds: int, broker: bool) -> Rounds:
    """Measure the cost of emitting in a separate process."""
    tell("emitting")
    # Suppress the warnings of eventlet, if it is installed.
    command = [sys.executable, "-W", "ignore", "-m", "compare.emitting", "--rounds", str(rounds)]
    done = subprocess.run(
        [*command, *(["--broker"] if broker else [])], cwd=BENCH, stdout=subprocess.PIPE, check=True
    )
    found: Rounds = json.loads(done.stdout)
    return found


def machine() -> dict[str, str]:
    """Return the hardware and the versions."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "when": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "processors": f"{len(os.sched_getaffinity(0))} x {processor}",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{peer.name: peer.missing() or peer.version() for peer in ALL_PEERS},
        "RabbitMQ": missing() or _installed("rabbitmq-server"),
    }


def _installed(package: str) -> str:
    command = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout or "?"


def write(where: Path, charts_path: Path | None, results: Mapping[str, Any]) -> list[Verdict]:
    """Write the results, the table and the charts; return the verdicts."""
    found = verdicts(results["figures"])
    where.mkdir(parents=True, exist_ok=True)
    (where / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    page = table.page(results["machine"], results["figures"], found)
    tables = charts_path or where
    tables.mkdir(parents=True, exist_ok=True)
    (tables / "table.md").write_text(page)
    (tables / "reached.csv").write_text(table.as_csv(found))
    if charts_path and not find_spec("matplotlib"):
        print("matplotlib is not installed: no charts are drawn")
    elif charts_path:
        from compare import charts  # noqa: PLC0415 - requires matplotlib

        charts.draw(results["figures"], charts_path)
    return found


def earlier_figures(where: Path) -> dict[str, Rounds]:
    """Return the figures of the last measurement of this size, or nothing if there was none."""
    results = where / "results.json"
    if not results.exists():
        return {}
    found: dict[str, Rounds] = json.loads(results.read_text())["figures"]
    return found


def worse(found: Sequence[Verdict], planned: Plan, measured: dict[str, Rounds], size: str) -> bool:
    """Compare with the baseline; return whether regressions persist in a second measurement."""
    baseline = json.loads(BASELINE.read_text())[size]
    if size == "cheap":
        unsteady = {each.key for each in found if not each.steady}
        baseline = {key: ratio for key, ratio in baseline.items() if key not in unsteady}
    if regressions(found, baseline):
        print("Some results are worse than the baseline. Measuring them again.")
        repeated = {
            name for name in planned if regressions(verdicts({name: measured[name]}), baseline)
        }
        measured.update({name: planned[name]() for name in repeated})
    left = regressions(verdicts(measured), baseline)
    for each, before in left:
        print(f"WORSE: {each.key}: {each.ratio:.2f}, baseline {before:.2f}")
    return bool(left)


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="FIGURE", help="measure only these figures")
    parser.add_argument("--size", choices=("full", "quick", "cheap"), default="full")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--check", action="store_true", help="compare with the baseline")
    parser.add_argument(
        "--set-baseline", action="store_true", help="store the results as the baseline"
    )
    options = parser.parse_args()
    planned = plan(options.size, options.rounds)
    if unknown := set(options.names) - planned.keys():
        parser.error(f"unknown figure {', '.join(unknown)}: use {', '.join(planned)}")
    for peer in ALL_PEERS:
        if options.size != "cheap" and peer.missing():
            print(f"{peer.name} is omitted: {peer.missing()}")

    started = time.monotonic()
    where = BENCH / "build" / options.size
    before = earlier_figures(where) if options.names else {}
    if options.size == "full" and options.names and not before:
        parser.error(
            f"{where / 'results.json'} does not exist. It has the other figures of the table in "
            "docs/performance: first measure all of them, without FIGURE"
        )
    measured = {
        name: before[name] if name in before and name not in options.names else measure()
        for name, measure in planned.items()
        if not options.names or name in options.names or name in before
    }
    tell("")
    results = {"machine": machine(), "figures": measured}
    found = write(where, CHARTS if options.size == "full" else None, results)
    print(table.reached(found))
    print(f"{time.monotonic() - started:.0f} seconds")
    if options.set_baseline:
        baselines = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        held = [each for each in found if each.must is not None]
        baselines[options.size] = {each.key: round(each.ratio, 3) for each in held}
        BASELINE.write_text(json.dumps(baselines, indent=1) + "\n")
    if options.check:
        return int(worse(found, planned, measured, options.size))
    return int(not all(each.reached for each in found))


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
