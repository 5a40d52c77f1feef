# SPDX-License-Identifier: Apache-2.0
"""Bridges from a real RabbitMQ to relays: what a hub gets, and what is lost and repeated."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import amqp
import pytest
from oslo_context.context import RequestContext

import notif_relay
from notif_relay.messaging.serialization import dump
from notif_relayd_bridge.inbound.record import prepare
from support.bridge import Bridge, RealBridge
from support.bridge_inbound import NAME, RealInboundBridge
from support.messaging import Endpoint, make_notifier, running_listener, transport_to
from support.rabbitmq import Broker, needs_rabbitmq, rabbit_transport, record_of
from support.records import numbered_record
from support.relay import RunningRelay, next_relay, running_relay, subscribe_filtered
from support.relayctl import RELAYCTL
from support.waiting import TIMEOUT, wait_until

pytestmark = needs_rabbitmq

KEY = "notifications.info"
DURABLE = {"amqp_durable_queues": True}


@contextlib.contextmanager
def running(bridge: Bridge) -> Iterator[Bridge]:
    """Run a bridge until the end of the block; it is connected to the broker."""
    bridge.start()
    try:
        bridge.wait_logged("connected to the broker")
        yield bridge
    finally:
        bridge.kill()
        sys.stderr.write(bridge.log.read_text())


def inbound(relay: RunningRelay, broker: Broker, **options: object) -> RealInboundBridge:
    return RealInboundBridge(relay.directory, relay.ingest, broker.url(), **options)


@pytest.fixture
def witness(broker: Broker) -> Iterator[amqp.Channel]:
    """Return a channel with a queue ``witness``, which is not bound."""
    with broker.channel() as channel:
        channel.queue_declare("witness", exclusive=True)
        yield channel


def tail_command(relay: RunningRelay) -> list[str]:
    """Return the command that prints one notification of the event type ``image.*``."""
    options = ("-o", "json", "--event-type", "image.*", "-n", "1")
    return [RELAYCTL, "--runtime-dir", os.fspath(relay.directory), "tail", *options]


def test_hub_gets_what_services_send(
    broker: Broker, relay: RunningRelay, witness: amqp.Channel
) -> None:
    with (
        running(inbound(relay, broker, exchanges="openstack", topics="notifications,other")),
        rabbit_transport(broker.url()) as bus,
        transport_to(relay.public) as hub,
        running_listener(hub, endpoint := Endpoint(), topics=("other",)),
        subprocess.Popen(tail_command(relay), stdout=subprocess.PIPE, text=True) as tail,
        subscribe_filtered(relay, event_type=["image.*"]) as filtered,
        notif_relay.subscribe(relay.public, group="g", window=10, timeout=TIMEOUT) as member,
        relay.subscribe() as subscriber,
    ):
        relay.wait_status(subscribers=5)
        witness.queue_bind("witness", "openstack", "*.warn")
        notifier = make_notifier(bus, "other")
        notifier.warn(RequestContext(request_id="req-1"), "image.update", {"a": "ü", "b": 0.1})
        line = subscriber.line()
        assert filtered.line() == line
        assert tail.communicate(timeout=TIMEOUT)[0] == line.decode()
        assert next(member).raw == line
        call = endpoint.next_notification()
        assert (call.priority, call.event_type) == ("warn", "image.update")
        assert call.context["request_id"] == "req-1"
        message = witness.basic_get("witness", no_ack=True)
    # What the transport unix would have written, with secrets masked, and the mark.
    expected = dump(json.loads(record_of(message, "other.warn"))).encode()
    assert line == prepare(expected, NAME, len(line))


class Producers:
    """Producers that publish numbered records, each with confirmation."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.count = 0

    def publish(self, count: int = 100) -> None:
        with self._broker.channel() as channel:
            for number in range(self.count, self.count + count):
                message = json.loads(numbered_record(number, 500))
                body = {"oslo.version": "2.0", "oslo.message": json.dumps(message)}
                channel.basic_publish_confirm(
                    amqp.Message(json.dumps(body), delivery_mode=2), "durable", KEY
                )
        self.count += count


