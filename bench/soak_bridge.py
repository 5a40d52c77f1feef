# SPDX-License-Identifier: Apache-2.0
"""Soak test of bridges: accounts for every record while everything fails.

For each broker, four producers emit 2,000 records of 1 KiB per second to a relay, and a bridge
sends them to the broker. Meanwhile the bridge and the broker are killed three times, the relay is
restarted three times, and the network stalls, resets connections and cuts one within a message,
three times each, in a random order. At the end, each record must have arrived, or a gap record must
stand in its place; the records of each producer must be in order; and a fault must explain each
duplicate. NATS does not remove duplicates here, so that they are counted.

The same follows in the other direction: the producers write to the broker, and a bridge brings the
records to the relay of a hub, which has a subscriber.

Exit status 1: the books of a broker have an error.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.bridge_trial import HubTrial, OutTrial, Trial, trial
from support.central import CENTRALS
from support.trial_load import Size

RATE = 2000
SIZE = Size(step=2700, record_size=1024, rate=RATE)
DIRECTIONS: dict[str, type[Trial]] = {"to": OutTrial, "from": HubTrial}
COMMON: list[Callable[[Trial], None]] = [
    *3
    * [
        Trial.kill_bridge,
        Trial.kill_broker,
        Trial.restart_relay,
        Trial.stall,
        Trial.reset,
        Trial.cut,
    ],
    Trial.restart_relay_and_kill_bridge,
]


def soak(kind: type[Trial], name: str, seed: int, seconds: float) -> Trial:
    """Run a bridge for a time at least, and return the finished trial."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(os.devnull, "w"))))
        directories = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-"))) for _ in range(2)
        ]
        central = stack.enter_context(CENTRALS[name](directories[0]))
        running = stack.enter_context(trial(kind, directories[1], central, SIZE))
        end = time.monotonic() + seconds
        faults: list[Callable[[], None]] = [functools.partial(fault, running) for fault in COMMON]
        if isinstance(running, OutTrial):
            faults.append(running.kill_broker_and_bridge)
        for fault in random.Random(seed).sample(faults, len(faults)):
            fault()
        while time.monotonic() < end:
            running.emit(0.1)
        running.finish()
        return running


def report(title: str, seed: int, seconds: float, done: Trial) -> None:
    """Print the figures of a trial."""
    books = done.books
    figures = {
        "emitted": sum(done.load.emitted),
        "dropped by producers": done.dropped - done.invented,
        "reported without a loss": done.invented,
        "arrived": books.arrived,
        "missing": books.missing,
        "announced by gap records": _counted(books.announced, books.reasons),
        "gap records without number": books.unknown,
        "repeated gap records": books.repeated_gaps,
        "duplicates": _counted(books.duplicates.total(), books.duplicates),
        "discarded by the broker": done.discarded,
        "errors": len(books.errors),
    }
    print(f"{title}, seed {seed}, {seconds:.0f} s")
    for key, value in figures.items():
        print(f"  {key:27} {value}")
    for each in books.errors[:20]:
        print("WRONG:", each)
    sys.stdout.flush()


def _counted(total: int, parts: dict[str, int]) -> str:
    shown = ", ".join(f"{key}: {value}" for key, value in sorted(parts.items()))
    return f"{total} ({shown})" if parts else str(total)


def main() -> int:
    """Run the test and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("brokers", nargs="*", default=list(CENTRALS))
    parser.add_argument("--direction", choices=DIRECTIONS, action="append")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    asked = parser.parse_args()
    wrong = False
    for direction in asked.direction or DIRECTIONS:
        for name in asked.brokers:
            start = time.monotonic()
            done = soak(DIRECTIONS[direction], name, asked.seed, asked.seconds)
            report(f"{direction} {name}", asked.seed, time.monotonic() - start, done)
            wrong |= bool(done.books.errors)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
