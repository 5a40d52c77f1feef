# SPDX-License-Identifier: Apache-2.0
"""A bridge between a broker that a test commands and a relay, which is slow, ends, or refuses."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relay import records
from support.bridge import PASSWORD
from support.bridge_inbound import NAME, FakeQueue, InboundBridge, running_inbound
from support.private_socket import PrivateSocket
from support.records import numbered_record, record
from support.relay import RunningRelay
from support.waiting import TIMEOUT


@pytest.fixture
def queue(directory: Path) -> Iterator[FakeQueue]:
    queue = FakeQueue(directory / "queue.sock")
    yield queue
    queue.close()


@pytest.fixture
def bridge(directory: Path, queue: FakeQueue) -> Iterator[InboundBridge]:
    """Return a bridge that is connected to the broker."""
    with running_inbound(directory, directory / "ingest.sock", queue.url) as bridge:
        queue.accept()
        yield bridge


def marked(number: int) -> bytes:
    return record(number=number, _bridge=NAME)


def test_records_appear_on_the_public_socket(
    relay: RunningRelay, queue: FakeQueue, bridge: InboundBridge
) -> None:
    with relay.subscribe() as subscriber:
        queue.deliver(*(record(number=number) for number in range(500)))
        assert subscriber.lines(500) == [marked(number) for number in range(500)]
    queue.wait_acknowledged()
    assert bridge.stop() == 0
    bridge.wait_logged("stopped: Counters(confirmed=500, repeated=0, refused=0)")
    assert PASSWORD not in bridge.log.read_text()


def test_gap_record_takes_the_place_of_messages(
    relay: RunningRelay, queue: FakeQueue, bridge: InboundBridge
) -> None:
    with relay.subscribe() as subscriber:
        queue.deliver(record(number=1), b"{\n", b"unreadable x\n", record(number=2))
        one, *gaps, two = (subscriber.notification() for _ in range(3))
    assert (one["number"], two["number"]) == (1, 2)
    assert [each["payload"] for each in gaps] == [{"dropped": 2, "reason": "undeliverable"}]
    queue.wait_acknowledged()
    bridge.wait_logged("2 messages of the broker are no notifications")
    # oslo.log would append the error that is handled at this moment.
    assert "UnreadableRecordError" not in bridge.log.read_text()


def test_full_relay_is_waited_for(
    relay: RunningRelay, queue: FakeQueue, bridge: InboundBridge
) -> None:
    messages = [numbered_record(number, 100_000) for number in range(50)]
    with relay.subscribe() as subscriber:
        relay.process.send_signal(signal.SIGSTOP)
        queue.deliver(*messages)
        bridge.process.send_signal(signal.SIGTERM)  # completes the record that is partly written
        relay.process.send_signal(signal.SIGCONT)
        assert bridge.process.wait(TIMEOUT) == 0
        queue.disconnect()
        bridge.start()
        queue.accept()
        numbers = [subscriber.notification()["number"]]
        while numbers[-1] < 49:
            numbers.append(subscriber.notification()["number"])
    assert sorted(set(numbers)) == list(range(50))
    assert relay.status()["records_rejected"] == 0


def test_unread_records_are_written_to_the_next_relay(
    directory: Path, queue: FakeQueue, private: PrivateSocket, bridge: InboundBridge
) -> None:
    queue.deliver(record(number=1))
    with private.accept() as connection:
        assert connection.line() == marked(1)
        queue.wait_acknowledged()
        queue.deliver(*(numbered_record(number, 100_000) for number in range(20)))
        connection.socket.recv(150_000)  # the bridge knows from nothing else that it was read
    with private.accept() as connection:
        read = [json.loads(connection.line())["number"] for _ in range(20)]
        queue.wait_acknowledged()
    assert read == list(range(20))


def test_refused_connection_loses_nothing(
    directory: Path, queue: FakeQueue, private: PrivateSocket, bridge: InboundBridge
) -> None:
    with private.accept() as connection:
        connection.socket.send(records.error(f"{records.TOO_MANY_PRODUCERS}: 1 is reached."))
    bridge.wait_logged("refuses this bridge: This relay takes no more producers: 1 is reached.")
    queue.deliver(record(number=1), record(number=2))
    private.accept().close()
    with private.accept() as connection:
        assert [connection.line(), connection.line()] == [marked(1), marked(2)]
        queue.wait_acknowledged()


def test_relay_may_be_absent(directory: Path, queue: FakeQueue, bridge: InboundBridge) -> None:
    bridge.wait_logged("waiting for the relay: ")
    queue.deliver(record(number=1))
    with PrivateSocket(directory / "ingest.sock") as private, private.accept() as connection:
        assert connection.line() == marked(1)
        queue.wait_acknowledged()


def test_unacknowledged_messages_are_delivered_again(
    directory: Path, queue: FakeQueue, private: PrivateSocket, bridge: InboundBridge
) -> None:
    queue.deliver(*(numbered_record(number, 100_000) for number in range(20)))
    with private.accept() as connection:
        assert json.loads(connection.line())["number"] == 0
        queue.disconnect()
        queue.accept()
        numbers = [0]
        while numbers[-1] < 19:
            numbers.append(json.loads(connection.line())["number"])
        queue.wait_acknowledged()
    assert numbers[-20:] == list(range(20))


def test_killed_bridge_loses_nothing(
    relay: RunningRelay, queue: FakeQueue, bridge: InboundBridge
) -> None:
    with relay.subscribe() as subscriber:
        queue.deliver(*(record(number=number) for number in range(50)))
        assert subscriber.line() == marked(0)
        bridge.kill()
        queue.disconnect()
        bridge.start()
        queue.accept()
        queue.wait_acknowledged()
        numbers = [0]
        queue.deliver(record(number=-1))
        while numbers[-1] >= 0:
            numbers.append(subscriber.notification()["number"])
    assert set(numbers) == set(range(-1, 50))


def test_once_ends_when_the_queue_is_empty(
    directory: Path, relay: RunningRelay, queue: FakeQueue
) -> None:
    bridge = InboundBridge(directory, relay.ingest, queue.url)
    queue.messages = [record(number=1)]
    with relay.subscribe() as subscriber:
        bridge.start("--once")
        queue.accept()
        assert subscriber.line() == marked(1)
        assert bridge.process.wait(TIMEOUT) == 0
    queue.wait_acknowledged()
    queue.close()
    bridge.start("--once")
    assert bridge.process.wait(TIMEOUT) == 1
    bridge.wait_logged("the broker is not available; unacknowledged messages remain at the broker")
    assert relay.status()["records_rejected"] == 0
