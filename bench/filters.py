# SPDX-License-Identifier: Apache-2.0
"""What filters cost those who have none: throughput to one subscriber, beside ten with filters.

Two relays run side by side, and each round sends the same records through both: to one
unfiltered subscriber alone, and to one beside ten others, each with a filter of its own that lets
one record in a thousand through. Only the ratio within a round counts; the median over the rounds
is held against the limit.

Exit status 1: the ratio is under the limit, or a record was lost, which would make it look fast.
"""

import argparse
import contextlib
import json
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import descriptors

from running import RunningRelay, Subscriber, record, running_relay

LIMIT = 0.8
FILTERED = 10
BLOCK = 100
"""Records in one send; one of ten blocks has a record for each filter."""


def block(number: int) -> bytes:
    """Records of 1 KiB; every tenth block has one that a filter waits for."""
    lines = [record("compute.instance.update", payload="x" * 950)] * BLOCK
    if number % 10 == 0:
        lines[0] = record(f"rare.{number // 10 % FILTERED}", payload="x" * 950)
    return b"".join(lines)


@contextlib.contextmanager
def relay(filtered: int) -> Iterator[RunningRelay]:
    """A relay with so many filtered subscribers, which read what they get."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running_relay(Path(directory), "--relayd-ring_size", str(256 << 20)) as running,
        contextlib.ExitStack() as stack,
    ):
        readers = []
        for number in range(filtered):
            reader = stack.enter_context(running.subscribe())
            wanted = {"filter": {"event_type": [f"rare.{number}", f"never.{number}.*"]}}
            reader.socket.sendall(json.dumps(wanted).encode() + b"\n")
            assert reader.notification()["event_type"] == "notif_relayd.subscribed"
            readers.append(reader)
        thread = threading.Thread(target=read_all, args=(readers,), daemon=True)
        thread.start()
        yield running
        running.stop()
        thread.join()


def read_all(readers: list[Subscriber]) -> None:
    """Read until the relay ends the connections."""
    left = {reader.socket.fileno(): reader.socket for reader in readers}
    while left:
        for fd in select.select(list(left), [], [])[0]:
            if not left[fd].recv(1 << 20):
                del left[fd]


def seconds(running: RunningRelay, blocks: list[bytes]) -> float:
    """How long it takes until one unfiltered subscriber has everything."""
    with running.subscribe() as subscriber, running.produce() as producer:
        sender = threading.Thread(target=send_all, args=(producer, blocks))
        started = time.perf_counter()
        sender.start()
        left = sum(map(len, blocks))
        while left > 0:
            left -= len(subscriber.socket.recv(1 << 20))
        taken = time.perf_counter() - started
        sender.join()
    assert left == 0
    return taken


def send_all(producer: socket.socket, blocks: list[bytes]) -> None:
    for each in blocks:
        producer.sendall(each)


def main() -> int:
    parser = argparse.ArgumentParser(description="What filters cost those who have none.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--records", type=int, default=100_000, help="per round and relay")
    options = parser.parse_args()

    blocks = [block(number) for number in range(options.records // BLOCK)]
    ratios, rates = [], []
    with relay(0) as alone, relay(FILTERED) as beside:
        for _ in range(options.rounds):
            without = seconds(alone, blocks)
            ratios.append(without / seconds(beside, blocks))
            rates.append(options.records / without)
        lost = sum(each.status()["records_dropped"] for each in (alone, beside))
    ratio = statistics.median(ratios)
    print(f"{options.rounds} rounds of {options.records} records of 1 KiB to one subscriber")
    print(f"alone: {statistics.median(rates):.0f} records/s")
    print(
        f"beside {FILTERED} with filters: {ratio:.2f} of that "
        f"({min(ratios):.2f} to {max(ratios):.2f}), at least {LIMIT:.2f}"
    )
    if lost:
        print(f"{lost} records were lost, so the ratio means nothing")
    return int(ratio < LIMIT or lost > 0)


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
