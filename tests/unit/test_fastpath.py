# SPDX-License-Identifier: Apache-2.0
"""The intake and the fan-out, connected by the fast path, act as they do without it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Iterator

import pytest

from notif_relayd import _native
from notif_relayd.access.policy import Policy
from notif_relayd.context import Context
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.fanout.shared_pages import MIN_SHARED_SIZE, MIN_SHARED_SOCKETS
from notif_relayd.fastpath import FastPath
from notif_relayd.ingest.intake import READ_SIZE, Intake
from notif_relayd.ingest.producer import Producer
from notif_relayd.net.loop import READ, Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.settings import ConnectionLimits, GroupLimits
from notif_relayd.systemd.fdstore import FdStore
from notif_relayd.systemd.sdnotify import NotifySocket
from support.sockets import connected_pair, read_available

MAX_RECORD_SIZE = 4096
RECORD = b'{"event_type": "a.b", "priority": "INFO"}\n'
SEND_TIMEOUT = 20.0
"""Seconds after which a test fails if data does not arrive."""


class PartialRelay:
    """A loop, an intake and a fan-out, connected by the fast path."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        fast_path = FastPath(_native)
        self.loop = stack.enter_context(contextlib.closing(Loop(fast_path)))
        notify = stack.enter_context(contextlib.closing(NotifySocket(None)))
        descriptors = FdStore(self.loop, notify, 0, [], {})
        log, self._ids = RateLimitedLog(logging.getLogger("test")), itertools.count(1)
        limits = ConnectionLimits("room", 1000, 1000, 10**9)
        context = Context(self.loop, log, self._ids, descriptors)
        self.fanout = Fanout(context, limits, Policy(), 1 << 20, 1 << 20, GroupLimits())
        self.intake = Intake(context, limits, MAX_RECORD_SIZE, self.fanout.publisher.publish)
        fast_path.connect(self.intake, self.fanout.publisher)
        self.loop.call_in(SEND_TIMEOUT, lambda: pytest.fail("the data does not arrive"))
        stack.callback(self.fanout.close)
        stack.callback(self.intake.close)

    def produce(self) -> tuple[Producer, socket.socket]:
        """Connect a producer; return it and the client's end of its connection."""
        server, client = self._connection()
        number = next(self._ids)
        self.intake.adopt(number, server)
        return self.intake.producers[number], client

    def subscribe(self) -> socket.socket:
        """Return the client's end of a subscriber that is current and has read its first gap."""
        server, client = self._connection()
        self.fanout.adopt(next(self._ids), server, b"")
        while not self.fanout.drained:
            self.loop.run_once()
        assert b"relay_restarted" in read_available(client)
        return client

    def run_once(self) -> bool:
        """Run an iteration; return whether the fast path has relayed all of its records."""
        self.loop.run_once()
        received = self.intake.received
        self.intake.flush()
        return self.intake.received == received

    def _connection(self) -> tuple[socket.socket, socket.socket]:
        server, client = socket.socketpair()
        for each in (server, client):
            each.setblocking(False)
        return server, self._stack.enter_context(client)


@pytest.fixture
def relay() -> Iterator[PartialRelay]:
    with contextlib.ExitStack() as stack:
        yield PartialRelay(stack)


def test_statistics_equal_those_of_the_usual_path(relay: PartialRelay) -> None:
    producer, client = relay.produce()
    subscribers = [relay.subscribe() for _ in range(3)]
    before = relay.fanout.bytes_delivered
    for number, fast in enumerate([True, False] * 2):
        if not fast:
            relay.intake.steady.clear()
        client.send(RECORD * 2)
        assert relay.run_once() is fast
        relay.intake.steady[producer.socket.fileno()] = producer
        times = number + 1
        assert [read_available(each) for each in subscribers] == [RECORD * 2] * 3
        assert relay.intake.received == producer.records == times * 2
        assert relay.intake.bytes_received == producer.bytes == times * 2 * len(RECORD)
        assert relay.fanout.delivered == times * 6
        assert relay.fanout.bytes_delivered - before == times * 6 * len(RECORD)
    assert relay.fanout.publisher.discarded == 0


def test_records_without_subscribers_are_discarded(relay: PartialRelay) -> None:
    _, client = relay.produce()
    client.send(RECORD)
    assert relay.run_once()
    assert (relay.fanout.publisher.discarded, relay.intake.received) == (1, 1)


