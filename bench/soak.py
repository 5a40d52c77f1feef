# SPDX-License-Identifier: Apache-2.0
"""Soak test: checks for leaks and for lost records under disturbances.

A relay serves producers with a fixed rate and subscribers that keep up. Other programs connect and
disconnect, request filters, send malformed data and read too slowly. During the first fifth, the
warm-up, the relay is restarted repeatedly. After that, one process runs until the end.

The time after the warm-up is divided into quarters. A leak grows in each quarter. If the host
stops the relay for a while, the backlog increases its memory in one quarter only.

A chart shows memory, descriptors and rate over time. Exit status 1: a leak or another fault.
"""

import argparse
import contextlib
import itertools
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import descriptors
from support.load import Load, ProducerTotals, StreamChecker, load
from support.service_manager import ManagedRelay

WARM_UP = 0.2
RESTARTS = 6
PRODUCERS, RATE, SUBSCRIBERS = 2, 1000, 4
SLOW = 6
MAX_LEAK = 0.25
"""Maximum growth of the memory in each quarter, in MiB: half a byte per record in half an hour."""
MAX_GROWTH = 1.1
"""Maximum ratio of the memory in the last quarter to that in the first."""
RING_SIZE = 2 * 2**20
"""Bytes; small enough to be full before the end of the warm-up."""
FILTERS = [b'{"filter": {"event_type": ["lo*"]}}\n', b'{"filter": {"priority": ["error"]}}\n']


@dataclass(slots=True)
class Sample:
    """Measurements of one second."""

    at: float
    memory: float
    """MiB."""
    descriptors: int
    stored: int
    rate: float
    """Records per second."""


class Trouble(threading.Thread):
    """The programs that disturb the relay."""

    def __init__(self, relay: ManagedRelay) -> None:
        super().__init__()
        self._relay = relay
        self._random = random.Random(1)
        self.stopped = threading.Event()
        self.connections = 0

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(_connect(self._relay.public)) for _ in range(SLOW)]
            for number, each in enumerate(slow):
                if number % 2:
                    each.sendall(FILTERS[0])
            while not self.stopped.wait(0.02):
                with contextlib.suppress(OSError):
                    self._reconnect()
                with contextlib.suppress(BlockingIOError):
                    self._random.choice(slow).recv(2000)

    def _reconnect(self) -> None:
        self.connections += 2
        with _connect(self._relay.public) as subscriber:
            subscriber.sendall(self._random.choice([*FILTERS, b"", b"no request\n"]))
        with _connect(self._relay.ingest) as producer:
            producer.sendall(self._random.choice([b"no record\n", b'{"torn', b"x" * 100_000]))


def _connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(os.fspath(path))
    sock.setblocking(False)
    return sock


def sample(relay: ManagedRelay, since: float, last: Sample | None, received: int) -> Sample:
    """Measure the relay."""
    process = Path(f"/proc/{relay.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    at = time.monotonic() - since
    return Sample(
        at,
        pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        len(list((process / "fd").iterdir())),
        len(relay.stored),
        received / (at - last.at) if last else 0.0,
    )


def soak(relay: ManagedRelay, running: Load, seconds: float) -> Iterator[Sample]:
    """Restart the relay during the warm-up, and yield a sample every second."""
    since = time.monotonic()
    restarted = 0
    last: Sample | None = None
    read = 0
    while (now := time.monotonic() - since) < seconds:
        if restarted < RESTARTS and now >= WARM_UP * seconds * (restarted + 1) / RESTARTS:
            relay.restart()
            restarted += 1
        before, read = read, running.checkers[0].received
        last = sample(relay, since, last, read - before)
        yield last
        time.sleep(1)


def complaints(
    samples: list[Sample],
    produced: list[ProducerTotals],
    books: list[StreamChecker],
    relay: ManagedRelay,
) -> Iterator[str]:
    """Yield the faults."""
    steady = samples[int(len(samples) * WARM_UP) + 1 :]
    size = len(steady) // 4

    def quarters(of: str) -> list[float]:
        found = [
            statistics.median(getattr(each, of) for each in steady[n * size : (n + 1) * size])
            for n in range(4)
        ]
        print(f"{of:12}" + ", ".join(f"{each:8.2f}" for each in found))
        return found

    memory, descriptors, stored = map(quarters, ("memory", "descriptors", "stored"))
    if min(later - earlier for earlier, later in itertools.pairwise(memory)) > MAX_LEAK:
        yield "memory grows in each quarter"
    if memory[-1] > memory[0] * MAX_GROWTH:
        yield f"memory has grown by more than {MAX_GROWTH - 1:.0%}"
    if descriptors[-1] > descriptors[0] + 3:
        yield "the number of descriptors has grown"
    if stored[-1] > stored[0] + 3:
        yield "the store has grown"
    if relay.stored:
        yield f"in the store at the end: {sorted(relay.stored)}"
    sent = sum(each.sent for each in produced)
    for each in books:
        yield from each.errors
        if each.received + each.announced < sent:
            yield f"{sent} sent, but {each.received} received and {each.announced} announced"
    print(f"records     {sent} sent, to each of {len(books)} subscribers")


def plot(samples: list[Sample], path: str) -> None:
    """Draw the chart."""
    import matplotlib as mpl  # noqa: PLC0415 - only the chart needs it

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(3, sharex=True, figsize=(9, 7))
    for axis, name in zip(axes, ("memory", "descriptors", "rate"), strict=True):
        axis.plot([each.at for each in samples], [getattr(each, name) for each in samples])
        axis.set_ylabel({"memory": "resident MiB", "rate": "records/s"}.get(name, name))
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("seconds")
    figure.savefig(path)


def main() -> int:
    """Run the test and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--plot", default="soak.png")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory, contextlib.ExitStack() as stack:
        limits = {"max_connection_rate": 100_000, "ring_size": RING_SIZE}
        options = [text for name, n in limits.items() for text in (f"--relayd-{name}", str(n))]
        relay = ManagedRelay(Path(directory), *options)
        stack.callback(relay.close)
        trouble = Trouble(relay)
        running = stack.enter_context(load(relay.public, relay.ingest, subscribers=SUBSCRIBERS))
        trouble.start()
        stack.callback(trouble.stopped.set)
        running.produce(PRODUCERS, RATE)
        samples = list(soak(relay, running, asked.minutes * 60))
        trouble.stopped.set()
        trouble.join()
        produced = running.finish()
        relay.wait_status(subscribers=0, producers=0)
        relay.wait_stored()
        wrong = list(complaints(samples, produced, running.checkers, relay))
    print(f"connections {trouble.connections} of short duration, {RESTARTS} restarts")
    plot(samples, asked.plot)
    print(f"See {asked.plot}")
    for each in wrong[:20]:
        print("WRONG:", each)
    return bool(wrong)


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
