# SPDX-License-Identifier: Apache-2.0
"""Tests of the target Kafka with the mock cluster of librdkafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayd_bridge.errors import StartError
from support.bridge_targets import SimplePipeline, create_target, event
from support.mock_kafka import MockKafka
from support.threads import voluntary_switches

MSG_SIZE_TOO_LARGE = 10
NOT_ENOUGH_REPLICAS = 19
TOPIC_AUTHORIZATION_FAILED = 29
INVALID_RECORD = 87

TOPIC = "notifications.info"

QUICK = {"message.timeout.ms": 600, "linger.ms": 0}
"""Options for tests in which messages are given up."""


@pytest.fixture
def cluster() -> Iterator[MockKafka]:
    """Return a cluster with one broker."""
    with MockKafka() as cluster:
        yield cluster


def pipeline(cluster: MockKafka, directory: Path, **options: object) -> SimplePipeline:
    """Return a pipeline to a cluster."""
    return SimplePipeline(create_target(cluster.url, directory, **options))


def stored(cluster: MockKafka, topic: str = TOPIC) -> list[bytes]:
    """Return the records of a topic, each once, in the order of their first arrival."""
    values = [message.value() for message in cluster.messages(topic)]
    return list(dict.fromkeys(value + b"\n" for value in values if value is not None))


def by_publisher(records: list[bytes]) -> dict[bytes, list[bytes]]:
    """Return the records of each of the publishers of `event`."""
    names = (b'"test.host0"', b'"test.host1"', b'"test.host2"')
    return {name: [raw for raw in records if name in raw] for name in names}


def test_records_are_stored_and_confirmed_in_order(cluster: MockKafka, tmp_path: Path) -> None:
    cluster.command("topic", TOPIC, 5)
    sent = [event(number) for number in range(5000)]
    with pipeline(cluster, tmp_path, max_unconfirmed=700) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert bridge.answers == [(raw, None) for raw in sent]
    assert bridge.failures == []
    messages = cluster.messages(TOPIC)
    assert len(messages) == len(sent)
    assert by_publisher(stored(cluster)) == by_publisher(sent)
    assert {message.key() for message in messages} == {b"test.host0", b"test.host1", b"test.host2"}
    partitions = {(message.key(), message.partition()) for message in messages}
    assert len(partitions) == 3


@pytest.mark.parametrize(
    ("template", "topic"),
    [
        ("notifications.{priority}", "notifications.info"),
        ("os-{event_type}", "os-a.b_c_"),
        ("{topic}.{priority}", "versioned_notifications.info"),
        ("all", "all"),
    ],
)
def test_topic_follows_the_template(
    cluster: MockKafka, tmp_path: Path, template: str, topic: str
) -> None:
    raw = event(1, event_type="a.b c/", _topic="versioned_notifications")
    with pipeline(cluster, tmp_path, topic=template) as bridge:
        bridge.send([raw])
        bridge.wait_answers(1)
    assert stored(cluster, topic) == [raw]


def test_hostile_names_are_valid_topics_and_keys(cluster: MockKafka, tmp_path: Path) -> None:
    names = ["", ".", "..", "a" * 100_000, "\0", "é\ud800"]
    topics = ["_", "_", "_", "a" * 249, "_", "__"]
    sent = [event(number, event_type=name, publisher_id=name) for number, name in enumerate(names)]
    with pipeline(cluster, tmp_path, topic="{event_type}") as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert bridge.refusals == {}
    for raw, topic in zip(sent, topics, strict=True):
        assert raw in stored(cluster, topic)
    keys = {message.key() for message in cluster.messages("a" * 249)}
    assert keys == {b"a" * 1024}


@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"])
def test_compression_is_an_option(cluster: MockKafka, tmp_path: Path, compression: str) -> None:
    sent = [event(number, payload="x" * 5000) for number in range(50)]
    with pipeline(cluster, tmp_path, **{"compression.type": compression}) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert sorted(stored(cluster)) == sorted(sent)


def test_record_above_the_limit_of_the_client_is_refused(
    cluster: MockKafka, tmp_path: Path
) -> None:
    sent = [event(number, payload="x" * (3000 if number % 3 == 1 else 0)) for number in range(9)]
    with pipeline(cluster, tmp_path, **{"message.max.bytes": 2000}) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert [raw for raw, _ in bridge.answers] == sent
    assert list(bridge.refusals) == sent[1::3]
    assert "message.max.bytes" in bridge.refusals[sent[1]]
    assert bridge.failures == []


@pytest.mark.parametrize("code", [MSG_SIZE_TOO_LARGE, INVALID_RECORD])
def test_single_message_that_the_broker_rejects_is_refused(
    cluster: MockKafka, tmp_path: Path, code: int
) -> None:
    with pipeline(cluster, tmp_path) as bridge:
        bridge.wait_connected()
        cluster.command("errors", code)
        for number in range(3):
            bridge.send([event(number)])
            bridge.wait_answers(number + 1)
    assert list(bridge.refusals) == [event(0)]
    assert sorted(stored(cluster)) == [event(1), event(2)]


def test_rejected_batch_is_sent_one_by_one(cluster: MockKafka, tmp_path: Path) -> None:
    cluster.command("topic", TOPIC, 1)
    sent = [event(number) for number in range(100)]
    # Long enough that all messages are in one batch.
    with pipeline(cluster, tmp_path, **{"linger.ms": 200}) as bridge:
        bridge.wait_connected()
        # The whole batch, and then the third of its messages.
        cluster.command("errors", MSG_SIZE_TOO_LARGE, 0, 0, MSG_SIZE_TOO_LARGE)
        bridge.send(sent[:8])
        bridge.wait_answers(8)
        bridge.send(sent[8:])
        bridge.wait_answers(len(sent))
    assert [raw for raw, _ in bridge.answers] == sent
    assert list(bridge.refusals) == [sent[2]]
    assert len(bridge.failures) == 1
    assert "one by one" in bridge.failures[0]
    assert stored(cluster) == sent[:2] + sent[3:]


def test_missing_permission_is_a_failure(cluster: MockKafka, tmp_path: Path) -> None:
    with pipeline(cluster, tmp_path) as bridge:
        bridge.wait_connected()
        cluster.command("errors", TOPIC_AUTHORIZATION_FAILED)
        bridge.send([event(1), event(2)])
        bridge.wait_failure("TOPIC_AUTHORIZATION_FAILED")
        bridge.wait_answers(2)
    assert bridge.answers == [(event(1), None), (event(2), None)]


def test_transient_error_is_repeated_by_the_client(cluster: MockKafka, tmp_path: Path) -> None:
    with pipeline(cluster, tmp_path) as bridge:
        bridge.wait_connected()
        cluster.command("errors", NOT_ENOUGH_REPLICAS, NOT_ENOUGH_REPLICAS)
        bridge.send([event(1)])
        bridge.wait_answers(1)
    assert bridge.failures == []


def test_records_survive_restarts_of_the_broker(cluster: MockKafka, tmp_path: Path) -> None:
    cluster.command("topic", TOPIC, 3)
    sent = [event(number) for number in range(4000)]
    with pipeline(cluster, tmp_path, max_unconfirmed=50) as bridge:
        bridge.send(sent)
        for _ in range(3):
            bridge.wait_progress()
            cluster.command("down")
            cluster.command("up")
        bridge.wait_answers(len(sent))
    assert bridge.answers == [(raw, None) for raw in sent]
    # The client connects again by itself.
    assert bridge.failures == []
    assert by_publisher(stored(cluster)) == by_publisher(sent)


def test_message_is_given_up_while_the_broker_is_away(cluster: MockKafka, tmp_path: Path) -> None:
    sent = [event(number) for number in range(100)]
    with pipeline(cluster, tmp_path, **QUICK) as bridge:
        bridge.wait_connected()
        cluster.command("down")
        bridge.send(sent)
        bridge.wait_failure("_MSG_TIMED_OUT")
        assert bridge.answers == []
        bridge.wait_failure("Connection refused")
        cluster.command("up")
        bridge.wait_answers(len(sent))
    assert bridge.answers == [(raw, None) for raw in sent]
    # What was given up is not sent in addition.
    assert len(cluster.messages(TOPIC)) == len(sent)


def test_stopped_broker_confirms_nothing_and_loses_nothing(
    cluster: MockKafka, tmp_path: Path
) -> None:
    sent = [event(number) for number in range(100)]
    with pipeline(cluster, tmp_path, **QUICK) as bridge:
        bridge.wait_connected()
        cluster.stop()
        bridge.send(sent)
        bridge.wait_failure("_MSG_TIMED_OUT")
        assert bridge.answers == []
        cluster.cont()
        bridge.wait_answers(len(sent))
    assert bridge.answers == [(raw, None) for raw in sent]
    assert by_publisher(stored(cluster)) == by_publisher(sent)


def test_more_than_the_memory_of_the_client_is_sent(cluster: MockKafka, tmp_path: Path) -> None:
    options = {"queue.buffering.max.kbytes": 100, "queue.buffering.max.messages": 7}
    sent = [event(number, payload="x" * 30_000) for number in range(200)]
    with pipeline(cluster, tmp_path, **options) as bridge:
        bridge.send(sent)
        bridge.wait_answers(len(sent))
    assert bridge.answers == [(raw, None) for raw in sent]
    assert by_publisher(stored(cluster)) == by_publisher(sent)


def test_killed_cluster_is_a_failure_each_time(tmp_path: Path) -> None:
    with MockKafka() as cluster, pipeline(cluster, tmp_path, **QUICK) as bridge:
        bridge.wait_connected()
        cluster.kill()
        bridge.send([event(1)])
        bridge.wait_failure("_MSG_TIMED_OUT")
        bridge.wait_failure("Connection refused")
    assert bridge.answers == []


def test_close_does_not_wait_for_a_stopped_broker(cluster: MockKafka, tmp_path: Path) -> None:
    with pipeline(cluster, tmp_path) as bridge:
        bridge.wait_connected()
        cluster.stop()
        bridge.send(event(number) for number in range(1000))
    assert bridge.answers == []
    assert bridge.failures == []


def test_idle_target_does_not_poll(cluster: MockKafka, tmp_path: Path) -> None:
    with pipeline(cluster, tmp_path) as idle, pipeline(cluster, tmp_path) as busy:
        idle.send([event(1)])
        idle.wait_answers(1)
        # The thread may be on its way to sleep; a busy target takes longer than POLL_TIMEOUT.
        counts = []
        for round_number in range(1, 3):
            for number in range(100):
                busy.send([event(number)])
                busy.wait_answers((round_number - 1) * 100 + number + 1)
            counts.append(voluntary_switches(idle.thread))
        assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"security.protocol": "wrong"}, "security.protocol"),
        ({"ssl.ca.location": "/missing", "security.protocol": "ssl"}, "ssl.ca.location"),
        ({"compression.type": "wrong"}, "compression"),
        ({"topic": "a b"}, r"\[kafka\] topic"),
        ({"topic": "{x}"}, r"\[kafka\] topic"),
        ({"topic": "a" * 250}, r"\[kafka\] topic"),
    ],
)
def test_invalid_option_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(StartError, match=message):
        create_target("kafka://host", tmp_path, **options)
