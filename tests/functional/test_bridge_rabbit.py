# SPDX-License-Identifier: Apache-2.0
"""Tests of the bridge's target for RabbitMQ with a real broker: what arrives, and as what."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import amqp
import oslo_messaging
import pytest
from oslo_context.context import RequestContext

from notif_relay import records
from support.messaging import Endpoint, make_notifier, running_listener
from support.rabbitmq import (
    Broker,
    content,
    needs_rabbitmq,
    notification,
    pipeline_to,
    rabbit_transport,
    record,
    record_of,
)
from support.waiting import wait_until

pytestmark = needs_rabbitmq

TOPIC = "notifications"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"amqp_durable_queues": True},
        {"rabbit_quorum_queue": True, "rabbit_quorum_delivery_limit": 3},
        {"kombu_compression": "gzip"},
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_message_equals_that_of_a_service(
    broker: Broker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    context = RequestContext(user_id="u", project_id="p", request_id="req-1")
    with rabbit_transport(broker.url(), **options) as transport, transport_exchange(broker):
        make_notifier(transport).error(context, "image.update", {"name": "ü", "size": 1.5})
        (expected,) = broker.messages("notifications.error", 1)
        with pipeline_to(broker.url(), **options) as pipeline:
            pipeline.send([record_of(expected)])
            pipeline.wait_answered()
        (found,) = broker.messages("notifications.error", 1)
    assert found.properties == expected.properties
    assert found.delivery_info["exchange"] == expected.delivery_info["exchange"] == "openstack"
    assert found.delivery_info["routing_key"] == expected.delivery_info["routing_key"]
    assert plain(found) == plain(expected)
    # The queue has the properties that the service has given it.
    assert "other properties" not in caplog.text


@contextlib.contextmanager
def transport_exchange(broker: Broker) -> Iterator[None]:
    """Delete the exchange before and after, because its properties depend on the options."""

    def delete() -> None:
        with broker.channel() as channel:
            channel.queue_delete("notifications.error")
            channel.exchange_delete("openstack")

    delete()
    yield
    delete()


def plain(message: Any) -> bytes:
    """Return the body without the value of its unique id."""
    text, count = re.subn(rb'(_unique_id\\": \\")[0-9a-f]{32}', rb"\1", content(message))
    assert count == 1
    return text


def test_listener_gets_event_metadata_and_context(broker: Broker) -> None:
    endpoint = Endpoint()
    with (
        rabbit_transport(broker.url()) as transport,
        running_listener(transport, endpoint),
        pipeline_to(broker.url()) as pipeline,
    ):
        pipeline.send([record(7, priority="ERROR", _context={"user_id": "u-1"})])
        call = endpoint.next_notification()
        pipeline.wait_answered()
    assert call.priority == "error"
    assert call.publisher_id == "compute.host-1"
    assert call.event_type == "compute.instance.update"
    assert call.payload == {"number": 7}
    assert call.metadata == {
        "message_id": "00000000-0000-0000-0000-000000000007",
        "timestamp": "2026-01-31 12:00:00.123456",
    }
    assert call.context["user_id"] == "u-1"


def test_gap_record_is_a_notification(broker: Broker) -> None:
    endpoint = Endpoint()
    with (
        rabbit_transport(broker.url()) as transport,
        running_listener(transport, endpoint),
        pipeline_to(broker.url()) as pipeline,
    ):
        pipeline.send([records.gap(12, "slow_subscriber")])
        call = endpoint.next_notification()
        pipeline.wait_answered()
    assert call.event_type == "notif_relayd.gap"
    assert call.payload["dropped"] == 12


@pytest.mark.parametrize("topic", ["versioned", ["versioned", "other"]])
def test_topic_of_the_record_is_used(broker: Broker, topic: str | list[str]) -> None:
    topics = [topic] if isinstance(topic, str) else topic
    with pipeline_to(broker.url()) as pipeline:
        pipeline.send([record(1, _topic=topic)])
        pipeline.wait_answered()
    for each in topics:
        (message,) = broker.messages(f"{each}.info", 1)
        assert "_topic" not in notification(message)
    assert pipeline.answers == [(record(1, _topic=topic), None)]


def test_listener_joins_a_queue_with_old_messages(broker: Broker) -> None:
    with pipeline_to(broker.url()) as pipeline:
        pipeline.send(map(record, range(5)))
        pipeline.wait_answered()
    endpoint = Endpoint("info")
    with rabbit_transport(broker.url()) as transport, running_listener(transport, endpoint):
        assert [each["number"] for each in sorted_payloads(endpoint, 5)] == list(range(5))


@pytest.mark.parametrize("option", ["amqp_durable_queues", "rabbit_quorum_queue"])
def test_batch_listener_of_a_pool_requeues(broker: Broker, option: str) -> None:
    """Read as ceilometer-agent-notification does."""
    options = {option: True}
    batches: list[list[int]] = []

    class Requeueing:
        def info(self, messages: list[dict[str, Any]]) -> oslo_messaging.NotificationResult:
            batches.append([each["payload"]["number"] for each in messages])
            is_first = len(batches) == 1
            result = oslo_messaging.NotificationResult
            return result.REQUEUE if is_first else result.HANDLED

    listening: dict[str, Any] = {
        "batch_size": 10,
        "batch_timeout": 0.1,
        "allow_requeue": True,
        "pool": option,
    }
    with (
        transport_exchange(broker),
        rabbit_transport(broker.url(), **options) as transport,
        running_listener(transport, Requeueing(), **listening),
        pipeline_to(broker.url(), **options) as pipeline,
    ):
        pipeline.send(map(record, range(100)))
        pipeline.wait_answered()
        wait_until(lambda: sum(map(len, batches[1:])) >= 100, "all records")
    assert sorted(each for batch in batches[1:] for each in batch) == list(range(100))
    assert len(batches[0]) > 0


def sorted_payloads(endpoint: Endpoint, number: int) -> list[Any]:
    payloads = [endpoint.next_notification().payload for _ in range(number)]
    return sorted(payloads, key=lambda each: each["number"])


def test_many_records_arrive_in_order(broker: Broker) -> None:
    with pipeline_to(broker.url()) as pipeline:
        pipeline.send(map(record, range(5000)))
        pipeline.wait_answered()
    assert broker.numbers("notifications.info") == list(range(5000))
    assert pipeline.answers == [(record(number), None) for number in range(5000)]
    assert (pipeline.connections, pipeline.failures) == (1, [])


def test_unsendable_records_are_refused_in_their_turn(broker: Broker) -> None:
    unsendable = [
        record(1, priority="host-1"),  # with a topic, the queue of a server
        record(3, _topic="t" * 255),
        record(4, _topic="line\nbreak"),
        record(5, _topic="\ud800"),
        record(6, _topic=[f"topic-{number}" for number in range(17)]),
        b'{"priority": "INFO", "event_type": "a", "payload": '
        + b"[" * 99_999
        + b"]" * 99_999
        + b"}\n",
        b"\xff\n",
    ]
    with pipeline_to(broker.url()) as pipeline:
        pipeline.send([record(0), unsendable[0], record(2), *unsendable[1:], record(7)])
        pipeline.wait_answered()
    assert broker.numbers("notifications.info") == [0, 2, 7]
    assert list(pipeline.refusals) == unsendable
    assert (pipeline.connections, pipeline.failures) == (1, [])


def test_number_of_queues_is_bounded(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notif_relayd_bridge.brokers.rabbit.session.MAX_QUEUES", 2)
    sent = [record(number, _topic=f"bounded-{number}") for number in range(4)]
    with pipeline_to(broker.url()) as pipeline:
        pipeline.send([*sent, record(4)])
        pipeline.wait_answered()
        pipeline.send([sent[1]])
        pipeline.wait_answered()
    assert list(pipeline.refusals) == sent[2:]
    assert broker.numbers("notifications.info") == [4]
    with broker.channel() as channel, pytest.raises(amqp.NotFound):
        channel.queue_declare("bounded-2.info", passive=True)
