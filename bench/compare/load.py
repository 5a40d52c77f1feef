# SPDX-License-Identifier: Apache-2.0
"""Runs the compiled load against whatever listens, and reads what it has measured."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from compare.notification import STAMP
from compare.wire import Wire

PROGRAM = Path(__file__).parents[1] / "build" / "load"

TIMEOUT = 120
"""Seconds: no measurement takes longer unless something hangs."""


class LoadError(Exception):
    """The load could not do what it was to do; the reason in its own words."""


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
    """Bytes under way at most; 0 for no limit."""
    rate: int = 0
    """Records a second; 0 for as fast as it goes."""
    count: int = 0
    """Records after which it is over; 0 for when the time is over."""
    seconds: float = 1.0
    warm_up: float = 0.3


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of it."""

    seconds: float
    sent: int
    delivered: int
    """Records, one for each subscriber that got it."""
    lost: int
    asides: int
    """What arrived and was no record, such as gap records."""
    cpu: float
    """Seconds of processor time that the relay took."""
    own_cpu: float
    """Likewise the load."""
    samples: int
    p50: float
    """Microseconds from writing to having read, as are the next two."""
    p90: float
    p99: float

    @property
    def rate(self) -> float:
        """Delivered records a second."""
        return self.delivered / self.seconds

    @property
    def cpu_each(self) -> float:
        """Microseconds of the relay's processor time for each delivered record."""
        return self.cpu / self.delivered * 1e6


def core(number: int) -> int:
    """The first processor that may be used (0), or the last (-1)."""
    return sorted(os.sched_getaffinity(0))[number]


def on_core(number: int, command: list[str]) -> list[str]:
    """The command, held to that processor."""
    return ["taskset", "--cpu-list", str(core(number)), *command]


def command(wire: Wire, ingest: str, public: str, pid: int, work: Work) -> list[str]:
    """The load's command line."""
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
    """Run the load once.

    Raises:
        LoadError: not all could connect, or a connection ended, or nothing arrived.
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
