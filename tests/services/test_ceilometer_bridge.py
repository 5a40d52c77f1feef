# SPDX-License-Identifier: Apache-2.0
"""ceilometer-agent-notification reads from RabbitMQ what a bridge has sent there.

Nova sends its notifications to the relay, with the driver ``unix``. The agent has two workers and
knows neither the relay nor the bridge: only ``transport_url`` names the broker. It writes an event
for each notification to a file.

`make test-ceilometer` runs the test that needs no other service than ceilometer.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.bridge import Bridge, RealBridge, running_bridge
from support.nova import emit_samples
from support.rabbitmq import Broker, needs_rabbitmq
from support.relay import RunningRelay
from support.telemetry import notification, start_agent, wait_written, written
from support.waiting import wait_until

pytestmark = needs_rabbitmq

TOPICS = "notifications", "versioned_notifications"

MAX_REPEATED = 1000 + 256
"""Messages that a bridge that is killed sends twice: unconfirmed ones, and confirmed rows that it
has not removed from the spool."""


class Collector:
    """An agent, and the events that it has written."""

    def __init__(self, relay: RunningRelay) -> None:
        self._events = relay.directory / "events"

    def counts(self) -> Counter[str]:
        """Return how often there is an event for each message id."""
        return Counter(each["message_id"] for each in written(self._events))

    def wait_written(self, number: int) -> None:
        wait_written(self._events, number)


@contextlib.contextmanager
def collecting(relay: RunningRelay, url: str) -> Iterator[tuple[Collector, Bridge]]:
    """Run an agent and a bridge, which use the same broker."""
    directory = relay.directory
    events = f"file://{directory}/events?json"
    with (
        start_agent(relay, directory / "agent.log", *TOPICS, url=url, event=events),
        running_bridge(directory, relay, url, RealBridge) as bridge,
    ):
        yield Collector(relay), bridge


def emit(relay: RunningRelay, numbers: range) -> set[str]:
    """Send a notification for each number; return the message ids."""
    with relay.produce() as producer:
        producer.sendall(b"".join(map(notification, numbers)))
    return {f"{number:032x}" for number in numbers}


def emit_nova(relay: RunningRelay) -> set[str]:
    """Let nova send its notifications; return the message ids."""
    return {json.loads(each)["message_id"] for each in emit_samples(relay)}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as broker:
        yield broker


@pytest.mark.parametrize("option", ["amqp_durable_queues", "rabbit_quorum_queue"])
def test_each_event_is_written_once(relay: RunningRelay, broker: Broker, option: str) -> None:
    with collecting(relay, f"{broker.url()}?{option}=true") as (collector, bridge):
        expected = emit_nova(relay) | emit(relay, range(1000))
        collector.wait_written(len(expected))
        assert bridge.stop() == 0
    assert len(expected) > 1100
    assert collector.counts() == Counter(expected)


def test_no_event_is_lost_when_the_bridge_is_killed(relay: RunningRelay, broker: Broker) -> None:
    with collecting(relay, f"{broker.url()}?amqp_durable_queues=true") as (collector, bridge):
        expected = emit(relay, range(300))
        collector.wait_written(1)
        bridge.kill()
        expected |= emit(relay, range(300, 600))
        bridge.start()
        wait_until(lambda: collector.counts().keys() == expected, "an event for each notification")


def test_no_event_is_lost_by_restarts(relay: RunningRelay, broker: Broker) -> None:
    url = f"{broker.url()}?amqp_durable_queues=true"
    with collecting(relay, url) as (collector, bridge):
        first = emit(relay, range(2000))
        collector.wait_written(500)
        broker.kill()
        others = emit(relay, range(2000, 4000)) | emit_nova(relay)
        broker.start()
        bridge.wait_logged("connected to the broker", 2)
        bridge.kill()
        others |= emit(relay, range(4000, 6000))
        bridge.start()
        wait_until(
            lambda: collector.counts().keys() == first | others, "an event for each notification"
        )
    # Of the first ones, the broker delivers those again that it does not know as acknowledged.
    counts = collector.counts()
    assert sum(counts[each] - 1 for each in others) <= MAX_REPEATED
