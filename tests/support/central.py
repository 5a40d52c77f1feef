# SPDX-License-Identifier: Apache-2.0
"""The brokers that bridges send to, behind a proxy, and what a central consumer reads there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import amqp
from amqp.exceptions import MessageNacked
from confluent_kafka import Consumer, Producer, TopicPartition
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy

from compare import rabbitmq
from support.mock_kafka import MockKafka
from support.nats_server import NatsServer
from support.proxy import Proxy
from support.waiting import TIMEOUT, wait_patiently

QUEUE = "notifications.warn"
"""The queue of RabbitMQ and the topic of Kafka for records with the priority WARN."""

_BATCH = 5000
"""Maximum number of messages that are read from NATS with one connection."""


_ACKNOWLEDGED = 1000
"""Number of messages from RabbitMQ that are acknowledged at once."""


class Central:
    """A broker with one queue, topic or stream, in which the messages have one order.

    Args:
        proxy: through which the bridge connects.
    """

    name: str
    url: str
    """URL for a bridge."""
    sections = ""
    """Sections of the configuration of a bridge to the broker."""
    source_options: ClassVar[dict[str, object]] = {}
    """Options of a bridge from the broker."""
    source_sections = ""
    """Sections of its configuration."""
    starts_slowly = False
    """Whether a start takes several seconds."""
    removes_duplicates = False
    """Whether it may remove those that the bridge sends soon after the first copy."""
    batch = 400
    """Number of messages that are published at once."""
    skipped = 0
    """Number of messages that the broker has discarded before `read` could return them."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy

    def stop(self) -> None:
        """Kill the broker."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it again, with its data."""
        raise NotImplementedError

    def write(self, message: bytes) -> None:
        """Add a message, without the proxy."""
        raise NotImplementedError

    def publish(self, messages: Sequence[bytes]) -> None:
        """Publish messages, as services do, without the proxy, and wait until they are safe."""
        raise NotImplementedError

    def read(self) -> Iterator[bytes]:
        """Yield the messages that have arrived and were not read before, in order."""
        raise NotImplementedError

    def discarded(self) -> int:
        """Return the number of messages that the broker has discarded, read or not."""
        return 0


class RabbitCentral(Central):
    """RabbitMQ with a durable queue.

    It is no quorum queue: RabbitMQ 3.10 has forgotten the members of a new one after SIGKILL, and
    the queue then never has a leader again.
    """

    name = "rabbit"
    starts_slowly = True
    sections = source_sections = "[oslo_messaging_rabbit]\namqp_durable_queues = true\n"
    source_options: ClassVar = {"topics": "notifications", "exchanges": "openstack"}

    def __init__(self, proxy: Proxy, broker: rabbitmq.Broker) -> None:
        super().__init__(proxy)
        self.url = f"rabbit://guest:guest@127.0.0.1:{proxy.port}/"
        self._broker = broker

    def stop(self) -> None:
        self._broker.kill()

    def start(self) -> None:
        self._broker.start()

    def write(self, message: bytes) -> None:
        def publish() -> bool:
            # The queue may not be available at once after a start.
            try:
                with self._channel() as channel:
                    channel.confirm_select()
                    declared = channel.queue_declare(QUEUE, passive=True)
                    channel.basic_publish_confirm(
                        amqp.Message(message, delivery_mode=2), routing_key=declared.queue
                    )
            except (OSError, amqp.AMQPError, MessageNacked):
                return False
            return True

        wait_patiently(publish, "RabbitMQ stores a message")

    def publish(self, messages: Sequence[bytes]) -> None:
        confirmed = 0

        def confirm(number: int, multiple: bool) -> None:
            nonlocal confirmed
            confirmed = number if multiple else confirmed + 1

        with self._channel() as channel:
            channel.confirm_select()
            channel.events["basic_ack"].add(confirm)
            for each in messages:
                envelope = {"oslo.version": "2.0", "oslo.message": each.decode()}
                channel.basic_publish(
                    amqp.Message(
                        json.dumps(envelope), content_type="application/json", delivery_mode=2
                    ),
                    exchange="openstack",
                    routing_key=QUEUE,
                )
            while confirmed < len(messages):
                channel.connection.drain_events(timeout=TIMEOUT)

    def read(self) -> Iterator[bytes]:
        found: list[bytes] = []
        with contextlib.suppress(amqp.NotFound), self._channel() as channel:
            count = channel.queue_declare(QUEUE, passive=True).message_count

            def note(message: amqp.Message) -> None:
                if len(found) < count:
                    found.append(_bytes(message.body))
                    if len(found) == count or len(found) % _ACKNOWLEDGED == 0:
                        channel.basic_ack(message.delivery_tag, multiple=True)

            if count:
                channel.basic_qos(0, 2 * _ACKNOWLEDGED, False)
                channel.basic_consume(QUEUE, callback=note)
            while len(found) < count:
                channel.connection.drain_events(timeout=TIMEOUT)
        yield from found

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        connection = amqp.Connection(f"127.0.0.1:{self._broker.port}", connect_timeout=TIMEOUT)
        connection.connect()
        try:
            yield connection.channel()
        finally:
            connection.close()


