# SPDX-License-Identifier: Apache-2.0
"""Hours of a bad day in minutes: does anything grow, and do the books balance?

One relay serves producers at a rate and subscribers that keep up, while others connect and leave
all the time, ask for filters, send what is no record, and read too slowly. In the first fifth, the
warm-up, it is restarted again and again; then one process has to last.

That time is looked at in four quarters. What leaks grows in each of them; a moment when the machine
had no time for the relay, and much had piled up, leaves a step in its memory, but only one.

A picture shows memory, descriptors and rate over time. Exit status 1: something grew or is wrong.
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
LEAK = 0.25
"""MiB that memory may grow by in each quarter: in half an hour, half a byte for each record."""
GROWTH = 1.1
"""How many times what it was in the first quarter it may be in the last."""
RING_SIZE = 2 * 2**20
"""Bytes: so little that it is full before the warm-up is over."""
FILTERS = [b'{"filter": {"event_type": ["lo*"]}}\n', b'{"filter": {"priority": ["error"]}}\n']


@dataclass(slots=True)
class Sample:
    """One second."""

    at: float
    memory: float
    """MiB."""
    descriptors: int
    stored: int
    rate: float
    """Records a second."""


class Trouble(threading.Thread):
    """Everybody who does not behave."""

    def __init__(self, relay: ManagedRelay) -> None:
        super().__init__()
        self._relay = relay
        self._random = random.Random(1)
        self.over = threading.Event()
        self.connections = 0

    def run(self) -> None:
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(_connect(self._relay.public)) for _ in range(SLOW)]
            for number, each in enumerate(slow):
                if number % 2:
                    each.sendall(FILTERS[0])
            while not self.over.wait(0.02):
                with contextlib.suppress(OSError):
                    self._come_and_go()
                with contextlib.suppress(BlockingIOError):
                    self._random.choice(slow).recv(2000)

    def _come_and_go(self) -> None:
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
    """How the relay is now."""
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
    """Watch it for so long."""
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
    """All that is not as it must be."""
    steady = samples[int(len(samples) * WARM_UP) + 1 :]
    size = len(steady) // 4

    def quarters(of: str) -> list[float]:
        found = [
            statistics.median(getattr(each, of) for each in steady[n * size : (n + 1) * size])
            for n in range(4)
        ]
        print(f"{of:12}" + ", then".join(f"{each:8.2f}" for each in found))
        return found

    memory, descriptors, stored = map(quarters, ("memory", "descriptors", "stored"))
    if min(later - earlier for earlier, later in itertools.pairwise(memory)) > LEAK:
        yield "memory grows all the time"
    if memory[-1] > memory[0] * GROWTH:
        yield f"memory has grown by more than {GROWTH - 1:.0%}"
    if descriptors[-1] > descriptors[0] + 3:
        yield "descriptors have leaked"
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
    """Draw it."""
    import matplotlib as mpl  # noqa: PLC0415 - nothing else needs it

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
    """Run it; the exit status."""
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
        stack.callback(trouble.over.set)
        running.produce(PRODUCERS, RATE)
        samples = list(soak(relay, running, asked.minutes * 60))
        trouble.over.set()
        trouble.join()
        produced = running.finish()
        relay.wait_status(subscribers=0, producers=0)
        relay.wait_stored()
        wrong = list(complaints(samples, produced, running.checkers, relay))
    print(f"connections {trouble.connections} that came and went, {RESTARTS} restarts")
    plot(samples, asked.plot)
    print(f"See {asked.plot}")
    for each in wrong[:20]:
        print("WRONG:", each)
    return bool(wrong)


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
