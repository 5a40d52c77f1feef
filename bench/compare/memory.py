# SPDX-License-Identifier: Apache-2.0
"""Memory of the relay with subscribers that never read, idle and under load.

Under load, the producer has written several times the size of the ring, so that all subscribers
are behind and the ring is full. The results are the resident memory at that time, and its maximum.
"""

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from compare.figures import Rounds
from compare.notification import record
from compare.peers import RELAY, Running, running

SUBSCRIBERS = (0, 100, 1000)
RECORDS = 64 * 1024
"""64 MiB, four times the size of the ring."""
DEADLINE = 60.0


def measure(rounds: int, tell: Callable[[str], None]) -> Rounds:
    """Measure the memory for each number of subscribers."""
    found: Rounds = {str(number): {RELAY.name: []} for number in SUBSCRIBERS}
    for number in range(rounds):
        for subscribers in SUBSCRIBERS:
            tell(f"memory {number + 1}/{rounds}: {subscribers} subscribers")
            with running(RELAY) as relay:
                found[str(subscribers)][RELAY.name].append(_fill(relay, subscribers))
    return found


def _fill(relay: Running, subscribers: int) -> dict[str, float]:
    with ExitStack() as stack:
        for _ in range(subscribers):
            stack.enter_context(_connect(relay.plan.public))
        _wait(relay, "subscribers", subscribers)
        idle = _resident(relay.pid, "VmRSS")
        producer = stack.enter_context(_connect(relay.plan.ingest))
        for _ in range(RECORDS // 64):
            producer.sendall(record(1024) * 64)
        _wait(relay, "records_received", RECORDS)
        return {
            "idle": idle,
            "loaded": _resident(relay.pid, "VmRSS"),
            "most": _resident(relay.pid, "VmHWM"),
        }


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE)
    sock.connect(path)
    return sock


def _wait(relay: Running, what: str, value: int) -> None:
    """Wait until this value of the relay's status is reached."""
    control = os.fspath(Path(relay.plan.public).with_name("control.sock"))
    deadline = time.monotonic() + DEADLINE
    with _connect(control) as sock, sock.makefile("rwb") as stream:
        while True:
            stream.write(b'{"method": "status"}\n')
            stream.flush()
            if json.loads(stream.readline())["result"][what] == value:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the relay's {what} are not {value}")
            time.sleep(0.01)


def _resident(pid: int, which: str) -> float:
    """Return a value of /proc/PID/status (proc(5)), in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {which} for process {pid}")
