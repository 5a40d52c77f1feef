# SPDX-License-Identifier: Apache-2.0
"""Runs a Kafka cluster in a process of its own: the mock cluster of librdkafka, in memory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

PROGRAM = """
import sys, confluent_kafka
producer = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
brokers = producer.list_topics(timeout=10).brokers.values()
print(",".join(f"{each.host}:{each.port}" for each in brokers), flush=True)
sys.stdin.read()
"""


def missing() -> str:
    """Return an empty string: the client contains the cluster."""
    return ""


@contextlib.contextmanager
def kafka_cluster() -> Iterator[str]:
    """Run a cluster with one broker; yield its address."""
    cluster = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with cluster:
        try:
            assert cluster.stdout is not None
            yield cluster.stdout.readline().strip()
        finally:
            cluster.kill()
