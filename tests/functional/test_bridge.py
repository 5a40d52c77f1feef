# SPDX-License-Identifier: Apache-2.0
"""A bridge between a real relay and a broker that confirms, refuses and fails on command."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relay import Notification, records
from notif_relayd_bridge.brokers.target import Events
from notif_relayd_bridge.configuration import Subscription
from notif_relayd_bridge.errors import SpoolError
from notif_relayd_bridge.outbound import bridge as outbound
from support.bridge import Bridge, FakeBroker, fake_broker, running_bridge
from support.memory_spool import MemorySpool
from support.records import numbered_record, record
from support.relay import Relay, running_relay
from support.waiting import TIMEOUT, wait_until


@pytest.fixture
def broker(directory: Path) -> Iterator[FakeBroker]:
    with fake_broker(directory) as broker:
        yield broker


@pytest.fixture
def bridge(directory: Path, relay: Relay, broker: FakeBroker) -> Iterator[Bridge]:
    """Return a bridge that is connected to the broker."""
    # With this window, the library reports every notification that is finished.
    with running_bridge(directory, relay, broker.url, window=64) as bridge:
        broker.accept()
        yield bridge


def emit(relay: Relay, first: int, count: int) -> list[bytes]:
    """Send records with ascending numbers to the relay, and return them."""
    records = [numbered_record(number, 200) for number in range(first, first + count)]
    with relay.produce() as producer:
        producer.sendall(b"".join(records))
    return records


def unfinished(relay: Relay) -> int:
    """Return the number of records that the members of the group have not finished."""
    (group,) = relay.request("groups")
    number = group["unfinished"]
    assert isinstance(number, int)
    return number


def wait_finished(relay: Relay) -> None:
    wait_until(lambda: unfinished(relay) == 0, "everything is finished")


def test_records_arrive_in_order(relay: Relay, broker: FakeBroker, bridge: Bridge) -> None:
    records = emit(relay, 0, 500)
    broker.take(500)
    assert broker.stored == records
    wait_finished(relay)


def test_record_is_finished_by_its_confirmation_only(
    relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    emit(relay, 0, 3)
    broker.read(3)
    assert unfinished(relay) == 3
    broker.confirm(3)
    wait_finished(relay)


def test_killed_bridge_sends_unconfirmed_records_again(
    relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    records = emit(relay, 0, 10)
    broker.read(10)
    broker.confirm(4)
    wait_until(lambda: unfinished(relay) == 6, "four are finished")
    bridge.kill()
    broker.disconnect()
    bridge.start()
    broker.accept()
    broker.take(6)
    assert broker.stored == records
    wait_finished(relay)


def test_killed_bridge_sends_unconfirmed_gap_records_again(
    directory: Path, broker: FakeBroker
) -> None:
    config = directory / "relayd.conf"
    config.write_text("[relayd]\nring_size = 65536\nmax_record_size = 65536\n")
    with (
        running_relay(directory, "--config-file", str(config)) as relay,
        running_bridge(directory, relay, broker.url, window=4) as bridge,
        relay.produce() as producer,
    ):
        broker.accept()
        gaps = [records.gap(number, "producer_congested") for number in (None, 7)]
        producer.sendall(b"".join(gaps))
        for _ in range(2):
            assert broker.read(2) == gaps
            bridge.kill()
            broker.disconnect()
            bridge.start()
            broker.accept()
        broker.take(2)
        wait_finished(relay)
        # The gap record of the relay, which the group gets without a member.
        bridge.kill()
        broker.disconnect()
        lost = emit(relay, 0, 500)
        relay.wait_status(records_received=502)
        bridge.start()
        broker.accept()
        gap, first = broker.read(2)
        dropped = json.loads(gap)["payload"]["dropped"]
        assert (first, dropped > 100) == (lost[dropped], True)
        bridge.kill()
        broker.disconnect()
        bridge.start()
        broker.accept()
        broker.take(1)
        again = json.loads(broker.stored[-1])
        assert again["payload"]["dropped"] == dropped
        assert again["message_id"] == json.loads(gap)["message_id"]


def test_unconfirmed_records_are_sent_again_in_order(
    relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    records = emit(relay, 0, 20)
    broker.read(20)
    broker.confirm(5)
    broker.disconnect()
    records += emit(relay, 20, 20)
    broker.accept()
    broker.take(35)
    assert broker.stored == records
    wait_finished(relay)


def test_records_survive_in_the_spool(
    directory: Path, relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    broker.close()
    bridge.wait_logged("waiting for the broker")
    records = emit(relay, 0, 500)
    wait_until(
        lambda: relay.status()["records_delivered"] >= 500, "the bridge has read the records"
    )
    wait_finished(relay)
    bridge.kill()
    with fake_broker(directory) as again:
        bridge.start()
        again.accept()
        records += emit(relay, 500, 10)
        again.take(510)
        assert again.stored == records


def test_refused_record_is_replaced_by_gap(
    relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    records = emit(relay, 0, 3)
    broker.read(3)
    broker.refuse("message too large")
    [gap] = broker.read(1)
    assert json.loads(gap)["payload"] == {"dropped": 1, "reason": "undeliverable"}
    broker.confirm(2)
    assert broker.stored == records[1:]
    assert unfinished(relay) == 3
    broker.confirm(1)
    wait_finished(relay)
    bridge.wait_logged("message too large")


def test_records_of_another_bridge_are_skipped(
    relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    kept = [record(payload={"_bridge": "x"}), record(payload='"_bridge":'), record(_Bridge="x")]
    with relay.produce() as producer:
        producer.sendall(b"".join([record(_bridge="hub"), *kept, record(_bridge=None)]))
    broker.take(3)
    assert broker.stored == kept
    wait_finished(relay)


def test_only_matching_payloads_are_sent(directory: Path, relay: Relay, broker: FakeBroker) -> None:
    wanted = record("compute.a", payload={"instance": {"host": "cmp-1"}})
    with running_bridge(
        directory, relay, broker.url, payload='{"instance.host": [{"glob": "cmp-*"}]}'
    ):
        broker.accept()
        with relay.produce() as producer:
            producer.sendall(record("compute.b", payload={"instance": {"host": "net-1"}}) + wanted)
        broker.take(1)
    assert broker.stored == [wanted]


def test_stopped_bridge_spools_what_is_not_confirmed(
    relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    records = emit(relay, 0, 60)
    broker.read(50)  # as many as may be unconfirmed
    broker.confirm(10)
    broker.read(10)
    bridge.process.terminate()
    wait_finished(relay)
    broker.confirm(50)  # The bridge waits for them.
    assert bridge.process.wait(TIMEOUT) == 0
    assert broker.stored == records


def test_stopped_bridge_does_not_wait_for_a_slow_broker(
    relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    records = emit(relay, 0, 60)
    broker.read(50)
    assert bridge.stop() == 0
    broker.disconnect()
    bridge.start()
    broker.accept()
    broker.take(60)
    assert broker.stored == records


def test_bridge_continues_after_restart_of_relay(directory: Path, broker: FakeBroker) -> None:
    with running_relay(directory) as relay, running_bridge(directory, relay, broker.url) as bridge:
        broker.accept()
        records = emit(relay, 0, 5)
        broker.take(5)
        relay.stop()
        (directory / "notify.sock").unlink()
        with running_relay(directory) as restarted:
            bridge.wait_logged("connected again to the relay")
            records += emit(restarted, 5, 5)
            [gap] = broker.read(1)
            assert json.loads(gap)["payload"]["reason"] == "relay_restarted"
            broker.confirm(1)
            broker.take(5)
            assert [each for each in broker.stored if each != gap] == records


def test_once_sends_everything_and_exits(directory: Path, relay: Relay, broker: FakeBroker) -> None:
    bridge = Bridge(directory, relay, broker.url)
    bridge.start("--once")
    try:
        broker.accept()
        relay.wait_subscribed()
        records = emit(relay, 0, 20)
        broker.take(20)
        assert bridge.process.wait(TIMEOUT) == 0, bridge.log.read_text()
        records += emit(relay, 20, 20)  # The group keeps its place.
        broker.disconnect()
        bridge.start("--once")
        broker.accept()
        broker.take(20)
        assert bridge.process.wait(TIMEOUT) == 0, bridge.log.read_text()
        assert broker.stored == records
    finally:
        bridge.kill()


def test_once_without_broker_spools_and_fails(
    directory: Path, relay: Relay, broker: FakeBroker
) -> None:
    bridge = Bridge(directory, relay, broker.url)
    broker.close()
    bridge.start("--once")
    try:
        relay.wait_subscribed()
        records = emit(relay, 0, 20)
        assert bridge.process.wait(TIMEOUT) == 1
        assert "the broker is not available" in bridge.log.read_text()
        with fake_broker(directory) as again:
            bridge.start("--once")
            again.accept()
            again.take(20)
            assert bridge.process.wait(TIMEOUT) == 0
            assert again.stored == records
    finally:
        bridge.kill()


def test_once_without_relay_fails(directory: Path, broker: FakeBroker) -> None:
    bridge = Bridge(directory, Relay(directory), broker.url)
    bridge.start("--once")
    try:
        broker.accept()
        assert bridge.process.wait(TIMEOUT) == 1
        assert "notifications.sock" in bridge.log.read_text()
    finally:
        bridge.kill()


def test_once_fails_if_the_spool_cannot_be_read(relay: Relay) -> None:
    class Unreadable(MemorySpool):
        def head(self, after: int, limit: int) -> list[tuple[int, bytes]]:  # noqa: ARG002
            raise SpoolError("input/output error")

    class Connected:
        max_unconfirmed = 1

        def start(self, events: Events) -> None:
            events.connected()

        def send(self, notification: Notification) -> None:
            raise NotImplementedError

        def close(self) -> None:
            pass

    spool = Unreadable()
    spool.add([record()], 0)
    subscription = Subscription(str(relay.public), "bridge:out", 1, 0.0)
    once = outbound.Bridge(subscription, Connected(), spool, once=True)
    assert once.run() == "the spool cannot be used: see the log"


def test_second_bridge_with_the_spool_is_refused(bridge: Bridge) -> None:
    first = bridge.process
    bridge.start()
    second, bridge.process = bridge.process, first
    assert second.wait(TIMEOUT) == 1
    assert str(bridge.spool) in bridge.log.read_text()


def test_hang_up_stops_the_bridge_with_an_error(
    relay: Relay, broker: FakeBroker, bridge: Bridge
) -> None:
    emit(relay, 0, 3)
    broker.take(3)
    assert bridge.stop(signal.SIGHUP) == 1
    bridge.wait_logged("stopped by SIGHUP")
