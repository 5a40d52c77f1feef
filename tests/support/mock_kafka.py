# SPDX-License-Identifier: Apache-2.0
"""A Kafka cluster in a process of its own: the mock cluster of librdkafka.

It speaks the protocol of Kafka over TCP: metadata, idempotent produce requests, fetch requests,
offsets, groups and transactions, with messages in memory. It does not speak TLS and SASL, has no
limits for the sizes of messages, does not check producers against duplicates across sessions, and
forgets everything when its process ends. A broker can be taken down and up again, though, and
requests can be answered with errors.

A partition keeps 5 MiB, as they were sent, and 100,000 batches. When a batch exceeds a limit, the
cluster discards the oldest batches, whether or not they were read: rd_kafka_mock_msgset_new() and
rd_kafka_mock_partition_init() in src/rdkafka_mock.c of librdkafka (max_size, max_cnt). A consumer
that is too late for a batch waits for 500 ms (fetch.error.backoff.ms) before it fetches the oldest
one. If the cluster has discarded that one as well by then, it never catches up.

As a program, it reads one command a line from standard input and confirms each.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import signal
import subprocess
import sys
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import confluent_kafka
from confluent_kafka import Consumer, Message, TopicPartition

from support.waiting import TIMEOUT, first_line, is_stopped, kill, wait_until

PRODUCE, OFFSET_COMMIT = 0, 8
"""Numbers of requests in the protocol."""

PARTITIONS = 4
"""Partitions of a topic that a producer creates."""


class MockKafka:
    """The process, for tests."""

    def __enter__(self) -> MockKafka:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.mock_kafka"],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.servers = first_line(self._process).strip()
        assert self.servers
        return self

    def __exit__(self, *_: object) -> None:
        kill(self._process)
        for file in (self._process.stdin, self._process.stdout):
            assert file is not None
            file.close()

    @property
    def url(self) -> str:
        """The URL of the target."""
        return f"kafka://{self.servers}/"

    def command(self, *words: object) -> None:
        """Run one of the functions of `Cluster`."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        assert first_line(self._process) == "done\n"

    def discarded(self, topic: str, partition: int = 0) -> int:
        """Return the number of messages that a partition no longer has."""
        with self._consumer() as consumer:
            watermarks = consumer.get_watermark_offsets(TopicPartition(topic, partition), TIMEOUT)
        return int(watermarks[0])

    def kill(self) -> None:
        """Kill the process."""
        kill(self._process)

    def stop(self) -> None:
        """Stop the process without ending it."""
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(self._process.pid), "the cluster has stopped")

    def cont(self) -> None:
        """Continue after ``stop``."""
        self._process.send_signal(signal.SIGCONT)

    def messages(self, topic: str) -> list[Message]:
        """Return the messages of a topic, in the order of their partitions and offsets."""
        with self._consumer() as consumer:
            return _read(consumer, topic)

    @contextlib.contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "test",
                "log_level": 0,
                "fetch.wait.max.ms": 10,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()


def _read(consumer: Consumer, topic: str) -> list[Message]:
    partitions = [
        TopicPartition(topic, number, 0)
        for number in consumer.list_topics(topic, TIMEOUT).topics[topic].partitions
    ]
    ends = [consumer.get_watermark_offsets(each, TIMEOUT)[1] for each in partitions]
    consumer.assign([each for each, end in zip(partitions, ends, strict=True) if end > 0])
    found: list[Message] = []
    while len(found) < sum(ends):
        message = consumer.poll(TIMEOUT)
        assert message is not None
        assert message.error() is None
        found.append(message)
    return sorted(found, key=lambda message: (message.partition(), message.offset()))


class Cluster:
    """The cluster, in its own process."""

    def __init__(self) -> None:
        pattern = str(
            Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs/librdkafka*"
        )
        library = ctypes.CDLL(next(iter(glob.glob(pattern)), find_library("rdkafka")))
        library.rd_kafka_new.restype = ctypes.c_void_p
        library.rd_kafka_mock_cluster_new.restype = ctypes.c_void_p
        library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        handle = ctypes.c_void_p(library.rd_kafka_new(0, None, None, 0))
        self._library = library
        self._cluster = ctypes.c_void_p(library.rd_kafka_mock_cluster_new(handle, 1))
        # The default is 3 seconds, in which a group waits for further members.
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    def servers(self) -> str:
        """Return the addresses of the brokers."""
        servers: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return servers.decode()

    def topic(self, name: str, partitions: str) -> None:
        """Create a topic."""
        self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), int(partitions), 1)

    def topic_error(self, name: str, code: str) -> None:
        """Answer requests of metadata for a topic with an error; 0 is none."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, name.encode(), int(code))

    def down(self) -> None:
        """Disconnect the clients and refuse connections."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def up(self) -> None:
        """Accept connections again."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, 1)

    def errors(self, *codes: str) -> None:
        """Answer the next produce requests with errors; 0 is none."""
        self.errors_of(str(PRODUCE), *codes)

    def errors_of(self, request: str, *codes: str) -> None:
        """Answer the next requests of a kind, which has a number in the protocol, with errors."""
        array = (ctypes.c_int * len(codes))(*map(int, codes))
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(int(request)), ctypes.c_size_t(len(codes)), array
        )


def main() -> None:
    """Run a cluster until standard input ends."""
    cluster = Cluster()
    _say(cluster.servers())
    for line in sys.stdin:
        name, *arguments = line.split()
        getattr(cluster, name)(*arguments)
        _say("done")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
