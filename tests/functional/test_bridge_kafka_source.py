# SPDX-License-Identifier: Apache-2.0
"""Tests of the source Kafka, and of a bridge with it, with the mock cluster of librdkafka."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from notif_relayd_bridge.brokers.kafka import source
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.errors import StartError
from support.bridge_inbound import RealInboundBridge
from support.bridge_sources import SimpleReader, create_source, read_around_gaps
from support.bridge_targets import event
from support.mock_kafka import OFFSET_COMMIT, MockKafka
from support.relay import RunningRelay, connect
from support.waiting import TIMEOUT, wait_until

TOPIC = "notifications.info"

REBALANCE_IN_PROGRESS = 27
TOPIC_AUTHORIZATION_FAILED = 29
GROUP_AUTHORIZATION_FAILED = 30
PARTITIONS = 4
POOL = "hub"

QUICK = {"session.timeout.ms": 2000, "heartbeat.interval.ms": 100, "fetch.wait.max.ms": 50}
"""Options with which the mock cluster rebalances a group within a second."""


@pytest.fixture
def cluster() -> Iterator[MockKafka]:
    """Return a cluster with a topic."""
    with MockKafka() as cluster:
        cluster.command("topic", TOPIC, PARTITIONS)
        yield cluster


def reader(
    cluster: MockKafka, directory: Path, topics: Iterable[str] = (), **options: object
) -> SimpleReader:
    """Return a reader of a cluster."""
    selection = Selection(POOL, tuple(topics))
    return SimpleReader(create_source(cluster.url, directory, selection, **(QUICK | options)))


def produce(
    cluster: MockKafka, records: Iterable[bytes | None], topic: str = TOPIC, spread: int = 0
) -> None:
    """Write records as a bridge does, with the publisher as key.

    Args:
        cluster: where.
        records: the values.
        topic: where.
        spread: number of partitions that are used in turn instead.
    """
    producer = Producer({"bootstrap.servers": cluster.servers, "log_level": 0})
    for number, raw in enumerate(records):
        key = None
        if raw and raw.startswith(b"{"):
            key = json.loads(raw).get("publisher_id")
        partition = number % spread if spread else -1
        producer.produce(topic, raw if raw is None else raw.rstrip(b"\n"), key, partition)
    assert producer.flush(TIMEOUT) == 0


def committed(cluster: MockKafka) -> int:
    """Return the number of messages that the group has finished."""
    consumer = Consumer({"bootstrap.servers": cluster.servers, "group.id": POOL, "log_level": 0})
    try:
        partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        found = consumer.committed(partitions, TIMEOUT)
        return sum(max(each.offset, 0) for each in found)
    finally:
        consumer.close()


def numbers(records: Iterable[object], publisher: int) -> list[int]:
    """Return the numbers of the records of a publisher of `event`, each at its first arrival."""
    found = [json.loads(raw) for raw in records if isinstance(raw, bytes)]
    return list(
        dict.fromkeys(
            each["number"] for each in found if each.get("publisher_id") == f"test.host{publisher}"
        )
    )


def check_order(records: Iterable[object], count: int) -> None:
    """Check that the records of `event` have arrived, those of each publisher in order."""
    records = list(records)
    for publisher in range(3):
        assert numbers(records, publisher) == list(range(publisher, count, 3))


def test_next_consumer_begins_after_acknowledged_messages(
    cluster: MockKafka, tmp_path: Path
) -> None:
    sent = [event(number) for number in range(3000)]
    produce(cluster, sent)
    with reader(cluster, tmp_path, max_unacknowledged=700) as first:
        first.wait(700)
        first.take(2000)
    assert committed(cluster) == 2000
    with reader(cluster, tmp_path) as second:
        second.take(1000)
    found = first.taken + second.taken
    assert sorted(map(str, found)) == sorted(str(raw.rstrip(b"\n")) for raw in sent)
    check_order(found, len(sent))
    assert first.failures == second.failures == []


def test_size_of_unacknowledged_messages_is_limited(
    cluster: MockKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_UNACKNOWLEDGED_BYTES", 200_000)
    monkeypatch.setattr(source, "BATCH", 3)
    monkeypatch.setattr(source, "STALL_TIME", 0.01)  # Then fetching stops.
    sent = [event(number, payload="x" * 5000) for number in range(200)]
    produce(cluster, sent)
    with reader(cluster, tmp_path) as full:
        wait_until(lambda: len(full.waiting) >= 38, "200 kB have arrived")
        # Another consumer has read everything; the source would have, too.
        assert len(cluster.messages(TOPIC)) == len(sent)
        assert len(full.waiting) <= 42
        full.take(200)
    assert len(full.taken) == len(sent)
    check_order(full.taken, len(sent))


@pytest.mark.parametrize("strategy", ["cooperative-sticky", "range"])
def test_members_of_a_pool_share_the_messages(
    cluster: MockKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    # Only the first commit, and those when partitions are revoked.
    monkeypatch.setattr(source, "COMMIT_INTERVAL", 1000)
    options = {"partition.assignment.strategy": strategy}
    produce(cluster, [event(number) for number in range(60)])
    with reader(cluster, tmp_path, (), **options) as first:
        first.take(10)
        wait_until(lambda: committed(cluster), "the first commit")
        first.take(10)
        first.wait(40)
        with reader(cluster, tmp_path, (), **options) as second:
            # Some of the unacknowledged messages are of revoked partitions.
            first.wait_failure("another consumer")
            first.wait_connections(2)
            second.wait_connections()
            produce(cluster, [event(number) for number in range(60, 90)])
            readers = (first, second)
            wait_until(
                lambda: len({*chain(*(each.taken + each.waiting for each in readers))}) == 90,
                "all messages",
            )
            taken = [*first.taken, *first.acknowledge(90), *second.acknowledge(90)]
    assert second.taken
    check_order(taken, 90)
    # The mock cluster refuses the commit if the group gives all partitions up for a rebalance.
    assert len(taken) == 90 if strategy == "cooperative-sticky" else len(taken) <= 100


def test_broker_may_be_away(cluster: MockKafka, tmp_path: Path) -> None:
    sent = [event(number) for number in range(90)]
    produce(cluster, sent[:60])
    with reader(cluster, tmp_path) as one:
        one.take(30)
        one.wait(30)
        cluster.command("down")
        one.wait_failure("Connection refused")
        cluster.command("up")
        produce(cluster, sent[60:])
        one.take(60)
    check_order(one.taken, 90)
    assert len(one.taken) == 90


def test_topics_are_names_and_patterns(
    cluster: MockKafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for topic in ("os.nova", "os-x", "other"):
        cluster.command("topic", topic, 1)
        produce(cluster, [event(len(topic))], topic)
    with reader(cluster, tmp_path, [r"^os\..*", "other", "missing"]) as one:
        one.take(2)
    assert {json.loads(raw)["number"] for raw in one.taken} == {7, 5}
    assert caplog.text.count("missing: Broker: Unknown topic or partition") == 1


def test_refused_commit_is_a_failure(cluster: MockKafka, tmp_path: Path) -> None:
    sent = [event(number) for number in range(30)]
    produce(cluster, sent)
    with reader(cluster, tmp_path) as one:
        cluster.command("errors_of", OFFSET_COMMIT, REBALANCE_IN_PROGRESS)
        one.take(10)
        # The commit is repeated.
        wait_until(lambda: committed(cluster) == 10, "10 messages are committed")
        assert one.failures == []
        cluster.command("errors_of", OFFSET_COMMIT, GROUP_AUTHORIZATION_FAILED)
        one.take(10)
        one.wait_failure("commit: GROUP_AUTHORIZATION_FAILED")
        while len({*one.taken}) < 30:
            one.take(1)
    check_order(one.taken, 30)


def test_forbidden_topic_is_a_failure(cluster: MockKafka, tmp_path: Path) -> None:
    cluster.command("topic_error", TOPIC, TOPIC_AUTHORIZATION_FAILED)
    produce(cluster, [event(1)], "other")
    with reader(cluster, tmp_path, ["other", TOPIC]) as one:
        one.wait_failure("TOPIC_AUTHORIZATION_FAILED")
        cluster.command("topic_error", TOPIC, 0)
        one.take(1)


def test_missing_broker_is_a_failure_each_time(tmp_path: Path) -> None:
    one = SimpleReader(create_source("kafka://127.0.0.1:1", tmp_path, Selection(POOL)))
    with one:
        wait_until(lambda: len(one.failures) >= 2, "two failures")
    assert "Connection refused" in one.failures[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"isolation.level": "wrong"}, "isolation.level"),
        ({"auto.offset.reset": "wrong"}, "auto.offset.reset"),
        ({"group.protocol": "consumer", "session.timeout.ms": 7000}, "session.timeout.ms"),
    ],
)
def test_invalid_option_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(StartError, match=message):
        create_source("kafka://host", tmp_path, Selection(POOL), **options)


@contextlib.contextmanager
def running_bridge(
    cluster: MockKafka, directory: Path, relay: RunningRelay, **options: object
) -> Iterator[RealInboundBridge]:
    """Context with a bridge from a cluster to a relay."""
    status = directory / "status.sock"
    bridge = RealInboundBridge(
        directory, relay.ingest, cluster.url, pool=POOL, status_socket=status
    )
    bridge.add_section("kafka", **(QUICK | options))
    with bridge.running():
        yield bridge


def test_bridge_brings_what_is_readable(
    cluster: MockKafka, directory: Path, relay: RunningRelay
) -> None:
    content = {
        "event_type": "a",
        "priority": "INFO",
        "payload": {},
        "_context": {"auth_token": "x"},
    }
    envelope = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(content)}).encode()
    with (
        relay.subscribe() as subscriber,
        running_bridge(cluster, directory, relay) as bridge,
    ):
        produce(cluster, [event(0), None, b"x", b"[]", envelope], spread=1)
        first, dropped, last = read_around_gaps(subscriber)
        assert encoded(first) == event(0).replace(b"}", b', "_bridge": "in"}')
        assert dropped == 3
        assert last == content | {"_context": {"auth_token": "***"}, "_bridge": "in"}
        wait_until(lambda: committed(cluster) == 5, "everything is committed")
        relay.process.send_signal(signal.SIGSTOP)
        produce(cluster, [event(number) for number in range(1, 500)])
        wait_until(lambda: outstanding(directory) == 499, "the bridge has read everything")
        assert committed(cluster) == 5
        relay.process.send_signal(signal.SIGCONT)
        found = [subscriber.line() for _ in range(499)]
        assert bridge.stop() == 0
    check_order([event(0), *found], 500)
    assert committed(cluster) == 504


def test_killed_bridge_loses_nothing(
    cluster: MockKafka, directory: Path, relay: RunningRelay
) -> None:
    sent = [event(number) for number in range(2000)]
    produce(cluster, sent)
    with (
        relay.subscribe() as subscriber,
        running_bridge(cluster, directory, relay, max_unacknowledged=100) as bridge,
    ):
        found = subscriber.lines(200)
        bridge.kill()
        bridge.start()
        while len({*found}) < len(sent):
            found.append(subscriber.line())
    check_order(found, len(sent))


def encoded(fields: dict[str, object]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def outstanding(directory: Path) -> int:
    """Return the number of messages that the bridge has read and not acknowledged."""
    with connect(directory / "status.sock") as sock, sock.makefile() as stream:
        status = json.loads(stream.readline())
    return int(status["unconfirmed"] + status["waiting"])
