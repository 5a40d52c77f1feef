# SPDX-License-Identifier: Apache-2.0
"""Compares the latencies of several relays, which run at the same time and get records in turn.

Between two rounds of ``make bench``, the speed of a host changes by more than relays differ: the
same relay can be 10 % slower a minute later. This program shows a difference of 2 % in the median
within a minute. On the other hand, several relays on one processor evict each other's caches, and
this load generator in Python adds a few microseconds to all results.

A relay is the name of a peer, or ``NAME=PATH`` for another checkout of this project, to measure
the effect of a change. The others are compared with the first one. Name the first one twice to see
the variation without a difference.
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
"""Seconds without data after which no more data is expected."""

WARM_UP = 0.1
"""Share of the records that are not counted."""


class Pair:
    """A producer and a subscriber of one relay."""

    def __init__(self, running: peers.Running, wire: Wire) -> None:
        self.microseconds: list[float] = []
        self._wire = wire
        self._subscriber = peers.connect(running.plan.public)
        _handshake(self._subscriber, wire.subscriber_hello, wire.subscriber_answer)
        self._subscriber.sendall(wire.subscriber_request)
        self._producer = peers.connect(running.plan.ingest)
        _handshake(self._producer, wire.producer_hello, wire.producer_answer)
        self._join()
        for each in (self._subscriber, self._producer):
            each.setblocking(False)

    def relay(self) -> None:
        """Send a record, poll for it without sleeping, and store its latency."""
        left = len(self._wire.arrives)
        sent = time.perf_counter_ns()
        self._producer.send(self._wire.sent)
        while left > 0:
            with contextlib.suppress(BlockingIOError):
                left -= len(_receive(self._subscriber, left))
            if time.perf_counter_ns() - sent > peers.DEADLINE * 1e9:
                raise SystemExit("A record has not arrived before the deadline.")
        self.microseconds.append((time.perf_counter_ns() - sent) / 1000)
        # Discard answers to the producer, so that they do not fill the socket buffer.
        with contextlib.suppress(BlockingIOError):
            self._producer.recv(4096)

    def _join(self) -> None:
        """Send records until one arrives, then wait until no record is pending."""
        self._subscriber.settimeout(QUIET)
        received = b""
        deadline = time.monotonic() + peers.DEADLINE
        while not received.endswith(self._wire.arrives):
            if time.monotonic() > deadline:
                raise SystemExit("No record arrives before the deadline.")
            self._producer.sendall(self._wire.sent)
            with contextlib.suppress(TimeoutError):
                while True:
                    received += _receive(self._subscriber)


def _handshake(sock: socket.socket, hello: bytes, answer: bytes) -> None:
    sock.sendall(hello)
    received = b""
    while answer not in received:
        received += _receive(sock)


def _receive(sock: socket.socket, size: int = 1 << 16) -> bytes:
    received = sock.recv(size)
    if not received:
        raise SystemExit("A relay closed a connection.")
    return received


def _checkout(name: str, path: Path) -> peers.Peer:
    """Return the relay of another checkout, with the requirements of this one."""
    # Modules that these directories do not contain are imported from this checkout.
    places = [os.fspath(path.absolute() / part) for part in ("handler", "relayd")]
    if missing := [place for place in places if not Path(place).is_dir()]:
        raise SystemExit(f"{name}: {missing[0]} is not a directory.")
    package = path / "relayd/notif_relayd"
    if list(package.glob("_native.c*")) and not list(package.glob("_native.*.so")):
        # Otherwise the compiled module of this checkout would be used without a warning.
        raise SystemExit(
            f'{name}: the compiled module is missing: run "make venv" in the checkout.'
        )

    def plan(directory: Path) -> peers.Plan:
        ours = peers.RELAY.plan(directory)
        command = ["env", f"PYTHONPATH={os.pathsep.join(places)}", *ours.command]
        return replace(ours, command=command)

    return replace(peers.RELAY, name=name, plan=plan)


def _relay(argument: str) -> peers.Peer:
    name, is_checkout, path = argument.partition("=")
    if is_checkout:
        return _checkout(name, Path(path))
    known = {peer.name: peer for peer in (peers.RELAY, peers.LIMIT, *peers.ALTERNATIVES)}
    if name not in known:
        raise SystemExit(f"Unknown relay {name}: use {', '.join(known)} or NAME=PATH.")
    if why := known[name].missing():
        raise SystemExit(f"{name}: {why}.")
    return known[name]


def main() -> None:
    parser = argparse.ArgumentParser(description="Latencies of relays, record by record in turn.")
    parser.add_argument("relays", nargs="+", metavar="RELAY", help="a peer's name, or NAME=PATH")
    parser.add_argument(
        "--rate", type=float, default=2500, help="records per second to all relays together"
    )
    parser.add_argument("--seconds", type=float, default=40)
    options = parser.parse_args()
    if not (0 < options.rate < math.inf and 0 < options.seconds < math.inf):
        parser.error("--rate and --seconds must be positive and finite")
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
