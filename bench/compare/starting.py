# SPDX-License-Identifier: Apache-2.0
"""Delay of the first record, which starts the relay, compared with the import of its libraries.

The sockets are bound here and passed as systemd does (sd_listen_fds(3)). As with systemd, a
subscriber and a producer are connected and the record is written before the relay is started.
"""

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from compare.figures import Rounds
from compare.notification import record

FIRST = 3
"""Number of the first passed descriptor (SD_LISTEN_FDS_START)."""

TIMEOUT = 30.0
IMPORTS = "import oslo_config.cfg, oslo_log.log"


def first_record() -> float:
    """Return the time from the first connection to the delivery of the first record, in seconds."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        listeners = [
            _listen(Path(directory, name)) for name in ("notifications.sock", "ingest.sock")
        ]
        environment = {
            **os.environ,
            "LISTEN_FDS": str(len(listeners)),
            "LISTEN_FDNAMES": "public:ingest",
        }
        started = time.perf_counter()
        subscriber, producer = (_connect(each) for each in listeners)
        producer.sendall(record(1024))
        relay = subprocess.Popen(
            [
                *("/bin/sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"),
                *(sys.executable, "-m", "notif_relayd", "--runtime-dir", directory),
            ],
            env=environment,
            pass_fds=range(FIRST, FIRST + len(listeners)),
            preexec_fn=lambda: _place(listeners),  # noqa: PLW1509 - there are no threads
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            with subscriber, producer:
                if not subscriber.recv(1):
                    raise RuntimeError("the relay closed the connection")
            return time.perf_counter() - started
        finally:
            relay.kill()
            relay.wait()
            for each in listeners:
                each.close()


def importing() -> float:
    """Return the time in which Python imports the relay's libraries, in seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - started


def measure(rounds: int, tell: Callable[[str], None]) -> Rounds:
    """Measure both times in each round."""
    found: Rounds = {"start-up": {"notif-relayd": [], "imports": []}}
    for number in range(rounds):
        tell(f"start-up {number + 1}/{rounds}")
        found["start-up"]["notif-relayd"].append({"seconds": first_record()})
        found["start-up"]["imports"].append({"seconds": importing()})
    return found


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(os.fspath(path))
    sock.listen()
    return sock


def _connect(listener: socket.socket) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(TIMEOUT)
    sock.connect(listener.getsockname())
    return sock


def _place(listeners: list[socket.socket]) -> None:
    """In the child, give the sockets the descriptor numbers of sd_listen_fds(3)."""
    # Use temporary numbers, because a final number may belong to the next socket.
    temporary = [fcntl.fcntl(each, fcntl.F_DUPFD, 100) for each in listeners]
    for number, fd in enumerate(temporary, FIRST):
        os.dup2(fd, number)
