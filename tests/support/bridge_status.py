# SPDX-License-Identifier: Apache-2.0
"""Status sockets with fixed figures."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from notif_relayd_bridge.status import StatusServer

SPOOL = {
    "records": 6,
    "bytes": 8192,
    "max_bytes": 65536,
    "oldest_seconds": 90.5,
    "dropped": 2,
    "failed": False,
}

REPORT: dict[str, object] = {
    "name": "b",
    "version": "0.2.0",
    "pid": os.getpid(),
    "direction": "out",
    "broker": "rabbit",
    "connected": True,
    "since": 1.8e9,
    "confirmed": 7,
    "repeated": 8,
    "refused": 9,
    "skipped": 10,
    "spooled": 11,
    "unconfirmed": 4,
    "waiting": 5,
    "spool": SPOOL,
}
"""What a bridge answers."""


@contextlib.contextmanager
def serve(directory: Path, name: str, report: Mapping[str, object]) -> Iterator[StatusServer]:
    """Context with the status socket of a bridge below the directory of all bridges."""
    (directory / name).mkdir(exist_ok=True)
    server = StatusServer(os.fspath(directory / name / "status.sock"), lambda: report)
    with contextlib.closing(server):
        yield server
