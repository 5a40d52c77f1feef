# SPDX-License-Identifier: Apache-2.0
"""Rate of subscribe(), as a ratio to a bare loop over the lines of a socket.

The bare loop is ``for line in socket.makefile("rb")`` without parsing. With subscribe(), the
``raw`` and ``event_type`` of each notification are read. Each round runs all cases directly after
each other, and the median of the ratios within a round is compared with the limit.

A process that writes the same bytes as fast as possible replaces the relay. A real relay would be
slower than both readers, so that the ratio would always be 1. Records have 1 KiB and the format of
oslo.messaging's log driver, with several publishers and event types.

Exit status 1: the ratio is below the limit, or records were lost.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import notif_relay
import notif_relay.aio
from notif_relay import records

LIMIT = 0.5
SIZE = 1024
FORK = multiprocessing.get_context("fork")
NO_REQUEST = b"\n"
"""Sent by the bare loop, which does not request a filter."""


def record(number: int) -> bytes:
    """Return a notification of SIZE bytes in the format of the log driver."""
    notification = {
        "message_id": f"8b5c1f0e-6a0f-4d6e-9d53-{number:012x}",
        "publisher_id": f"compute.host-{number % 4}",
        "event_type": f"compute.instance.update.{number % 16}",
        "priority": "INFO",
        "payload": {"display_name": "web-1", "state": "active", "memory_mb": 2048, "image": ""},
        "timestamp": "2026-01-31 12:00:00.123456",
    }
    padding = SIZE - 1 - len(json.dumps(notification))
    words = ("some words of a payload, " * SIZE)[:padding]
    notification["payload"] = {**notification["payload"], "image": words}  # type: ignore[dict-item]
    return json.dumps(notification).encode() + b"\n"


def write_all(listener: socket.socket, batch: bytes, times: int) -> None:
    """Replace the relay: send the batch to each subscriber, after an answer to its request."""
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            if connection.recv(1 << 16) != NO_REQUEST:
                connection.sendall(records.subscribed({}))
            for _ in range(times):
                connection.sendall(batch)


def bare(path: Path) -> int:
    """Count lines."""
    read = 0
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(NO_REQUEST)
        for _line in sock.makefile("rb"):
            read += 1
    return read


def threaded(path: Path) -> int:
    """Count notifications of notif_relay.subscribe."""
    read = 0
    with (
        contextlib.suppress(notif_relay.RelayUnavailable),
        notif_relay.subscribe(path, reconnect=False) as subscriber,
    ):
        for notification in subscriber:
            notification.raw  # noqa: B018
            notification.event_type  # noqa: B018
            read += 1
    return read


def with_asyncio(path: Path) -> int:
    """Count notifications of notif_relay.aio.subscribe."""

    async def count() -> int:
        read = 0
        async with notif_relay.aio.subscribe(path, reconnect=False) as subscriber:
            with contextlib.suppress(notif_relay.RelayUnavailable):
                async for notification in subscriber:
                    notification.raw  # noqa: B018
                    notification.event_type  # noqa: B018
                    read += 1
        return read

    return asyncio.run(count())


def main() -> int:
    parser = argparse.ArgumentParser(description="The rate of subscribe() against a bare loop.")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--records", type=int, default=200_000, help="for each case and round")
    options = parser.parse_args()

    # About a megabyte, so that the records do not fit into the first-level cache.
    batch = b"".join(map(record, range(1000)))
    assert all(
        notif_relay.Notification(line).event_type == json.loads(line)["event_type"]
        for line in itertools.islice(batch.splitlines(keepends=True), 100)
    )
    times = options.records // 1000
    cases = {"bare loop": bare, "subscribe": threaded, "aio.subscribe": with_asyncio}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory, "notifications.sock")
        listener.bind(str(path))
        listener.listen()
        relay = FORK.Process(target=write_all, args=(listener, batch, times), daemon=True)
        relay.start()
        for _ in range(options.rounds):
            for name, case in cases.items():
                started = time.perf_counter()
                read = case(path)
                rates[name].append(read / (time.perf_counter() - started))
                if read != times * 1000:
                    print(f"{name}: {read} of {times * 1000} records were read")
                    return 1
        relay.kill()

    print(f"{options.rounds} rounds of {times * 1000} records, {SIZE} bytes each")
    print(f"{'':16}{'records/s':>12}{'ratio':>8}{'min':>8}{'max':>8}{'limit':>8}")
    ratios = {
        name: [rate / base for rate, base in zip(rates[name], rates["bare loop"], strict=True)]
        for name in cases
    }
    for name, each in ratios.items():
        limit = f"{LIMIT:8.2f}" if name == "subscribe" else ""
        print(
            f"{name:16}{statistics.median(rates[name]):12,.0f}{statistics.median(each):8.2f}"
            f"{min(each):8.2f}{max(each):8.2f}{limit}"
        )
    return int(statistics.median(ratios["subscribe"]) < LIMIT)


if __name__ == "__main__":
    sys.exit(main())