def test_nothing_is_lost_or_reordered(broker: Broker, relay: RunningRelay) -> None:
    bridge = inbound(relay, broker, exchanges="durable", pool="durable")
    bridge.add_section("oslo_messaging_rabbit", **DURABLE)
    producers = Producers(broker)
    numbers: list[int] = []
    with running(bridge), relay.subscribe() as subscriber:

        def read() -> None:
            while not numbers or numbers[-1] < producers.count - 1:
                numbers.append(_number(subscriber.line()))

        producers.publish()
        relay.process.send_signal(signal.SIGSTOP)
        producers.publish()
        bridge.kill()
        producers.publish()
        bridge.start()
        relay.process.send_signal(signal.SIGCONT)
        read()
        producers.publish()
        # Stopped, so that its pauses between attempts to connect do not become long.
        bridge.process.send_signal(signal.SIGSTOP)
        broker.kill()
        broker.start()
        bridge.process.send_signal(signal.SIGCONT)
        producers.publish()
        read()
        bridge.wait_logged("waiting for the broker")
    assert list(dict.fromkeys(numbers)) == list(range(producers.count))
    assert relay.status()["records_rejected"] == 0
    with broker.channel() as channel:
        channel.queue_delete("durable")


def _number(line: bytes) -> int:
    fields = json.loads(line)
    assert fields["_bridge"] == NAME
    number = fields["number"]
    assert isinstance(number, int)
    return number


def test_next_relay_gets_the_messages(broker: Broker, directory: Path) -> None:
    with running_relay(directory) as relay:
        bridge = inbound(relay, broker, exchanges="durable", pool="next")
        bridge.add_section("oslo_messaging_rabbit", **DURABLE)
        with running(bridge):
            producers = Producers(broker)
            assert relay.stop() == 0
            producers.publish(10)
            bridge.wait_logged("waiting for the relay")
            bridge.process.send_signal(signal.SIGSTOP)
            with next_relay(directory) as successor, successor.subscribe() as subscriber:
                bridge.process.send_signal(signal.SIGCONT)
                assert [_number(subscriber.line()) for _ in range(10)] == list(range(10))
                bridge.wait_logged("connected to the relay")
    with broker.channel() as channel:
        channel.queue_delete("next")


class Hub:
    """A relay with a bridge in each direction."""

    def __init__(self, relay: RunningRelay, broker: Broker, own: str, other: str) -> None:
        self.relay = relay
        self.out = RealBridge(relay.directory, relay, broker.url(), window=64)
        self.out.add_section("DEFAULT", control_exchange=own)
        self.into = inbound(relay, broker, exchanges=other, pool=f"pool-{own}")

    def wait_finished(self) -> None:
        """Wait until the bridge to the broker has handled every record."""

        def is_finished() -> bool:
            (group,) = self.relay.request("groups")
            return bool(group["unfinished"] == group["lag"] == 0)

        wait_until(is_finished, "everything is finished")


def test_two_hubs_do_not_echo(broker: Broker, directory: Path, witness: amqp.Channel) -> None:
    with contextlib.ExitStack() as stack:
        hubs = []
        for own, other in (("east", "west"), ("west", "east")):
            (directory / own).mkdir()
            relay = stack.enter_context(running_relay(directory / own))
            hubs.append(Hub(relay, broker, own, other))
        for each in (bridge for hub in hubs for bridge in (hub.into, hub.out)):
            stack.enter_context(running(each))
        for hub in hubs:
            hub.relay.wait_subscribed()
        for exchange in ("east", "west"):
            witness.queue_bind("witness", exchange, "#")
        subscribers = [stack.enter_context(hub.relay.subscribe()) for hub in hubs]
        for hub, first in zip(hubs, (0, 100), strict=True):
            with hub.relay.produce() as producer:
                producer.sendall(b"".join(numbered_record(first + each) for each in range(20)))
        found = [[json.loads(subscriber.line()) for _ in range(40)] for subscriber in subscribers]
        for hub in hubs:
            hub.wait_finished()
            assert hub.out.stop() == hub.into.stop() == 0
            assert hub.relay.status()["records_received"] == 40
        messages = 0
        while witness.basic_get("witness", no_ack=True):
            messages += 1
    assert messages == 40
    for records in found:
        assert {each["number"] for each in records} == {*range(20), *range(100, 120)}
        assert [each.get("_bridge") for each in records].count(NAME) == 20
    for hub in hubs:
        hub.out.wait_logged("confirmed=20, repeated=0, refused=0, skipped=20")
        hub.into.wait_logged("confirmed=20, repeated=0, refused=0")
