# SPDX-License-Identifier: Apache-2.0
"""Measures the relay beside its peers, and says whether it reaches what it must.

Writes the results, with every round as it was measured, as JSON, a table in Markdown, and the
pictures. A quick or cheap run writes below bench/build; only a full one is for the documentation.
With names of figures it measures these anew and keeps the others.

Exit status 1: something is not reached; with --check: something is more than a quarter worse than
in the baseline, in two measurements one after the other.
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
from compare.figures import EVERYBODY, Rounds
from compare.rabbitmq import missing
from compare.verdicts import Verdict, steps_back, verdicts
from support import descriptors

BENCH = Path(__file__).parent
PICTURES = BENCH.parent / "docs" / "performance"
BASELINE = BENCH / "baseline.json"

Plan = dict[str, Callable[[], Rounds]]
"""How to measure each figure."""


def tell(what: str) -> None:
    """Where it is; a line that is written over on a terminal, and left out elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{what}")


def plan(size: str, rounds: int | None) -> Plan:
    """All figures of that size."""
    tables = {"full": figures.full, "quick": figures.quick, "cheap": figures.cheap}[size]()
    often = rounds or {"full": 8, "quick": 4, "cheap": 7}[size]
    found: Plan = {each.name: partial(figures.measure, each, often, tell) for each in tables}
    found["emitting"] = partial(emitting, often, size == "full")
    if size != "cheap":
        found["memory"] = partial(memory.measure, 3 if size == "full" else 1, tell)
        found["start-up"] = partial(starting.measure, 2 * often + 1, tell)
    return found


def emitting(rounds: int, broker: bool) -> Rounds:
    """What emitting costs, measured in a process of its own."""
    tell("emitting")
    # Of eventlet, where it is installed, there are warnings.
    command = [sys.executable, "-W", "ignore", "-m", "compare.emitting", "--rounds", str(rounds)]
    done = subprocess.run(
        [*command, *(["--broker"] if broker else [])], cwd=BENCH, stdout=subprocess.PIPE, check=True
    )
    found: Rounds = json.loads(done.stdout)
    return found


def machine() -> dict[str, str]:
    """What it was measured with."""
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
        **{peer.name: peer.missing() or peer.version() for peer in EVERYBODY},
        "RabbitMQ": missing() or _installed("rabbitmq-server"),
    }


def _installed(package: str) -> str:
    asked = ["dpkg-query", "-W", "-f", "${Version}", package]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout or "?"


def write(where: Path, pictures: Path | None, results: Mapping[str, Any]) -> list[Verdict]:
    """Write all that there is to be read; what is to be said of it."""
    found = verdicts(results["figures"])
    where.mkdir(parents=True, exist_ok=True)
    (where / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    page = table.page(results["machine"], results["figures"], found)
    tables = pictures or where
    tables.mkdir(parents=True, exist_ok=True)
    (tables / "table.md").write_text(page)
    (tables / "reached.csv").write_text(table.as_csv(found))
    if pictures and not find_spec("matplotlib"):
        print("There are no pictures: there is no matplotlib")
    elif pictures:
        from compare import charts  # noqa: PLC0415 - only they need matplotlib

        charts.draw(results["figures"], pictures)
    return found


def worse(found: Sequence[Verdict], planned: Plan, measured: dict[str, Rounds], size: str) -> bool:
    """Whether there is a step back that is still there when it is measured again."""
    baseline = json.loads(BASELINE.read_text())[size]
    if size == "cheap":
        unsteady = {each.key for each in found if not each.steady}
        baseline = {key: ratio for key, ratio in baseline.items() if key not in unsteady}
    if steps_back(found, baseline):
        print("Something is worse than it was. Measuring again, to be sure.")
        doubted = {
            name for name in planned if steps_back(verdicts({name: measured[name]}), baseline)
        }
        measured.update({name: planned[name]() for name in doubted})
    left = steps_back(verdicts(measured), baseline)
    for each, before in left:
        print(f"WORSE: {each.key}: {each.ratio:.2f}, was {before:.2f}")
    return bool(left)


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="FIGURE", help="only these, as in the table")
    parser.add_argument("--size", choices=("full", "quick", "cheap"), default="full")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--check", action="store_true", help="compare with the baseline")
    parser.add_argument("--set-baseline", action="store_true", help="make this the baseline")
    asked = parser.parse_args()
    planned = plan(asked.size, asked.rounds)
    if unknown := set(asked.names) - planned.keys():
        parser.error(f"there is no figure {', '.join(unknown)}: {', '.join(planned)}")
    for peer in EVERYBODY:
        if asked.size != "cheap" and peer.missing():
            print(f"{peer.name} is left out: {peer.missing()}")

    started = time.monotonic()
    where = BENCH if asked.size == "full" else BENCH / "build" / asked.size
    kept = where / "results.json"
    before = json.loads(kept.read_text())["figures"] if asked.names and kept.exists() else {}
    measured = {
        name: before[name] if name in before and name not in asked.names else measure()
        for name, measure in planned.items()
        if not asked.names or name in asked.names or name in before
    }
    tell("")
    results = {"machine": machine(), "figures": measured}
    found = write(where, PICTURES if asked.size == "full" else None, results)
    print(table.reached(found))
    print(f"{time.monotonic() - started:.0f} seconds")
    if asked.set_baseline:
        baselines = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
        held = [each for each in found if each.must is not None]
        baselines[asked.size] = {each.key: round(each.ratio, 3) for each in held}
        BASELINE.write_text(json.dumps(baselines, indent=1) + "\n")
    if asked.check:
        return int(worse(found, planned, measured, asked.size))
    return int(not all(each.reached for each in found))


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