def test_filtered_subscriber_gets_matching_records(relay: PartialRelay) -> None:
    _, client = relay.produce()
    unfiltered, filtered = relay.subscribe(), relay.subscribe()
    filtered.send(b'{"filter": {"event_type": ["c.*"]}}\n')
    while not read_available(filtered).count(b"notif_relayd.subscribed"):
        relay.run_once()
    while not relay.fanout.drained:
        relay.run_once()
    other = RECORD.replace(b"a.b", b"c.d")
    client.send(RECORD + other)
    assert relay.run_once()
    assert (read_available(unfiltered), read_available(filtered)) == (RECORD + other, other)


def test_full_socket_is_behind_and_closed_one_is_removed(
    relay: PartialRelay,
) -> None:
    _, client = relay.produce()
    slow, fast, gone = (relay.subscribe() for _ in range(3))
    sent = 0
    while not relay.fanout.store.size:
        client.send(RECORD * 500)
        relay.run_once()
        sent += 500
        assert read_available(fast) == RECORD * 500
        assert read_available(gone)
    gone.close()
    client.send(RECORD)
    while len(relay.fanout.subscribers) == 3:
        relay.run_once()
    got = b""
    while not relay.fanout.drained:
        got += read_available(slow)
        relay.run_once()
    assert got + read_available(slow) == RECORD * (sent + 1)
    assert read_available(fast) == RECORD


def test_batch_for_many_subscribers_is_shared(
    relay: PartialRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribers = [relay.subscribe() for _ in range(MIN_SHARED_SOCKETS)]
    _, client = relay.produce()
    recipients, max_records, threshold = relay.fanout.publisher.fast_recipients(MIN_SHARED_SOCKETS)
    assert len(recipients) == len(max_records) == MIN_SHARED_SOCKETS
    assert threshold == MIN_SHARED_SIZE
    assert relay.fanout.publisher.fast_recipients(MIN_SHARED_SOCKETS - 1) == ([], [], 0)
    shared: list[int] = []
    sendfile = os.sendfile

    def counted(out: int, file: int, offset: int, size: int) -> int:
        shared.append(out)
        return sendfile(out, file, offset, size)

    monkeypatch.setattr("notif_relayd.fanout.shared_pages.os.sendfile", counted)
    for number, times in ((1, 0), (MIN_SHARED_SIZE // len(RECORD) + 1, MIN_SHARED_SOCKETS)):
        client.send(RECORD * number)
        assert relay.run_once()
        assert len(shared) == times
        assert [read_available(each) for each in subscribers] == [
            RECORD * number
        ] * MIN_SHARED_SOCKETS


def test_only_steady_producers_use_the_fast_path(
    relay: PartialRelay,
) -> None:
    producer, client = relay.produce()
    subscriber = relay.subscribe()
    steady = relay.intake.steady
    assert list(steady.values()) == [producer]
    # The bytes after a partial line belong to it, even if they look like a record.
    client.send(b"x")
    relay.run_once()
    assert not steady
    client.send(RECORD)
    relay.run_once()
    assert (producer.records, producer.rejected) == (0, 1)
    assert read_available(subscriber) == b""
    # After the pause it is read in small pieces. It is steady again after ten good ones.
    while producer.paused:
        relay.run_once()
    times = 0
    while not steady:
        client.send(RECORD)
        assert relay.run_once() is False
        times += 1
    assert (times, producer.read_size) == (10, READ_SIZE)
    client.send(RECORD)
    assert relay.run_once() is True
    assert read_available(subscriber) == RECORD * 11
    client.send(b"x" * MAX_RECORD_SIZE)
    relay.run_once()
    assert not steady
    client.send(b"\n")
    relay.run_once()
    client.shutdown(socket.SHUT_WR)
    while relay.intake.producers:
        relay.run_once()
    assert not steady


def test_reused_descriptor_is_not_read_for_old_producer(relay: PartialRelay) -> None:
    producer, _ = relay.produce()
    number = producer.socket.fileno()
    subscriber = relay.subscribe()
    with contextlib.ExitStack() as stack:
        server, client = connected_pair(stack)
        relay.intake.disconnect(producer)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        os.dup2(server.fileno(), number)
        reused = stack.enter_context(socket.socket(fileno=number))
        events: list[int] = []
        relay.loop.watch(number, READ, events.append)
        client.send(RECORD)
        relay.run_once()
        assert events == [READ]
        assert read_available(reused) == RECORD
        relay.loop.forget(number)
    assert read_available(subscriber) == b""
