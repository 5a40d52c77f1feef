# SPDX-License-Identifier: Apache-2.0
"""The figures on the status socket of a bridge from a relay to a broker."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from notif_relay.version import __version__
from support.bridge import Bridge, fake_broker, running_bridge
from support.records import numbered_record, record
from support.relay import Relay
from support.waiting import TIMEOUT, wait_until

SPOOL_SIZE = 256 * 1024 * 1024


def report(path: Path) -> dict[str, Any]:
    """Ask a bridge."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(path))
        with client.makefile() as stream:
            found: dict[str, Any] = json.loads(stream.readline())
            assert stream.read() == ""
    return found


def emit(relay: Relay, count: int) -> None:
    with relay.produce() as producer:
        producer.sendall(b"".join(numbered_record(number, 200) for number in range(count)))


def wait_report(path: Path, **figures: object) -> dict[str, Any]:
    """Wait until a bridge reports these figures, and return all."""
    wait_until(lambda: figures.items() <= report(path).items(), f"the bridge reports {figures}")
    return report(path)


def test_figures_follow_the_records(directory: Path, relay: Relay) -> None:
    path = directory / "status.sock"
    with (
        fake_broker(directory) as broker,
        running_bridge(directory, relay, broker.url, Bridge, status_socket=path) as bridge,
    ):
        broker.accept()
        with relay.produce() as producer:
            producer.sendall(record(_bridge="hub"))
        emit(relay, 50)
        broker.read(50)
        broker.confirm(3)
        broker.refuse("too large")
        broker.read(1)  # the gap record
        first = wait_report(path, confirmed=3, refused=1)
        assert 0 < first.pop("since") < 2**33
        assert first == {
            "name": "out",
            "version": __version__,
            "pid": bridge.process.pid,
            "direction": "out",
            "broker": "test",
            "connected": True,
            "confirmed": 3,
            "repeated": 0,
            "refused": 1,
            "skipped": 1,
            "spooled": 0,
            "unconfirmed": 47,
            "waiting": 0,
            "spool": {
                "records": 0,
                "bytes": 0,
                "max_bytes": SPOOL_SIZE,
                "oldest_seconds": None,
                "dropped": 0,
                "failed": False,
            },
        }
        broker.close()
        second = wait_report(path, connected=False, spooled=47)
        assert (second["unconfirmed"], second["waiting"]) == (0, 0)
        spool = second["spool"]
        assert spool["records"] == 47
        assert 47 * 200 < spool["bytes"] < 100_000
        assert spool["oldest_seconds"] >= 0
        assert bridge.stop() == 0
    assert not path.exists()
