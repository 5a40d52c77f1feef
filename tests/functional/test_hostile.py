# SPDX-License-Identifier: Apache-2.0
"""Hostile programs do not harm other peers; bench/hostile.py measures the delay they cause."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.hostile import PROGRAMS, hostile_program, subscribe_beside
from support.records import record
from support.relay import RunningRelay, running_relay
from support.waiting import wait_until

RECORDS = 1000

UNIT = Path(__file__).parents[2] / "systemd" / "notif-relayd.service"


def documented_memory() -> dict[str, int]:
    """Return the parts of the process's maximum memory, in MiB, as listed above MemoryMax=."""
    listed = re.findall(r"^# {2,}(\d+) (?:MiB)? +(.*)$", UNIT.read_text(), re.MULTILINE)
    return {what: int(size) for size, what in listed}


MEMORY = sum(documented_memory().values()) << 20
"""Documented maximum memory of the process, in bytes, without the kernel's buffers."""


@pytest.mark.parametrize("what", PROGRAMS)
def test_hostile_program_does_not_affect_other_peers(relay: RunningRelay, what: str) -> None:
    with subscribe_beside(what, relay) as subscriber, relay.produce() as producer:
        with hostile_program(what, relay.public, relay.ingest) as process:
            for number in range(RECORDS):
                producer.sendall(record(number=number))
                assert subscriber.line() == record(number=number)
            assert process.poll() is None
        assert relay.peak_memory() < MEMORY
        producer.sendall(record("test.afterwards"))
        assert subscriber.line() == record("test.afterwards")
        relay.wait_status(producers=1, subscribers=1)
    assert "\x1b" not in relay.log.read_text()


def number_in_unit(pattern: str) -> int:
    found = re.search(pattern, UNIT.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_memory_listed_in_the_unit_adds_up_to_its_limit() -> None:
    buffers = number_in_unit(r"buffer shares: (\d+) MiB")
    total = number_in_unit(r"^# The total is (\d+) MiB")
    assert sum(documented_memory().values()) + buffers == total
    assert total < number_in_unit(r"^MemoryMax=(\d+)G$") * 1024


def test_memory_is_bounded_with_all_limits_reached(directory: Path) -> None:
    """Subscribers stall within a record, the ring is full, and the other limits are reached."""
    long = record(payload="x" * 60_000)
    with (
        running_relay(directory) as relay,
        hostile_program("as much memory as possible", relay.public, relay.ingest),
        relay.produce() as producer,
    ):
        for _ in range(1000):
            producer.sendall(long)
        relay.wait_status(records_received=1000)
        # The other subscribers have exceeded max_filter_bytes_per_user.
        limit = (8 << 20) // 65_000
        # Under load, some of the rest are disconnected because they stopped within a record.
        wait_until(lambda: relay.status()["subscribers"] <= limit, "the limit is enforced")
        assert relay.peak_memory() < MEMORY


def test_log_identifies_the_misbehaving_producer(relay: RunningRelay) -> None:
    with hostile_program("garbage", relay.public, relay.ingest) as process:
        relay.wait_status(producers=1)
        (producer,) = relay.request("producers")
        assert producer["pid"] == process.pid
        assert producer["rejected"] >= 1000
        assert producer["command"].startswith("python")
        relay.wait_logged(f"producer pid {process.pid} (python")


NAMED = """
import ctypes, socket, sys
ctypes.CDLL(None).prctl(15, b"\\x1b[31m\\nERROR ok")
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b"garbage\\n")
sys.stdin.read()
"""


def test_process_name_is_escaped(relay: RunningRelay) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", NAMED, relay.ingest], stdin=subprocess.PIPE
    ) as process:
        relay.wait_logged("(\\u001b[31m\\nERROR ok, uid")
        (producer,) = relay.request("producers")
        assert r"\u001b[31m\nERROR ok" in relay.request("disconnect", id=producer["id"])
        process.communicate()
    log = relay.log.read_text()
    assert "\x1b" not in log
    assert "\nERROR ok" not in log
