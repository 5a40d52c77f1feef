# SPDX-License-Identifier: Apache-2.0
"""What somebody who misbehaves costs others: how long a record takes to a subscriber.

Each round measures a well-behaved pair alone, and then beside each of the misbehaving programs
of the tests, which run at the lowest priority: what they cost is to be the relay's time, not
the processor's. Only the ratio within a round counts; the median over the rounds of the ratio of
the 99th percentiles is held against the limit.

Exit status 1: a ratio is over the limit.
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

import descriptors
from hostile import PROGRAMS, misbehaving

from running import Subscriber, record, running_relay

LIMIT = 2.0
WARM_UP = 300
"""Records before each measurement: those who connected and do not read have stalled by then."""
RECORD = record("compute.instance.update", payload="x" * 950)


def p99(subscriber: Subscriber, producer: socket.socket, calls: int) -> float:
    """Seconds within which 99 of 100 records arrive."""
    times = []
    for _ in range(WARM_UP + calls):
        started = time.perf_counter()
        producer.sendall(RECORD)
        subscriber.line()
        times.append(time.perf_counter() - started)
    return statistics.quantiles(times[WARM_UP:], n=100)[98]


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of misbehaving peers to others.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1000, help="records per case and round")
    options = parser.parse_args()

    alone: list[float] = []
    ratios: dict[str, list[float]] = {what: [] for what in PROGRAMS}
    for _ in range(options.rounds):
        for what, found in ratios.items():
            # A new relay for each: what one has been held to must not hold for the next.
            with (
                tempfile.TemporaryDirectory() as directory,
                running_relay(Path(directory)) as relay,
                relay.subscribe() as subscriber,
                relay.produce() as producer,
            ):
                before = p99(subscriber, producer, options.calls)
                with misbehaving(what, relay.public, relay.ingest) as process:
                    os.setpriority(os.PRIO_PROCESS, process.pid, 19)
                    found.append(p99(subscriber, producer, options.calls) / before)
                alone.append(before)

    print(f"{options.rounds} rounds of {options.calls} records, one at a time, 1 KiB each")
    print(f"alone: 99 of 100 within {statistics.median(alone) * 1e6:.0f} µs")
    print(f"{'beside':36}{'ratio':>8}{'least':>8}{'most':>8}{'limit':>8}")
    failed = False
    for what, found in ratios.items():
        ratio = statistics.median(found)
        failed |= ratio > LIMIT
        print(f"{what:36}{ratio:8.2f}{min(found):8.2f}{max(found):8.2f}{LIMIT:8.2f}")
    return int(failed)


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
