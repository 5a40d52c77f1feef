# SPDX-License-Identifier: Apache-2.0
"""Reach all limits at once inside a control group with the unit's MemoryMax=."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relay.request import MAX_REQUEST_SIZE
from notif_relayd.fanout.fanout import MAX_FILTER_BYTES
from notif_relayd.fanout.publisher import MAX_TORN_BYTES
from notif_relayd.fanout.shared_pages import MIN_SHARED_SIZE
from notif_relayd.ingest.intake import MAX_PARTIAL_BYTES
from support import descriptors
from support.memory_limit import memory_cgroup
from support.records import record
from support.relay import connect
from support.relayctl import needs_root
from support.service_manager import ManagedRelay

UNIT = Path(__file__).parents[2] / "systemd" / "notif-relayd.service"

MAX_CONNECTIONS = 2048
"""The defaults of max_producers and max_subscribers."""

JOIN = """
import os, pathlib, runpy, sys
pathlib.Path({procs!r}).write_text(str(os.getpid()))
sys.argv[0] = "notif-relayd"
runpy.run_module("notif_relayd", run_name="__main__", alter_sys=True)
"""

LONG = record(payload="x" * 1_000_000)
SHORT = record(payload="x" * 1000)

CONFIGURATION = f"""
[relayd]
# All connections of this test belong to one user.
max_connections_per_user = {MAX_CONNECTIONS}
max_connection_rate = 100000
max_filter_bytes_per_user = {MAX_FILTER_BYTES}
"""


def memory_max() -> int:
    found = re.search(r"^MemoryMax=(\d+)G$", UNIT.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 30


@pytest.fixture
def peers() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def connections(
    stack: contextlib.ExitStack, relay: ManagedRelay, kind: str, total: int
) -> list[socket.socket]:
    """Connect until the relay has `total` of a kind, in batches that fit into the backlog."""
    made: list[socket.socket] = []
    path = relay.ingest if kind == "producers" else relay.public
    while (count := relay.status()[kind]) < total:
        for _ in range(min(500, total - count)):
            made.append(stack.enter_context(connect(path)))
            made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            count += 1
        relay.wait_status(**{kind: count})
    return made


def fill(relay: ManagedRelay, stack: contextlib.ExitStack) -> None:
    """Reach every limit: connections, torn and partial records, requests, ring and sockets."""
    torn = MAX_TORN_BYTES // len(LONG) + 5
    partial = MAX_PARTIAL_BYTES // len(LONG) + 5
    requests = MAX_FILTER_BYTES // (MAX_REQUEST_SIZE - 1000) - 3
    producers = connections(stack, relay, "producers", MAX_CONNECTIONS)
    for number in range(1, torn + 1):
        connections(stack, relay, "subscribers", number)
        producers[0].sendall(LONG)
        relay.wait_status(records_received=number)
    fill_ring(relay, producers[0])
    relay.wait_logged("stopped reading in the middle of a record")
    subscribers = connections(stack, relay, "subscribers", MAX_CONNECTIONS)
    for each in producers[1 : partial + 1]:
        each.sendall(LONG[:-100])
    relay.wait_logged("unfinished records")
    fill_sockets(relay, producers[0])
    fill_ring(relay, producers[0])
    for each in subscribers[:requests]:
        each.sendall(b"x" * (MAX_REQUEST_SIZE - 1000))
    # The relay reads the requests of one user in turn, so this one is answered last.
    last = subscribers[requests]
    last.sendall(json.dumps({"filter": {"event_type": ["a"]}}).encode() + b"\n")
    stream = stack.enter_context(last.makefile("rb"))
    assert any(b"notif_relayd.subscribed" in line for line in stream)


def fill_ring(relay: ManagedRelay, producer: socket.socket) -> None:
    status = relay.status()
    count = status["ring_limit_bytes"] // len(SHORT) + 1
    for _ in range(count):
        producer.sendall(SHORT)
    relay.wait_status(records_received=status["records_received"] + count)


def fill_sockets(relay: ManagedRelay, producer: socket.socket) -> None:
    """Send batches that are too small to be shared, so every socket holds a copy."""
    batch = SHORT * (MIN_SHARED_SIZE // len(SHORT) // 2)
    received = relay.status()["records_received"]
    for sent in range(1, 300_000 // len(batch)):
        producer.sendall(batch)
        relay.wait_status(records_received=received + sent * batch.count(b"\n"))


@needs_root
def test_all_limits_together_stay_below_memory_max(
    directory: Path, peers: contextlib.ExitStack
) -> None:
    descriptors.require(9 * MAX_CONNECTIONS)
    configuration = directory / "relayd.conf"
    configuration.write_text(CONFIGURATION)
    with memory_cgroup(memory_max()) as group, contextlib.ExitStack() as stack:

        class LimitedRelay(ManagedRelay):
            program = ("-c", JOIN.format(procs=str(group.procs)))

        relay = LimitedRelay(directory, "--config-file", str(configuration))
        stack.callback(relay.close)
        fill(relay, peers)
        for _ in range(2):
            before = relay.status()
            relay.restart()
            after = relay.status()
            assert "without saved state" not in relay.log.read_text()
            for name in ("producers", "subscribers", "ring_bytes", "records_received"):
                assert after[name] == before[name], name
        assert group.kills == 0
        peers.close()
        relay.wait_status(producers=0, subscribers=0)
        with relay.subscribe() as subscriber, relay.produce() as producer:
            producer.sendall(record())
            assert subscriber.line() == record()
        assert relay.stop() == 0
        assert group.kills == 0
