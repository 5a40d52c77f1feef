# SPDX-License-Identifier: Apache-2.0
"""A bridge without a free descriptor waits, or ends with an error; it does not stand still."""

from __future__ import annotations

import asyncio
import itertools
import os
import queue
import select
import socket
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from notif_relayd_bridge.brokers.kafka import target as kafka
from notif_relayd_bridge.brokers.kafka.settings import Settings as KafkaSettings
from notif_relayd_bridge.brokers.nats.link import Link, LinkThread
from notif_relayd_bridge.brokers.nats.settings import ConnectionSettings
from notif_relayd_bridge.brokers.target import Events
from notif_relayd_bridge.configuration import Subscription
from notif_relayd_bridge.inbound.writer import Writer
from notif_relayd_bridge.outbound.reader import Reader
from support.descriptors import no_free_descriptor
from support.waiting import TIMEOUT


def test_writer_attempts_to_connect_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "ingest.sock")
    writer = Writer(path, select.poll(), itertools.count().__next__)
    with socket.socket(socket.AF_UNIX) as relay:
        relay.bind(path)
        relay.listen()
        with no_free_descriptor():
            assert not writer.connect()
        assert "Too many open files" in caplog.text
        assert writer.connect()
        writer.close()


def test_reader_ends_the_bridge() -> None:
    ended: queue.Queue[str] = queue.Queue()
    reader = Reader(Subscription("/none", "g", 1, 0), True, print, print, ended.put)
    with no_free_descriptor():
        reader.start()
        assert "unhandled exception while reading" in ended.get(timeout=TIMEOUT)
    reader.close()


def test_client_of_nats_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    # asyncio itself leaves a loop without descriptors to the garbage collector, which complains.
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: os.open("/", os.O_RDONLY))
    with no_free_descriptor(), pytest.raises(OSError, match="Too many open files"):
        LinkThread(cast(ConnectionSettings, None), cast(Any, None), print)


class Failures:
    """Takes the reasons of failures."""

    def __init__(self) -> None:
        self.reasons: queue.Queue[str] = queue.Queue()
        self.failed = self.reasons.put

    def wait_unhandled(self) -> None:
        for _ in range(2):
            assert "unhandled exception" in self.reasons.get(timeout=TIMEOUT)


def test_client_of_nats_connects_again_after_any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = Failures()
    monkeypatch.setattr(Link, "__init__", lambda *_: 1 / 0)
    servers = type("Address", (), {"servers": ["a"]})
    settings = type("Settings", (), {"address": servers})
    thread = LinkThread(cast(Any, settings), cast(Any, None), failures.failed)
    failures.wait_unhandled()
    thread.close()


def test_target_kafka_connects_again_after_any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = Failures()
    monkeypatch.setattr(kafka, "Producer", lambda _: 1 / 0)
    hide = cast(Any, None)
    target = kafka.KafkaTarget(KafkaSettings(lambda _: ("t", None), {}, 1, 1.0, hide))
    target.start(cast(Events, failures))
    failures.wait_unhandled()
    target.close()
    assert not any(each.name == "kafka" for each in threading.enumerate())
