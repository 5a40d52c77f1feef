# SPDX-License-Identifier: Apache-2.0
"""Rate of the bridge's targets, as a ratio to a bare loop of the same client.

Both publish the same records of 1 KiB and wait for the broker's confirmations, with the same
number of unconfirmed messages. The bare loop does nothing else: it sends a message that has been
encoded beforehand. Each round runs both, one after the other, with the broker on the same machine;
the median of the rounds' ratios is compared with a minimum.

Exit status 1: a ratio is below its minimum.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import kombu
import nats
from confluent_kafka import KafkaError, Message, Producer
from oslo_config import cfg

from compare import kafka_cluster, nats_server, rabbitmq
from compare.notification import record
from notif_relay import Notification
from notif_relayd_bridge.brokers.kafka.settings import settings as kafka_settings
from notif_relayd_bridge.brokers.rabbit.message import contents
from notif_relayd_bridge.brokers.schemes import SCHEMES
from notif_relayd_bridge.brokers.target import Target

RECORD = record(1024)

TIMEOUT = 60.0
"""Maximum time for a round, in seconds."""

Run = Callable[[int], None]
"""Sends a number of records and returns when all are confirmed."""


@dataclass(frozen=True)
class Case:
    """What is compared with what."""

    name: str
    missing: Callable[[], str]
    """Returns why the broker is not available, or an empty string."""
    running: Callable[[], contextlib.AbstractContextManager[tuple[Run, Run]]]
    """Starts the broker and yields the target and the bare loop."""
    minimum: float
    """Minimum ratio."""
    scale: int = 1
    """Factor for the number of records: a round of a fast client must not be too short."""


class Feeder:
    """Sends records through a target, as many unconfirmed as it allows.

    Args:
        target: the target, which is started.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._changed = threading.Condition()
        self._is_connected = False
        self._room = target.max_unconfirmed
        target.start(self)
        with self._changed:
            assert self._changed.wait_for(lambda: self._is_connected, TIMEOUT), "no connection"

    def run(self, count: int) -> None:
        """Send records and wait for all confirmations."""
        sent = 0
        while sent < count:
            with self._changed:
                assert self._changed.wait_for(lambda: self._room > 0, TIMEOUT), "no confirmation"
                number = min(self._room, count - sent)
                self._room -= number
            for _ in range(number):
                self._target.send(Notification(RECORD))
            sent += number
        with self._changed:
            limit = self._target.max_unconfirmed
            assert self._changed.wait_for(lambda: self._room == limit, TIMEOUT), "no confirmation"

    def connected(self) -> None:
        with self._changed:
            self._is_connected = True
            self._changed.notify()

    def confirmed(self, count: int) -> None:
        with self._changed:
            self._room += count
            self._changed.notify()

    def refused(self, reason: str) -> None:
        raise RuntimeError(reason)

    def failed(self, reason: str) -> None:
        raise RuntimeError(reason)


def configuration(scheme: str, **options: object) -> cfg.ConfigOpts:
    """Return the configuration of a target."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    for group, opts in SCHEMES[scheme].options():
        conf.register_opts(opts, group=group)
    for name, value in options.items():
        conf.set_override(name, value, scheme)
    return conf


@contextlib.contextmanager
def target_of(scheme: str, url: str, **options: object) -> Iterator[Target]:
    """Yield a target; options that are not given have their defaults."""
    target = SCHEMES[scheme].create(url, configuration(scheme, **options))
    try:
        yield target
    finally:
        target.close()


@contextlib.contextmanager
def rabbit() -> Iterator[tuple[Run, Run]]:
    """Run RabbitMQ; yield its target and a loop of kombu's producer."""
    with rabbitmq.rabbitmq() as url, target_of("rabbit", url) as target:
        feeder = Feeder(target)
        with kombu.Connection(url.replace("rabbit", "amqp", 1)) as connection:
            channel = connection.channel()
            yield feeder.run, bare_rabbit(connection, channel, target.max_unconfirmed)


