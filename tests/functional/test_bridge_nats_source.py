# SPDX-License-Identifier: Apache-2.0
"""Tests of the source NATS, and of a bridge with it, with a real nats-server."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, ConsumerInfo

from notif_relayd_bridge.brokers.nats import source
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.errors import StartError
from support.bridge_inbound import RealInboundBridge
from support.bridge_sources import SimpleReader, create_source, read_around_gaps
from support.bridge_targets import event
from support.nats_server import NatsServer, needs_nats
from support.proxy import Proxy
from support.relay import RunningRelay
from support.threads import voluntary_switches
from support.waiting import TIMEOUT, wait_until

pytestmark = [needs_nats, pytest.mark.usefixtures("no_socket_left")]

POOL = "hub"

QUICK: dict[str, Any] = {"ack_wait": 0.3}
"""Options with which the server soon delivers messages again."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """Return a server with a stream."""
    with NatsServer(tmp_path) as server:
        server.add_stream()
        yield server


def reader(
    server: NatsServer, topics: Iterable[str] = (), url: str = "", **options: object
) -> SimpleReader:
    """Return a reader of a server."""
    selection = Selection(POOL, tuple(topics))
    return SimpleReader(create_source(url or server.url, server.directory, selection, **options))


def publish(
    server: NatsServer, records: Iterable[bytes], subject: str = "notifications.test"
) -> None:
    """Write records to the stream."""

    async def send(client: Client) -> None:
        stream = client.jetstream()
        for raw in records:
            await stream.publish(subject, raw.rstrip(b"\n"), headers={"Status": "503"})

    server.run(send)


def consumer(server: NatsServer, name: str = POOL) -> ConsumerInfo:
    """Return what the server stores for the pool."""

    async def get(client: Client) -> ConsumerInfo:
        info: ConsumerInfo = await client.jetstream().consumer_info("events", name)
        return info

    return server.run(get)


def outstanding(server: NatsServer) -> tuple[int, int]:
    """Return how many messages are not acknowledged, and how many not delivered."""
    info = consumer(server)
    return info.num_ack_pending or 0, info.num_pending or 0


def events(count: int, start: int = 0, **fields: Any) -> list[bytes]:
    return [event(number, **fields).rstrip(b"\n") for number in range(start, count)]


def first_arrivals(lines: Iterable[bytes]) -> list[int]:
    return list(dict.fromkeys(json.loads(raw)["number"] for raw in lines))


def test_records_are_read_in_order_and_acknowledged(server: NatsServer) -> None:
    sent = events(1500)
    publish(server, sent)
    with reader(server, max_unacknowledged=200) as first:
        first.wait(200)
        assert first.take(1500) == sent
        publish(server, events(1501, 1500))
        first.take(1)
    assert outstanding(server) == (0, 0)
    assert first.failures == []


def test_unacknowledged_messages_are_delivered_again_in_order(server: NatsServer) -> None:
    sent = events(300)
    publish(server, sent[:200])
    with reader(server, **QUICK) as first:
        first.take(50)
        first.wait(150)
    publish(server, sent[200:])
    with reader(server, **QUICK) as second:
        second.take(250)
    assert first.taken + second.taken == sent


def test_outstanding_messages_are_sorted(server: NatsServer) -> None:
    sent = events(30)
    with reader(server, **QUICK) as first:
        first.wait_connections()

    async def refuse(client: Client) -> None:
        stream = client.jetstream()
        for raw in sent[:20]:
            await stream.publish("notifications.test", raw)
        subscription = await stream.pull_subscribe("", POOL, "events")
        messages: list[Msg] = []
        while len(messages) < 20:
            messages += await subscription.fetch(20, timeout=TIMEOUT)
        for each in reversed(messages):  # The order in which they are delivered again.
            await each.nak()

    server.run(refuse)
    publish(server, sent[20:])
    with reader(server, **QUICK) as second:
        assert second.take(30) == sent


def test_slow_relay_does_not_lead_to_redelivery(server: NatsServer) -> None:
    publish(server, events(100))
    with reader(server, ack_wait=1) as slow:
        slow.wait(100)
        with reader(server, ack_wait=1) as late:
            late.wait_connections()  # This takes longer than ack_wait.
            assert consumer(server).num_redelivered == 0
            assert late.waiting == []
        assert slow.take(100) == events(100)


def test_redelivered_message_is_recognised(server: NatsServer) -> None:
    publish(server, events(100))
    with Proxy(server.port) as proxy:
        url = f"nats://127.0.0.1:{proxy.port}"
        with reader(server, url=url, **QUICK) as stalled:
            stalled.wait(100)
            proxy.stall()
            wait_until(lambda: consumer(server).num_redelivered == 100, "all come again")
            stalled.acknowledge(50)  # Copies and acknowledgements pass each other.
            proxy.stall(False)
            publish(server, events(101, 100))
            stalled.take(51)
            assert stalled.taken == events(101)
            wait_until(lambda: outstanding(server) == (0, 0), "everything is acknowledged")
        assert stalled.failures == []


def test_members_of_a_pool_share_the_messages(server: NatsServer) -> None:
    with reader(server, max_unacknowledged=10) as first, reader(server) as second:
        first.wait_connections()
        second.wait_connections()
        publish(server, events(100))
        wait_until(lambda: len(first.waiting + second.waiting) >= 100, "100 messages")
        taken = first.acknowledge(100) + second.acknowledge(100)
    assert first.taken
    assert second.taken
    assert sorted(map(str, taken)) == sorted(map(str, events(100)))


def test_size_of_unacknowledged_messages_is_limited(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_UNACKNOWLEDGED_BYTES", 1)
    # Two requests for at most one message of the maximum size, 1 MiB.
    sent = [*events(8, payload="x" * 400_000), *events(9, 8, payload="x" * 1_040_000)]
    publish(server, sent)
    with reader(server) as full:
        full.wait(4)
        with SimpleReader(create_source(server.url, server.directory, Selection("other"))) as other:
            other.take(9)
        assert len(full.waiting) == 4
        assert full.take(9) == sent


def test_server_may_be_killed(server: NatsServer) -> None:
    sent = events(400)
    publish(server, sent[:300])
    with reader(server, **QUICK) as one:
        one.take(100)
        one.wait(200)
        server.kill()
        one.wait_failure()
        server.start()
        publish(server, sent[300:])
        one.wait_connections(2)
        while len({*one.taken}) < 400:
            one.take(1)
    # Acknowledgements may be lost with the server.
    assert first_arrivals(raw for raw in one.taken if isinstance(raw, bytes)) == [*range(400)]
    assert len(one.taken) <= 500


def test_missing_stream_is_a_failure_until_it_exists(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server, reader(server) as one:
        one.wait_failure(r"no stream has the subject notifications.>")
        server.add_stream()
        publish(server, events(1))
        assert one.take(1) == events(1)


def test_new_consumer_may_begin_at_the_end(server: NatsServer) -> None:
    publish(server, events(5))
    with reader(server, deliver_policy="new", stream="events") as one:
        one.wait_connections()
        publish(server, events(6, 5))
        assert one.take(1) == events(6, 5)


def test_topics_of_a_consumer_can_be_changed(server: NatsServer) -> None:
    publish(server, events(2), "notifications.a")
    with reader(server, ["notifications.*"]) as one:
        one.take(2)
    publish(server, events(4, 2), "notifications.b.c")
    with reader(server, ["notifications.b.>"]) as one:
        assert one.take(2) == events(4, 2)


def test_several_topics_need_a_newer_server(server: NatsServer) -> None:
    async def version(client: Client) -> tuple[int, int]:
        return client.connected_server_version.major, client.connected_server_version.minor

    publish(server, events(1), "notifications.a")
    with reader(server, ["notifications.a", "notifications.b"]) as one:
        if server.run(version) >= (2, 10):
            one.take(1)
        else:
            one.wait_failure("several subjects")


def test_foreign_consumer_is_not_used(server: NatsServer) -> None:
    async def add(client: Client) -> None:
        config = ConsumerConfig(durable_name="a_b", deliver_subject="somewhere")
        await client.jetstream().add_consumer("events", config)

    server.run(add)
    selection = Selection("a.b")
    with SimpleReader(create_source(server.url, server.directory, selection)) as one:
        one.wait_failure("a_b is not one of a bridge")
    assert one.connections == 0


def test_deleted_consumer_is_a_failure(server: NatsServer) -> None:
    async def delete(client: Client) -> None:
        await client.jetstream().delete_consumer("events", POOL)

    with reader(server) as one:
        one.wait_connections()
        server.run(delete)
        one.wait_failure("Consumer Deleted")
        one.wait_connections(2)


def test_idle_source_does_not_wake_up(server: NatsServer) -> None:
    selection = Selection("other", ("notifications.other",))
    idle = SimpleReader(create_source(server.url, server.directory, selection, **QUICK))
    with idle, reader(server) as busy:
        publish(server, events(1), "notifications.other")
        idle.take(1)
        counts = []
        for _ in range(3):  # Each takes longer than the interval of reports of progress.
            for number in range(100):
                publish(server, events(number + 1, number))
                busy.take(1)
            counts.append(voluntary_switches(idle.thread))
    assert counts[1] == counts[2]


def test_close_does_not_wait_for_a_stopped_server(server: NatsServer) -> None:
    publish(server, events(10))
    with reader(server) as one:
        one.wait(10)
        one.acknowledge(5)
        server.stop()
    server.cont()


@pytest.mark.parametrize("topic", ["a..b", "a.>.b", ".", "a*", "a.", "a.b>"])
def test_invalid_subject_is_refused(tmp_path: Path, topic: str) -> None:
    with pytest.raises(StartError, match="topics has an invalid subject"):
        create_source("nats://host", tmp_path, Selection(POOL, (topic,)))


@contextlib.contextmanager
def running_bridge(
    server: NatsServer, directory: Path, relay: RunningRelay, **options: object
) -> Iterator[RealInboundBridge]:
    """Context with a bridge from a server to a relay."""
    bridge = RealInboundBridge(directory, relay.ingest, server.url, pool=POOL)
    bridge.add_section("nats", **(QUICK | options))
    with bridge.running():
        yield bridge


def test_bridge_brings_what_is_readable(
    server: NatsServer, directory: Path, relay: RunningRelay
) -> None:
    sent = events(500)
    with relay.subscribe() as subscriber, running_bridge(server, directory, relay) as bridge:
        publish(server, [sent[0], b"", b"x", b"[]", sent[1]])
        first, dropped, last = read_around_gaps(subscriber)
        assert json.dumps(first).encode() == sent[0].replace(b"}", b', "_bridge": "in"}')
        assert dropped == 3
        assert last["number"] == 1
        wait_until(lambda: outstanding(server) == (0, 0), "everything is acknowledged")
        relay.process.send_signal(signal.SIGSTOP)
        publish(server, sent[2:])
        wait_until(lambda: outstanding(server) == (498, 0), "the bridge has read everything")
        relay.process.send_signal(signal.SIGCONT)
        lines = [subscriber.line() for _ in range(498)]
        assert bridge.stop() == 0
    assert first_arrivals(lines) == [*range(2, 500)]
    assert outstanding(server) == (0, 0)


def test_killed_bridge_loses_nothing(
    server: NatsServer, directory: Path, relay: RunningRelay
) -> None:
    publish(server, events(2000))
    with (
        relay.subscribe() as subscriber,
        running_bridge(server, directory, relay, max_unacknowledged=100, **QUICK) as bridge,
    ):
        lines = subscriber.lines(200)
        bridge.kill()
        bridge.start()
        while len({*lines}) < 2000:
            lines.append(subscriber.line())
    assert first_arrivals(lines) == [*range(2000)]
