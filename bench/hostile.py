# SPDX-License-Identifier: Apache-2.0
"""Latency of a record while another program misbehaves.

Each round measures a well-behaved producer and subscriber alone, and then with each of the
misbehaving programs of the tests. These run on other processors, so that they take only time of
the relay. A program that sends many requests is measured after it has used up its burst (see
notif_relayd.access.request_pacer). Ratios are taken within a round. The median over the rounds is
compared with the limits, for the median and for the 99th percentile of the latency.

Exit status 1: a ratio exceeds its limit.
"""

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import descriptors
from support.hostile import PROGRAMS, hostile_program, subscribe_beside
from support.records import record
from support.relay import Subscriber, running_relay

LIMITS = {"median": 3.0, "p99": 2.0}
"""Maximum ratio of the latency with a misbehaving program to the latency without it."""

OWN, *OTHERS = os.sched_getaffinity(0)
"""The processor for the relay and its well-behaved peers, and those for the other programs."""

WARM_UP = 5000
"""Records before each measurement. After these, subscribers that do not read have stalled."""

RECORD = record(payload="x" * 950)


def latency(subscriber: Subscriber, producer: socket.socket, calls: int) -> dict[str, float]:
    """Return the median and the 99th percentile of the time for a record, in seconds."""
    times = []
    for _ in range(WARM_UP + calls):
        started = time.perf_counter()
        producer.sendall(RECORD)
        assert subscriber.line() == RECORD
        times.append(time.perf_counter() - started)
    percentiles = statistics.quantiles(times[WARM_UP:], n=100)
    return {"median": percentiles[49], "p99": percentiles[98]}


def measure(what: str, calls: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return the latency without and with a program, measured with a new relay.

    The relay keeps state about users, which must not affect the next program.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        running_relay(Path(directory)) as relay,
        subscribe_beside(what, relay) as subscriber,
        relay.produce() as producer,
    ):
        alone = latency(subscriber, producer, calls)
        with hostile_program(what, relay.public, relay.ingest) as process:
            os.sched_setaffinity(process.pid, OTHERS)
            return alone, latency(subscriber, producer, calls)


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of misbehaving peers to others.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20_000, help="records per program and round")
    parser.add_argument("--only", choices=PROGRAMS, help="measure this program only")
    options = parser.parse_args()

    if not OTHERS:
        parser.error("two processors are needed")
    os.sched_setaffinity(0, {OWN})
    results: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {
        what: [] for what in ([options.only] if options.only else PROGRAMS)
    }
    for _ in range(options.rounds):
        for what, found in results.items():
            found.append(measure(what, options.calls))

    print(f"{options.rounds} rounds of {options.calls} records, one at a time, 1 KiB each")
    for name in LIMITS:
        times = [alone[name] for found in results.values() for alone, _ in found]
        print(f"alone, {name}: {statistics.median(times) * 1e6:.0f} µs")
    heads = "".join(f"{name:>8}{'min':>8}{'max':>8}{'limit':>8}" for name in LIMITS)
    print(f"{'beside':38}{heads}")
    failed = False
    for what, found in results.items():
        columns = ""
        for name, limit in LIMITS.items():
            ratios = [beside[name] / alone[name] for alone, beside in found]
            failed |= statistics.median(ratios) > limit
            figures = statistics.median(ratios), min(ratios), max(ratios), limit
            columns += "".join(f"{figure:8.2f}" for figure in figures)
        print(f"{what:38}{columns}")
    return int(failed)


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