class NatsCentral(Central):
    """NATS with a stream that removes duplicates for the shortest time that it can, 100 ms."""

    name = "nats"
    removes_duplicates = True
    # The bridge waits for so many seconds after a failure; a busy host must acknowledge in time.
    source_sections = "[nats]\nack_wait = 5\n"

    def __init__(self, proxy: Proxy, server: NatsServer) -> None:
        super().__init__(proxy)
        self.url = f"nats://127.0.0.1:{proxy.port}"
        self._server = server
        self._last = 0
        server.add_stream(duplicate_window=0.1)

    def stop(self) -> None:
        self._server.kill()

    def start(self) -> None:
        self._server.start()

    def write(self, message: bytes) -> None:
        self.publish([message])

    def publish(self, messages: Sequence[bytes]) -> None:
        async def publish(client: Client) -> None:
            stream = client.jetstream()
            await asyncio.gather(
                *(stream.publish("notifications.test", each, timeout=TIMEOUT) for each in messages)
            )

        self._server.run(publish)

    def read(self) -> Iterator[bytes]:
        while found := self._server.run(self._read):
            yield from found

    async def _read(self, client: Client) -> list[bytes]:
        stream = client.jetstream()
        last = (await stream.stream_info("events")).state.last_seq
        count = min(last - self._last, _BATCH)
        if not count:
            return []
        subscription = await stream.subscribe(
            "notifications.>",
            stream="events",
            ordered_consumer=True,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self._last + 1
            ),
        )
        found = [(await subscription.next_msg(TIMEOUT)).data for _ in range(count)]
        self._last += count
        return found


class KafkaCentral(Central):
    """The mock cluster of librdkafka with a topic of one partition.

    The cluster discards messages beyond 5 MiB. A thread therefore reads them at once, and services
    compress what they publish: 700,000 records of 1 KiB fit in, if 400 are published at once.
    """

    name = "kafka"
    source_options: ClassVar = {"topics": QUEUE}
    # With these, the mock cluster rebalances a group within a second.
    source_sections = (
        "[kafka]\nsession.timeout.ms = 2000\nheartbeat.interval.ms = 100\nfetch.wait.max.ms = 50\n"
    )

    def __init__(self, proxy: Proxy, cluster: MockKafka) -> None:
        super().__init__(proxy)
        self.url = f"kafka://127.0.0.1:{proxy.port}/"
        self._cluster = cluster
        cluster.command("topic", QUEUE, 1)
        self._found: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._is_closing = False
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> KafkaCentral:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        self._thread.join()

    def stop(self) -> None:
        self._cluster.command("down")

    def start(self) -> None:
        self._cluster.command("up")

    def write(self, message: bytes) -> None:
        self.publish([message])

    def publish(self, messages: Sequence[bytes]) -> None:
        options = {"acks": "all", "linger.ms": 5, "compression.type": "zstd"}
        producer = Producer({**self._settings(), **options})
        for each in messages:
            producer.produce(QUEUE, each, partition=0)
        assert producer.flush(TIMEOUT) == 0

    def read(self) -> Iterator[bytes]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._found.get_nowait()

    def discarded(self) -> int:
        return self._cluster.discarded(QUEUE)

    def _settings(self) -> dict[str, object]:
        return {
            "bootstrap.servers": self._cluster.servers,
            "log_level": 0,
            "reconnect.backoff.max.ms": 100,
        }

    def _read(self) -> None:
        consumer = Consumer({**self._settings(), "group.id": "central", "fetch.wait.max.ms": 10})
        consumer.assign([TopicPartition(QUEUE, 0, 0)])
        expected = 0
        while not self._is_closing:
            for message in consumer.consume(1000, timeout=0.1):
                if message.error() is None:
                    value, offset = message.value(), message.offset()
                    assert value is not None
                    assert offset is not None
                    self.skipped += offset - expected
                    expected = offset + 1
                    self._found.put(value)
        consumer.close()


@contextlib.contextmanager
def rabbit(directory: Path) -> Iterator[Central]:
    """Run a RabbitMQ."""
    with rabbitmq.Broker(directory) as broker, rabbit_at(broker) as central:
        yield central


@contextlib.contextmanager
def rabbit_at(broker: rabbitmq.Broker) -> Iterator[Central]:
    """Use a RabbitMQ that runs."""
    with Proxy(broker.port) as proxy:
        yield RabbitCentral(proxy, broker)


@contextlib.contextmanager
def nats(directory: Path) -> Iterator[Central]:
    """Run a nats-server."""
    with NatsServer(directory) as server, Proxy(server.port) as proxy:
        yield NatsCentral(proxy, server)


@contextlib.contextmanager
def kafka(_: Path) -> Iterator[Central]:
    """Run a mock cluster."""
    with MockKafka() as cluster:
        port = int(cluster.servers.rpartition(":")[2])
        with Proxy(port, _address_of_kafka) as proxy, KafkaCentral(proxy, cluster) as central:
            yield central


def _address_of_kafka(port: int) -> bytes:
    """Return an address in an answer to a request for metadata."""
    return b"127.0.0.1" + struct.pack(">i", port)


CENTRALS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Central]]] = {
    "rabbit": rabbit,
    "kafka": kafka,
    "nats": nats,
}


def _bytes(body: str | bytes) -> bytes:
    return body.encode() if isinstance(body, str) else body
