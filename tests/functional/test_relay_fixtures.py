# SPDX-License-Identifier: Apache-2.0
"""Tests of the relays that the tests start: descriptor limits and cleanup."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import descriptors
from support.records import record
from support.relay import connect, running_relay
from support.service_manager import managed_relay

MORE_THAN_USUAL = descriptors.USUAL_LIMIT + 100


def test_relay_raises_its_descriptor_limit(directory: Path) -> None:
    descriptors.require(MORE_THAN_USUAL + 100)
    limits = [
        f"--relayd-{name}=4096" for name in ("max_connections_per_user", "max_connection_rate")
    ]
    with running_relay(directory, *limits) as relay, contextlib.ExitStack() as stack:
        many = [stack.enter_context(connect(relay.public)) for _ in range(MORE_THAN_USUAL)]
        relay.wait_status(subscribers=MORE_THAN_USUAL)
        stack.enter_context(relay.produce()).sendall(record())
        assert {each.recv(4096) for each in many} == {record()}


def test_failed_start_leaves_nothing_behind(directory: Path) -> None:
    threads, files = threading.enumerate(), os.listdir("/proc/self/fd")
    with (
        pytest.raises(AssertionError, match="no-such-option"),
        managed_relay(directory, "--no-such-option"),
    ):
        pass
    assert threading.enumerate() == threads
    assert os.listdir("/proc/self/fd") == files


@pytest.fixture
def usual_limit() -> Iterator[None]:
    """Set the default descriptor limit for this process and the processes it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(descriptors.USUAL_LIMIT, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_restart_works_with_the_default_limit(usual_limit: None, directory: Path) -> None:
    with managed_relay(directory) as relay, connect(relay.public) as subscriber:
        relay.wait_status(subscribers=1)
        relay.restart()
        with relay.produce() as producer:
            producer.sendall(record())
            assert subscriber.recv(4096) == record()
