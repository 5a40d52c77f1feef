# SPDX-License-Identifier: Apache-2.0
"""Runs the compiled load generator and parses its results."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from compare.notification import STAMP
from compare.wire import Wire

PROGRAM = Path(__file__).parents[1] / "build" / "load"

TIMEOUT = 120
"""Maximum duration of a measurement in seconds, before it is considered to hang."""


class LoadError(Exception):
    """The load generator failed; the message is its error message."""


@dataclass(frozen=True, slots=True)
class Work:
    """What to measure."""

    size: int = 1024
    """Bytes of a record."""
    producers: int = 1
    subscribers: int = 1
    stalled: int = 0
    """Further subscribers, which never read."""
    window: int = 1024 * 1024
    """Maximum number of bytes of pending records; 0 for no limit."""
    rate: int = 0
    """Records per second; 0 for as fast as possible."""
    count: int = 0
    """Number of records to send; 0 to send for `seconds`."""
    seconds: float = 1.0
    warm_up: float = 0.3


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of a measurement."""

    seconds: float
    sent: int
    delivered: int
    """Received records; a record counts once for each subscriber."""
    lost: int
    asides: int
    """Received lines that are not records of a producer, such as gap records."""
    cpu: float
    """Processor time of the relay, in seconds."""
    own_cpu: float
    """Processor time of the load generator, in seconds."""
    samples: int
    p50: float
    """Latency from writing to reading in microseconds, like the next two."""
    p90: float
    p99: float

    @property
    def rate(self) -> float:
        """Delivered records per second."""
        return self.delivered / self.seconds

    @property
    def cpu_each(self) -> float:
        """Processor time of the relay per delivered record, in microseconds."""
        return self.cpu / self.delivered * 1e6


def core(number: int) -> int:
    """Return the first (0) or the last (-1) available processor."""
    return sorted(os.sched_getaffinity(0))[number]


def on_core(number: int, command: list[str]) -> list[str]:
    """Return the command, bound to this processor."""
    return ["taskset", "--cpu-list", str(core(number)), *command]


def command(wire: Wire, ingest: str, public: str, pid: int, work: Work) -> list[str]:
    """Return the command line of the load generator."""
    options = {
        "publish-at": ingest,
        "subscribe-at": public,
        "producer-hello": wire.producer_hello.hex(),
        "producer-answer": wire.producer_answer.hex(),
        "subscriber-hello": wire.subscriber_hello.hex(),
        "subscriber-answer": wire.subscriber_answer.hex(),
        "subscriber-request": wire.subscriber_request.hex(),
        "record": wire.sent.hex(),
        "stamp-at": wire.sent.index(STAMP.encode()),
        "frame-size": len(wire.arrives),
        "stamped-at": wire.arrives.index(STAMP.encode()),
        "producers": work.producers,
        "subscribers": work.subscribers,
        "stalled": work.stalled,
        "window": work.window // work.size,
        "rate": work.rate,
        "count": work.count,
        "watch": pid,
        "seconds": work.seconds,
        "warm-up": work.warm_up,
    }
    return [os.fspath(PROGRAM), *(text for n, v in options.items() for text in (f"--{n}", str(v)))]


def measure(wire: Wire, ingest: str, public: str, pid: int, work: Work) -> Measured:
    """Run the load generator once.

    Raises:
        LoadError: a connection failed or was closed, or no record arrived.
    """
    done = subprocess.run(
        on_core(-1, command(wire, ingest, public, pid, work)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise LoadError(done.stderr.strip())
    return Measured(**json.loads(done.stdout))
