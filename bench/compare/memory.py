# SPDX-License-Identifier: Apache-2.0
"""How much memory the relay takes, by subscribers that never read: idle, and under load.

Under load means that several times as much was written as the ring holds, while nobody read, so
that every subscriber is behind and the ring is full. What counts is what is resident then and, so
that nothing escapes in between, the most that ever was.
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
"""64 MiB of them: four times the ring."""
DEADLINE = 60.0


def measure(rounds: int, tell: Callable[[str], None]) -> Rounds:
    """Both for each number of subscribers."""
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
    """Until the relay's status says so."""
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
    """MiB, as proc(5) has it in the process's status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {which} for process {pid}")
