# SPDX-License-Identifier: Apache-2.0
"""Which of several relays is the quicker one: all run at once, and each gets a record in turn.

From one round of ``make bench`` to the next a host changes more than relays differ: the same one is
10 % slower a minute later. Here a difference of 2 % in the median shows within a minute. For that
the caches are as cold as several relays on one processor make them, and this load, which is in
Python, adds a few microseconds for everybody.

A relay is the name of a peer, or ``NAME=PATH`` for another checkout of this project, which is how
to find out what a change has gained. The first one is what the others are compared with; name it
twice, to see what there is to be seen where there is no difference.
"""

import argparse
import contextlib
import math
import os
import random
import socket
import statistics
import time
from dataclasses import replace
from pathlib import Path

from compare import peers
from compare.load import core
from compare.notification import record
from compare.wire import Wire

SIZE = 1024
"""Bytes of a record."""

QUIET = 0.1
"""Seconds without a byte after which nothing more will come."""

WARM_UP = 0.1
"""Of the records, which do not count."""


class Pair:
    """A producer and a subscriber of one relay."""

    def __init__(self, running: peers.Running, wire: Wire) -> None:
        self.microseconds: list[float] = []
        self._wire = wire
        self._subscriber = peers.connect(running.plan.public)
        _greet(self._subscriber, wire.subscriber_hello, wire.subscriber_answer)
        self._subscriber.sendall(wire.subscriber_request)
        self._producer = peers.connect(running.plan.ingest)
        _greet(self._producer, wire.producer_hello, wire.producer_answer)
        self._join()
        for each in (self._subscriber, self._producer):
            each.setblocking(False)

    def relay(self) -> None:
        """Send a record, wait for it without sleeping, and note how long it took."""
        left = len(self._wire.arrives)
        sent = time.perf_counter_ns()
        self._producer.send(self._wire.sent)
        while left > 0:
            with contextlib.suppress(BlockingIOError):
                left -= len(_hear(self._subscriber, left))
            if time.perf_counter_ns() - sent > peers.DEADLINE * 1e9:
                raise SystemExit("A record has not arrived.")
        self.microseconds.append((time.perf_counter_ns() - sent) / 1000)
        # What it answers to a producer is of no interest, but must not pile up.
        with contextlib.suppress(BlockingIOError):
            self._producer.recv(4096)

    def _join(self) -> None:
        """Wait until records arrive, and until nothing is under way any more."""
        self._subscriber.settimeout(QUIET)
        heard = b""
        deadline = time.monotonic() + peers.DEADLINE
        while not heard.endswith(self._wire.arrives):
            if time.monotonic() > deadline:
                raise SystemExit("No record arrives.")
            self._producer.sendall(self._wire.sent)
            with contextlib.suppress(TimeoutError):
                while True:
                    heard += _hear(self._subscriber)


def _greet(sock: socket.socket, hello: bytes, answer: bytes) -> None:
    sock.sendall(hello)
    heard = b""
    while answer not in heard:
        heard += _hear(sock)


def _hear(sock: socket.socket, size: int = 1 << 16) -> bytes:
    heard = sock.recv(size)
    if not heard:
        raise SystemExit("A relay has ended a connection.")
    return heard


def _checkout(name: str, path: Path) -> peers.Peer:
    """The relay of another checkout, with the libraries of this one."""
    # It is started in a directory of its own, and what is not found there is taken from here.
    places = [os.fspath(path.absolute() / part) for part in ("handler", "relayd")]
    if missing := [place for place in places if not Path(place).is_dir()]:
        raise SystemExit(f"{name}: {missing[0]} is no directory.")
    package = path / "relayd/notif_relayd"
    if list(package.glob("_native.c*")) and not list(package.glob("_native.*.so")):
        # The one of this checkout would be taken, without a word.
        raise SystemExit(f'{name}: nothing is compiled there: run "make venv" in it.')

    def plan(directory: Path) -> peers.Plan:
        ours = peers.RELAY.plan(directory)
        command = ["env", f"PYTHONPATH={os.pathsep.join(places)}", *ours.command]
        return replace(ours, command=command)

    return replace(peers.RELAY, name=name, plan=plan)


def _relay(asked: str) -> peers.Peer:
    name, is_checkout, path = asked.partition("=")
    if is_checkout:
        return _checkout(name, Path(path))
    known = {peer.name: peer for peer in (peers.RELAY, peers.LIMIT, *peers.ALTERNATIVES)}
    if name not in known:
        raise SystemExit(f"There is no {name}; there are {', '.join(known)}, and NAME=PATH.")
    if why := known[name].missing():
        raise SystemExit(f"{name}: {why}.")
    return known[name]


def main() -> None:
    parser = argparse.ArgumentParser(description="Latencies of relays, record by record in turn.")
    parser.add_argument("relays", nargs="+", metavar="RELAY", help="a peer's name, or NAME=PATH")
    parser.add_argument("--rate", type=float, default=2500, help="records a second, of all relays")
    parser.add_argument("--seconds", type=float, default=40)
    options = parser.parse_args()
    if not (0 < options.rate < math.inf and 0 < options.seconds < math.inf):
        parser.error("--rate and --seconds must be more than 0, and finite")
    relays = [_relay(each) for each in options.relays]
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(peers.running(each)) for each in relays]
        os.sched_setaffinity(0, {core(-1)})
        pairs = [Pair(each, each.peer.wire(record(SIZE))) for each in running]
        order = list(pairs)
        due = time.perf_counter()
        for _ in range(max(100, round(options.rate * options.seconds / len(pairs)))):
            random.shuffle(order)
            for pair in order:
                due += 1 / options.rate
                while time.perf_counter() < due:
                    pass
                pair.relay()
    print(f"{'µs':16}{'p50':>16}{'p90':>16}{'p99':>16}")
    first: list[float] = []
    for peer, pair in zip(relays, pairs, strict=True):
        counted = pair.microseconds[round(WARM_UP * len(pair.microseconds)) :]
        hundredths = statistics.quantiles(counted, n=100)
        found = [hundredths[part - 1] for part in (50, 90, 99)]
        first = first or found
        cells = (f"{each:.1f} ({each / base:.2f})" for each, base in zip(found, first, strict=True))
        print(f"{peer.name:16}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
