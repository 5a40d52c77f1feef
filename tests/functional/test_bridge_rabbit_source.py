# SPDX-License-Identifier: Apache-2.0
"""Tests of the bridge's source for RabbitMQ with a real broker."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import amqp
import pytest
from oslo_config import cfg
from oslo_context.context import RequestContext

from notif_relayd_bridge.brokers.rabbit import consumer, source
from notif_relayd_bridge.brokers.schemes import SCHEMES
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.errors import StartError
from support.bridge_sources import SimpleReader
from support.messaging import Endpoint, make_notifier, running_listener
from support.proxy import Proxy
from support.rabbitmq import Broker, needs_rabbitmq, rabbit_transport
from support.waiting import wait_until

pytestmark = needs_rabbitmq

POOL = "pool-of-a-bridge"


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the pause between attempts to connect, which grows while a broker restarts."""
    monkeypatch.setattr("notif_relayd_bridge.brokers.backoff.MAX_BACKOFF", 0.5)


@pytest.fixture(autouse=True)
def no_queue(broker: Broker) -> None:
    """Delete the queue and the exchange, whose properties depend on the options."""
    with broker.channel() as channel:
        channel.queue_delete(POOL)
        channel.exchange_delete("openstack")


SELECTION = Selection(POOL, exchanges=("openstack",))


def reader(url: str, selection: Selection = SELECTION, **options: Any) -> SimpleReader:
    """Return a reader of a source; `options` are those of [oslo_messaging_rabbit]."""
    conf = cfg.ConfigOpts()
    conf([], project="bridge-test", default_config_files=[])
    for group, opts in SCHEMES["rabbit"].source_options():
        conf.register_opts(opts, group=group)
    for name, value in options.items():
        conf.set_override(name, value, group="oslo_messaging_rabbit")
    return SimpleReader(SCHEMES["rabbit"].create_source(url, conf, selection))


@contextlib.contextmanager
def connected(
    broker: Broker, selection: Selection = SELECTION, **options: Any
) -> Iterator[SimpleReader]:
    with reader(broker.url(), selection, **options) as found:
        found.wait_connections()
        yield found


def body(number: int, **fields: Any) -> bytes:
    message = {"event_type": "e", "priority": "INFO", "payload": {"number": number}, **fields}
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def publish(broker: Broker, *bodies: bytes, **properties: Any) -> None:
    properties = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
    with broker.channel() as channel:
        for each in bodies:
            channel.basic_publish_confirm(
                amqp.Message(each, **properties), "openstack", "notifications.info"
            )


def left(broker: Broker) -> int:
    """Return the number of messages in the queue, after its consumer has gone."""
    with broker.channel() as channel:
        wait_until(
            lambda: channel.queue_declare(POOL, passive=True).consumer_count == 0, "no consumer"
        )
        count = channel.queue_declare(POOL, passive=True).message_count
    assert isinstance(count, int)
    return count


def numbers(messages: list[bytes | str]) -> list[int | str]:
    """Return the number in the payload of each record, and the reasons for other messages."""
    return [
        each if isinstance(each, str) else json.loads(each)["payload"]["number"]
        for each in messages
    ]


