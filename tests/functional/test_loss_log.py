# SPDX-License-Identifier: Apache-2.0
"""The relay logs which subscriber loses records, how many, and when that is over."""

from __future__ import annotations

import itertools
import json
import logging
import os
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest

from notif_relayd.access.policy import Policy
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.handover.state import State, decode, encode
from notif_relayd.ingest.saved_state import IntakeState
from notif_relayd.net.ratelimit import INTERVAL, MAX_USER_LINES, RateLimitedLog
from notif_relayd.settings import GroupLimits
from support.loop_harness import LoopHarness, read_available
from support.records import is_gap, numbered_record

RING_SIZE = 400_000

BATCH = 100
"""Records in a batch; the ring holds three of them."""

STARTED = "reads too slowly and loses records"
CAUGHT_UP = "has caught up"
DISCONNECTED = "disconnected and had not caught up"


class Relay:
    """A fan-out with real connections; a test publishes the records and sets the time."""

    def __init__(self, harness: LoopHarness, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self.harness = harness
        self.caplog = caplog
        self.clock = SimpleNamespace(now=1000.0)
        self.numbers = itertools.count()
        self.fanout = self.start()
        self.fanout.listen(harness.listener)

    def start(self) -> Fanout:
        """Create a fan-out that has logged nothing yet."""
        log = RateLimitedLog(logging.getLogger("test"), lambda: self.clock.now)
        context = replace(self.harness.context, log=log, ids=itertools.count(1))
        fanout = Fanout(context, self.harness.limits, Policy(), RING_SIZE, 1 << 20, GroupLimits())
        self.harness.parts.append(fanout)
        return fanout

    def restart(self) -> None:
        """Continue in another fan-out with the saved state."""
        old = self.fanout
        state = b"".join(encode(State(1000, IntakeState(0, 0, {}, []), old.save())))
        connections = {number: each.socket.dup() for number, each in old.subscribers.items()}
        old.close()
        self.caplog.clear()
        self.fanout = self.start()
        self.fanout.restore(decode(state).fanout, connections)

    def connect(self) -> socket.socket:
        client = self.harness.connect()
        present = len(self.fanout.subscribers)
        while len(self.fanout.subscribers) == present:
            self.harness.run_once()
        client.setblocking(False)
        return client

    def join(self, group: str) -> socket.socket:
        """Return the only member of a group."""
        client = self.connect()
        client.sendall(json.dumps({"group": group}).encode() + b"\n")
        data = b""
        while b"notif_relayd.subscribed" not in data:
            self.harness.run_once()
            data += read_available(client)
        return client

    def publish(self, batches: int, size: int = 1024) -> None:
        """Publish batches; ten of them overflow the buffer of a socket and the ring."""
        keys = [("test.event", "INFO", "")] * BATCH
        for _ in range(batches):
            batch = b"".join(numbered_record(next(self.numbers), size) for _ in keys)
            self.fanout.publisher.publish(batch, keys)

    def catch_up(self, client: socket.socket) -> int:
        """Read until all subscribers are current; return the number of records lost."""
        data = read_all(client)
        while not self.fanout.drained:
            self.harness.run_once()
            data += read_all(client)
        gaps = [json.loads(line)["payload"] for line in data.splitlines() if is_gap(line)]
        assert {each["reason"] for each in gaps} <= {"slow_subscriber"}
        return sum(each["dropped"] for each in gaps)

    def disconnect(self, client: socket.socket) -> None:
        present = len(self.fanout.subscribers)
        client.close()
        while len(self.fanout.subscribers) == present:
            self.harness.run_once()

    def logged(self, text: str) -> list[str]:
        return [each for each in self.caplog.messages if text in each]


def read_all(client: socket.socket) -> bytes:
    """Return all available data; without that, the kernel reports no room to the relay."""
    return b"".join(iter(lambda: read_available(client), b""))


@pytest.fixture
def relay(harness: LoopHarness, caplog: pytest.LogCaptureFixture) -> Relay:
    return Relay(harness, caplog)


def test_start_and_end_of_a_loss_are_logged_once(relay: Relay) -> None:
    client = relay.connect()
    relay.publish(4)
    assert relay.fanout.dropped == 0
    assert relay.catch_up(client) == 0
    assert relay.caplog.messages == []
    relay.publish(10)
    (started,) = relay.caplog.messages
    process = f"subscriber pid {os.getpid()} ("
    assert started.startswith(process)
    assert f"uid {os.getuid()}) {STARTED}: " in started
    relay.clock.now += INTERVAL
    relay.publish(10)
    lost = relay.catch_up(client)
    assert lost == relay.fanout.dropped > 0
    (_, ended) = relay.caplog.messages
    assert ended.startswith(process)
    assert ended.endswith(f"{CAUGHT_UP}: {lost} records were lost")
    assert [each.levelname for each in relay.caplog.records] == ["WARNING", "INFO"]


@pytest.mark.parametrize("size", [200, 1024, 50_000])
def test_first_loss_is_logged_when_it_occurs(relay: Relay, size: int) -> None:
    client = relay.connect()
    while not relay.fanout.dropped:
        assert relay.caplog.messages == []
        relay.fanout.publisher.publish(
            numbered_record(next(relay.numbers), size), [("test.event", "INFO", "")]
        )
    (started,) = relay.caplog.messages
    assert started.endswith(f": {relay.fanout.dropped} lost so far")
    relay.catch_up(client)


def test_loss_during_a_filter_change_is_logged(relay: Relay) -> None:
    client = relay.connect()
    relay.publish(3)
    client.sendall(b'{"filter": {"event_type": ["test.*"]}}\n')
    relay.harness.run_once()
    relay.publish(10)
    lost = relay.catch_up(client)
    assert lost == relay.fanout.dropped > 0
    assert len(relay.logged(STARTED)) == 1
    assert relay.logged(CAUGHT_UP)[0].endswith(f": {lost} records were lost")


def test_disconnect_ends_a_logged_loss(relay: Relay) -> None:
    client = relay.connect()
    relay.publish(10)
    dropped = relay.fanout.dropped
    relay.disconnect(client)
    assert relay.caplog.messages[1].endswith(f"{DISCONNECTED}: {dropped} records were lost")
    relay.disconnect(relay.connect())
    assert len(relay.caplog.messages) == 2


def test_subscribers_cannot_flood_the_log(relay: Relay) -> None:
    for _ in range(2):
        clients = [relay.connect() for _ in range(MAX_USER_LINES)]
        relay.publish(10)
        for each in clients:
            relay.disconnect(each)
        client = relay.connect()
        relay.publish(10)
        relay.catch_up(client)
        relay.disconnect(client)
    counts = [len(relay.logged(text)) for text in (STARTED, DISCONNECTED, CAUGHT_UP)]
    assert counts == [MAX_USER_LINES, MAX_USER_LINES, 0]
    relay.clock.now += INTERVAL
    client = relay.connect()
    relay.publish(10)
    assert " more like it in the last 10 seconds)" in relay.logged(STARTED)[-1]
    relay.catch_up(client)
    assert len(relay.logged(CAUGHT_UP)) == 1


def test_loss_not_logged_at_its_start_is_logged_later(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notif_relayd.fanout.loss_log.INTERVAL", 0.001)
    for _ in range(MAX_USER_LINES + 3):
        relay.connect()
    relay.publish(10)
    assert len(relay.logged(STARTED)) == MAX_USER_LINES
    relay.clock.now += INTERVAL
    while len(relay.logged(STARTED)) < MAX_USER_LINES + 3:
        relay.harness.run_once()


def test_loss_of_a_group_is_logged_once(relay: Relay) -> None:
    client = relay.join("a.group")
    relay.publish(10)
    group = f"group a.group of uid {os.getuid()} "
    (started,) = relay.caplog.messages
    assert started.startswith(f"{group}reads too slowly, or has no member, and loses records: ")
    relay.restart()
    relay.publish(10)
    assert relay.caplog.messages == []
    lost = relay.catch_up(client)
    assert relay.caplog.messages == [f"{group}has caught up: {lost} records were lost"]
    assert lost == relay.fanout.dropped > 0


def test_end_of_a_group_ends_a_logged_loss(relay: Relay) -> None:
    for number in range(MAX_USER_LINES):
        relay.join(f"other{number}")
    client = relay.join("g")
    relay.publish(10)
    relay.disconnect(client)
    assert len(relay.logged("loses records")) == MAX_USER_LINES
    assert relay.logged("ended and had not") == []
    relay.clock.now += INTERVAL
    client = relay.join("g")
    relay.publish(10)
    dropped = relay.fanout.groups.ended_dropped
    relay.harness.loop.call_in(0, relay.fanout.groups.losses.resume)
    relay.harness.run_once()
    relay.disconnect(client)
    lost = relay.fanout.groups.ended_dropped - dropped
    (ended,) = relay.logged("ended and had not caught up")
    assert ended.endswith(f": {lost} records were lost")


def test_restart_repeats_no_message_and_keeps_the_count(relay: Relay) -> None:
    client = relay.connect()
    relay.publish(10)
    assert len(relay.logged(STARTED)) == 1
    for _ in range(3):
        relay.restart()
        relay.publish(10)
        assert relay.caplog.messages == []
    lost = relay.catch_up(client)
    assert lost == relay.fanout.dropped
    (ended,) = relay.caplog.messages
    assert ended.endswith(f"{CAUGHT_UP}: {lost} records were lost")
    relay.restart()
    relay.publish(10)
    assert len(relay.logged(STARTED)) == 1
