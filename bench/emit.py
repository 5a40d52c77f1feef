# SPDX-License-Identifier: Apache-2.0
"""Cost of a log call with a RelayHandler, as a ratio to the same call with a FileHandler.

Absolute times depend on the machine. Therefore each round times all cases directly after each
other, with the same logger and message, and takes ratios within the round. The median of the
ratios over the rounds is compared with the limit.

Cases: connected to a relay that reads, no relay, and a relay that is stopped by SIGSTOP and whose
socket is full. Unless ``--ingest`` names the private socket of a running relay, a process that
only reads replaces the relay. The connected case depends on the machine most, because a send
includes the cost of waking a sleeping reader, which can exceed the remaining cost.

Exit status 1: a ratio exceeds its limit, or the connected handler dropped a record, which makes
its calls look cheap.
"""

import argparse
import json
import logging
import multiprocessing
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from notif_relay import RelayHandler

LIMIT = 0.8
"""Maximum ratio to the time of a FileHandler."""

MESSAGE_SIZE = 1024
FORK = multiprocessing.get_context("fork")


def read_all(listener: socket.socket) -> None:
    """Replace the relay: accept connections one after another and read each until it ends."""
    while True:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(1 << 20):
                pass


def start_reader(path: Path) -> int:
    """Start a process that replaces the relay at ``path``; return its process ID."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        process = FORK.Process(target=read_all, args=(listener,), daemon=True)
        process.start()
    assert process.pid is not None
    return process.pid


def message() -> str:
    """Return a notification of MESSAGE_SIZE bytes in the format of the log driver."""
    notification = {
        "message_id": "8b5c1f0e-6a0f-4d6e-9d53-1f5a3f0d2c11",
        "publisher_id": "nova-compute:host-1",
        "event_type": "compute.instance.update",
        "priority": "INFO",
        "payload": {"display_name": ""},
        "timestamp": "2024-01-01 00:00:00.000000",
    }
    padding = MESSAGE_SIZE - len(json.dumps(notification))
    notification["payload"] = {"display_name": "x" * padding}
    return json.dumps(notification)


def timed(logger: logging.Logger, handler: logging.Handler, text: str, calls: int) -> float:
    """Return the time of one log call, in seconds."""
    logger.handlers = [handler]
    started = time.perf_counter()
    for _ in range(calls):
        logger.info(text)
    return (time.perf_counter() - started) / calls


def fill(logger: logging.Logger, handler: RelayHandler, text: str) -> None:
    """Log until the socket is full and a record has been dropped."""
    logger.handlers = [handler]
    while not handler.stats().dropped:
        logger.info(text)


def main() -> int:
    parser = argparse.ArgumentParser(description="The cost of RelayHandler against FileHandler.")
    parser.add_argument("--ingest", metavar="PATH", help="private socket of a running relay")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5000, help="log calls per case and round")
    parser.add_argument(
        "--directory", default="/var/tmp", help="directory for the FileHandler; not on a tmpfs"
    )
    options = parser.parse_args()

    logger = logging.getLogger("oslo.messaging.notification.compute.instance.update")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    text = message()

    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        start_reader(Path(directory, "reader"))
        stopped_relay = start_reader(Path(directory, "stopped"))
        file = logging.FileHandler(Path(directory, "notifications.log"))
        connected = RelayHandler(options.ingest or Path(directory, "reader"))
        stopped = RelayHandler(Path(directory, "stopped"))
        cases = {
            "connected": connected,
            "no relay": RelayHandler(Path(directory, "none")),
            "relay stopped": stopped,
        }
        os.kill(stopped_relay, signal.SIGSTOP)
        os.waitpid(stopped_relay, os.WUNTRACED)
        fill(logger, stopped, text)

        baseline: list[float] = []
        costs: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.rounds):
            baseline.append(timed(logger, file, text, options.calls))
            for name, handler in cases.items():
                costs[name].append(timed(logger, handler, text, options.calls))
        dropped = connected.stats().dropped
        file.close()
        for handler in cases.values():
            handler.close()
        os.kill(stopped_relay, signal.SIGKILL)

    print(f"{options.rounds} rounds of {options.calls} log calls, {MESSAGE_SIZE} bytes each")
    print(f"{'':16}{'µs a call':>10}{'ratio':>8}{'min':>8}{'max':>8}{'limit':>8}")
    print(f"{'FileHandler':16}{statistics.median(baseline) * 1e6:10.2f}{1:8.2f}")
    failed = False
    for name, times in costs.items():
        ratios = [time / base for time, base in zip(times, baseline, strict=True)]
        ratio = statistics.median(ratios)
        failed |= ratio > LIMIT
        print(
            f"{name:16}{statistics.median(times) * 1e6:10.2f}{ratio:8.2f}"
            f"{min(ratios):8.2f}{max(ratios):8.2f}{LIMIT:8.2f}"
        )
    if dropped:
        print(f"connected: {dropped} records were dropped, so its ratio is invalid")
    return int(failed or dropped > 0)


if __name__ == "__main__":
    sys.exit(main())