@pytest.mark.parametrize("driver", ["messaging", "messagingv2"])
def test_notification_of_a_service_is_received(broker: Broker, driver: str) -> None:
    with (
        connected(broker, replace(SELECTION, topics=("notifications", "other"))) as found,
        rabbit_transport(broker.url(), kombu_compression="gzip") as transport,
    ):
        notifier = make_notifier(transport, "notifications", "other", driver=driver)
        notifier.warn(RequestContext(request_id="req-1"), "image.update", {"a": "ü"})
        first, second = sorted(map(json.loads, found.take(2)), key=len)
    assert second.pop("_topic") == "other"
    assert first == second
    assert list(first) == [
        *("message_id", "publisher_id", "event_type", "priority", "payload", "timestamp"),
        "_context",
    ]
    assert (first["event_type"], first["priority"], first["payload"]) == (
        *("image.update", "WARN"),
        {"a": "ü"},
    )
    assert first["_context"]["request_id"] == "req-1"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"amqp_durable_queues": True},
        {"rabbit_quorum_queue": True, "rabbit_quorum_delivery_limit": 3},
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_queue_is_that_of_a_listener_with_a_pool(
    broker: Broker, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with connected(broker, **options):
        pass
    endpoint = Endpoint("info")
    with (
        rabbit_transport(broker.url(), **options) as transport,
        running_listener(transport, endpoint, pool=POOL),
    ):
        publish(broker, body(1, publisher_id="p", message_id="m", timestamp="t"))
        assert endpoint.next_notification().payload == {"number": 1}
    with connected(broker, **options) as found:
        publish(broker, body(2))
        assert numbers(found.take(1)) == [2]
    assert [each for each in caplog.messages if "declared" in each] == []


def test_existing_queue_with_other_properties_is_used(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with broker.channel() as channel:
        channel.exchange_declare("openstack", "topic", durable=True, auto_delete=False)
        channel.queue_declare(POOL, durable=True, auto_delete=False)
    with connected(broker) as found:
        publish(broker, body(1))
        assert numbers(found.take(1)) == [1]
    assert [each.partition(" cannot")[0] for each in caplog.messages if "used as is" in each] == [
        f"queue {POOL}",
        "exchange openstack",
    ]


def test_only_acknowledged_messages_are_removed(broker: Broker) -> None:
    with connected(broker) as found:
        publish(broker, *map(body, range(10)))
        found.wait(10)
        found.acknowledge(3)
        found.acknowledge(1)
    assert left(broker) == 6
    with connected(broker) as found:
        assert numbers(found.take(6)) == list(range(4, 10))
    assert left(broker) == 0


def test_unreadable_messages_keep_their_place(broker: Broker) -> None:
    with connected(broker) as found:
        publish(broker, body(0))
        publish(broker, b"x", application_headers={"compression": "application/x-gzip"})
        publish(broker, b"", b"[]", body(1))
        taken = numbers(found.take(5))
    kinds = [each if isinstance(each, int) else "unreadable" for each in taken]
    assert kinds == [0, "unreadable", "unreadable", "unreadable", 1]
    assert left(broker) == 0


def test_number_of_unacknowledged_messages_is_bounded(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_UNACKNOWLEDGED", 10)
    with connected(broker) as found:
        publish(broker, *map(body, range(25)))
        for count in (4, 10, 1):
            found.wait(10)
            found.acknowledge(count)
        found.wait(10)
    assert numbers(found.taken + found.waiting) == list(range(25))


def test_size_of_unacknowledged_messages_is_bounded(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "MAX_UNACKNOWLEDGED_BYTES", 150_000)
    monkeypatch.setattr(consumer, "MAX_MESSAGE_SIZE", 80_000)
    with connected(broker) as found:
        publish(broker, *(body(number, text="x" * 70_000) for number in range(10)))
        publish(broker, body(10, text="x" * 90_000), body(11))
        for _ in range(8):
            found.wait(3)
            found.acknowledge(1)
        found.take(4)
    assert numbers(found.taken) == [*range(10), "it is larger than 80000 bytes", 11]
    assert found.failures == []


def test_lost_connection_delivers_again(broker: Broker) -> None:
    with (
        Proxy(broker.port) as proxy,
        reader(f"rabbit://guest:guest@127.0.0.1:{proxy.port}/") as found,
    ):
        found.wait_connections()
        publish(broker, *map(body, range(5)))
        found.wait(5)
        proxy.cut_after = len(proxy.sent)
        found.acknowledge(2)  # cuts the connection, so that the broker does not learn of it
        found.wait_connections(2)
        assert numbers(found.take(5)) == list(range(5))
    assert left(broker) == 0


def test_deleted_queue_is_declared_again(broker: Broker) -> None:
    with connected(broker) as found:
        with broker.channel() as channel:
            channel.queue_delete(POOL)
        found.wait_connections(2)
        found.wait_failure("the queue has been deleted")
        publish(broker, body(1))
        found.take(1)
    assert len(found.failures) == 1


def test_exchange_of_others_is_used(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    with broker.channel() as channel:
        channel.exchange_declare("nova", "topic", auto_delete=False)
        # This user may configure the queue, but not the exchange.
        selection = Selection("notifications.pool", exchanges=("nova",))
        with reader(broker.url("limited:p4ssword"), selection) as found:
            found.wait_connections()
            channel.basic_publish_confirm(amqp.Message(body(1)), "nova", "notifications.info")
            assert numbers(found.take(1)) == [1]
        channel.queue_delete("notifications.pool")
        channel.exchange_delete("nova")
    (warning,) = (each for each in caplog.messages if "used as is" in each)
    assert warning.startswith("exchange nova cannot be declared as configured")


def test_missing_permission_is_a_failure(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with reader(broker.url("limited:p4ssword")) as found:
        wait_until(lambda: len(found.failures) > 1, "failures")
        assert found.connections == 0
    assert "ACCESS_REFUSED" in found.failures[0]
    assert "p4ssword" not in "".join([*found.failures, *caplog.messages])


def test_invalid_option_is_an_error() -> None:
    with pytest.raises(StartError, match="rabbit_ha_queues"):
        reader("rabbit://guest:guest@h/", rabbit_quorum_queue=True, rabbit_ha_queues=True)
    with pytest.raises(StartError, match="invalid URL of the broker"):
        reader("rabbit://guest:s3/cr3t@h:1/")
