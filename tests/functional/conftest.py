# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the functional tests: parts of the relay, a private socket and scripts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayd.net.loop import Loop
from notif_relayd_bridge.brokers.template import LOWER_PRIORITIES
from support.descriptors import open_sockets
from support.loop_harness import LoopHarness
from support.messaging_service import write_configuration
from support.private_socket import PrivateSocket
from support.rabbitmq import Broker
from support.relay import RunningRelay
from support.scripts import Scripts


@pytest.fixture
def accessible_relay(relay: RunningRelay) -> RunningRelay:
    """Return a relay in a directory that all users may enter."""
    relay.directory.chmod(0o755)
    return relay


@pytest.fixture
def private(directory: Path) -> Iterator[PrivateSocket]:
    """Return a private socket that the test itself reads."""
    with PrivateSocket(directory / "ingest.sock") as private:
        yield private


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    """Return a starter of Python programs; programs that still run are killed afterwards."""
    with Scripts() as scripts:
        yield scripts


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Return a loop of the relay in this process."""
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def harness(directory: Path, loop: Loop) -> Iterator[LoopHarness]:
    """Return a harness for parts of the relay in this process."""
    harness = LoopHarness(directory, 1000, loop)
    yield harness
    harness.close()


@pytest.fixture
def other_harness(directory: Path, loop: Loop) -> Iterator[LoopHarness]:
    """Return a harness with another listening socket and the same loop."""
    (directory / "other").mkdir()
    harness = LoopHarness(directory / "other", 1000, loop)
    yield harness
    harness.close()


@pytest.fixture
def no_socket_left() -> Iterator[None]:
    """Check that the test leaves no socket open in this process."""
    before = open_sockets()
    yield
    assert open_sockets() == before


@pytest.fixture
def config(directory: Path) -> Path:
    """Return a service's configuration file with ``driver = unix`` and the test's sockets."""
    return write_configuration(directory, f"sock_path = {directory}/notifications.sock")


@pytest.fixture(scope="session")
def running_broker() -> Iterator[Broker]:
    """Run one RabbitMQ for all tests of this process."""
    with tempfile.TemporaryDirectory(prefix="rabbit-") as name, Broker(Path(name)) as broker:
        yield broker


@pytest.fixture
def broker(running_broker: Broker) -> Broker:
    """Return a running RabbitMQ without queues for the topic ``notifications``."""
    with running_broker.channel() as channel:
        for priority in LOWER_PRIORITIES:
            channel.queue_delete(f"notifications.{priority}")
    return running_broker