def bare_rabbit(connection: Any, channel: Any, window: int) -> Run:
    """Return a loop that publishes to a queue of its own with pipelined confirmations."""
    exchange = kombu.Exchange("bare", type="topic", durable=False)
    kombu.Queue("bare", exchange, "bare", channel=channel, durable=False).declare()
    channel.confirm_select()
    confirmed = published = 0

    def confirm(number: int, multiple: bool) -> None:
        nonlocal confirmed
        # There is one queue, so the broker confirms in order.
        confirmed = number if multiple else confirmed + 1

    channel.events["basic_ack"].add(confirm)
    producer = kombu.Producer(channel)
    body = contents(RECORD, "notifications").body(None)

    def run(count: int) -> None:
        nonlocal published
        for _ in range(count):
            producer.publish(
                body.data,
                exchange="bare",
                routing_key="bare",
                content_type=body.content_type,
                content_encoding=body.content_encoding,
            )
            published += 1
            while published - confirmed >= window:
                connection.drain_events(timeout=TIMEOUT)
        while confirmed < published:
            connection.drain_events(timeout=TIMEOUT)

    return run


@contextlib.contextmanager
def nats_io() -> Iterator[tuple[Run, Run]]:
    """Run nats-server; yield its target and a loop of nats-py's asynchronous publish."""
    options = {"stream": "notifications", "create_stream": True}
    with (
        nats_server.nats_server() as url,
        target_of("nats", url, **options) as target,
        contextlib.closing(asyncio.new_event_loop()) as loop,
    ):
        feeder = Feeder(target)
        client = loop.run_until_complete(nats.connect(url))
        try:
            yield feeder.run, bare_nats(loop, client, target.max_unconfirmed)
        finally:
            loop.run_until_complete(client.close())


def bare_nats(loop: asyncio.AbstractEventLoop, client: Any, window: int) -> Run:
    """Return a loop that publishes to the stream of the target."""
    stream = client.jetstream(publish_async_max_pending=window)
    # As with the target, every message is a duplicate of the first one.
    headers = {"Nats-Msg-Id": Notification(RECORD).message_id}
    payload = RECORD.rstrip()

    async def publish(count: int) -> None:
        for _ in range(count):
            await stream.publish_async("notifications.bare", payload, headers=headers)
        await asyncio.wait_for(stream.publish_async_completed(), TIMEOUT)

    return lambda count: loop.run_until_complete(publish(count))


@contextlib.contextmanager
def kafka() -> Iterator[tuple[Run, Run]]:
    """Run a Kafka cluster; yield its target and a loop of confluent-kafka's producer."""
    with kafka_cluster.kafka_cluster() as servers:
        url = f"kafka://{servers}"
        properties = kafka_settings(url, configuration("kafka")).properties
        with target_of("kafka", url) as target:
            feeder = Feeder(target)
            yield feeder.run, bare_kafka(properties, target.max_unconfirmed)


def bare_kafka(properties: dict[str, str], window: int) -> Run:
    """Return a loop with the same properties as the target, and a delivery report a message."""
    producer = Producer(properties)
    unconfirmed = 0
    payload = RECORD.rstrip()

    def confirm(error: KafkaError | None, _: Message) -> None:
        nonlocal unconfirmed
        assert error is None
        unconfirmed -= 1

    def run(count: int) -> None:
        nonlocal unconfirmed
        for _ in range(count):
            producer.produce("notifications.bare", payload, b"publisher", on_delivery=confirm)
            unconfirmed += 1
            producer.poll(0 if unconfirmed < window else TIMEOUT)
        assert producer.flush(TIMEOUT) == 0

    return run


CASES = [
    Case("rabbit", rabbitmq.missing, rabbit, minimum=0.6),
    Case("kafka", kafka_cluster.missing, kafka, minimum=0.5, scale=10),
    Case("nats", nats_server.missing, nats_io, minimum=0.6),
]


def rate(run: Run, count: int) -> float:
    """Return the records per second."""
    started = time.perf_counter()
    run(count)
    return count / (time.perf_counter() - started)


def compare(case: Case, rounds: int, count: int) -> float:
    """Print the rates of a case and return its ratio."""
    with case.running() as (target, bare):
        target(count // 10)
        bare(count // 10)
        rates = [(rate(target, count), rate(bare, count)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in rates)
    own, other = (statistics.median(each) for each in zip(*rates, strict=True))
    print(f"{case.name}: target {own:,.0f}/s, bare {other:,.0f}/s, ratio {ratio:.2f}")
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=20_000, help="records per round")
    parser.add_argument("cases", nargs="*", help="default: all")
    arguments = parser.parse_args()
    status = 0
    for case in CASES:
        if arguments.cases and case.name not in arguments.cases:
            continue
        if reason := case.missing():
            print(f"{case.name}: skipped, {reason}")
        elif compare(case, arguments.rounds, arguments.count * case.scale) < case.minimum:
            print(f"{case.name}: below the minimum of {case.minimum}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
