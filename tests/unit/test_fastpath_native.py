# SPDX-License-Identifier: Apache-2.0
"""The compiled call of the fast path sends plain batches, and leaves everything else as it is."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relayd import _native
from notif_relayd.ingest.intake import READ_SIZE
from notif_relayd.net.loop import READ
from notif_relayd.records.validator import Validator
from support.sockets import connected_pair, fill, read_available

MAX_RECORD_SIZE = 4096
RECORD = b'{"event_type": "a.b", "priority": "INFO"}\n'
ROUTING_KEY = ("a.b", "INFO", "")
NO_THRESHOLD = sys.maxsize

Result = tuple[float, list[tuple[int, int]], Any]


class Connections:
    """An epoll, a producer's connection that it watches, and the connections of subscribers."""

    def __init__(self, stack: contextlib.ExitStack, subscribers: int) -> None:
        self.epoll = stack.enter_context(contextlib.closing(select.epoll()))
        self.server, self.producer = connected_pair(stack)
        self.epoll.register(self.server, READ)
        self.subscribers = [connected_pair(stack) for _ in range(subscribers)]

    def wait(self, **changed: Any) -> Result:
        """Call the compiled function, with some of its arguments changed."""
        sockets = changed.get("sockets", self.subscribers)
        arguments = {
            "epoll": self.epoll.fileno(),
            "seconds": 0.0,
            "producers": {self.server.fileno(): "the producer"},
            "read_size": READ_SIZE,
            "rules": Validator(MAX_RECORD_SIZE).rules,
            "sockets": [server.fileno() for server, _ in self.subscribers],
            "max_records": [sys.maxsize] * len(sockets),
            "threshold": NO_THRESHOLD,
            "peek": False,
        }
        return _native.wait(*{**arguments, **changed}.values())

    def received(self) -> list[bytes]:
        """Return the data that each subscriber has received since the last call."""
        return [read_available(client) for _, client in self.subscribers]


@pytest.fixture
def connections() -> Iterator[Connections]:
    with contextlib.ExitStack() as stack:
        yield Connections(stack, 2)


def test_good_batch_is_sent_to_all_in_one_call(connections: Connections) -> None:
    connections.producer.send(RECORD * 3)
    before = time.monotonic()
    awake, events, relayed = connections.wait(seconds=-1.0)
    assert before <= awake <= time.monotonic()
    assert events == []
    size = len(RECORD) * 3
    assert relayed == ("the producer", RECORD * 3, [ROUTING_KEY] * 3, [size, size])
    assert connections.received() == [RECORD * 3] * 2
    assert connections.wait()[1:] == ([], None)


lines = st.one_of(
    st.sampled_from(
        [
            RECORD,
            b'{"event_type": "a.b", "priority": "INFO", "publisher_id": ["any"]}\n',
            b'{"event_type": "notif_relayd.gap", "priority": "WARN"}\n',
            b'{"event_type": "notif_relayd.x", "priority": "WARN"}\n',
            b'{"event_type": "\\u006eotif_relayd.x", "priority": "WARN"}\n',
            b'{"event_type": "notif_relayd", "priority": "notif_relayd."}\n',
            '{"event_type": "ä", "priority": "INFO"}\n'.encode(),
            b'{"event_type": "a", "priority": "\xff"}\n',
            b'{"event_type": "a", "priority": "\\ud800"}\n',
            b'{"event_type": "a", "priority": "b", "x": "' + b"x" * MAX_RECORD_SIZE + b'"}\n',
            b'{"event_type": "a", "priority": 1}\n',
            b"[" * 4000 + b"\n",
            b"[]\n",
            b"\r\n",
            b"\n",
            b"\x00\n",
        ]
    ),
    st.just(RECORD),
    st.binary(max_size=40).map(lambda some: some + b"\n"),
    st.integers(0, 9).map(
        lambda bytes_less: (
            b'{"event_type": "a", "priority": "b", "x": "'.ljust(
                MAX_RECORD_SIZE - 3 - bytes_less + 4, b"x"
            )
            + b'"}\n'
        )
    ),
)


@given(batch=st.lists(lines, min_size=1, max_size=9).map(b"".join), cut=st.integers(0, 3))
def test_only_plain_records_are_relayed(batch: bytes, cut: int) -> None:
    batch = batch[: len(batch) - cut] or b"x"
    plain = _native.routing_keys_of(batch, Validator(MAX_RECORD_SIZE).rules)
    with contextlib.ExitStack() as stack:
        connections = Connections(stack, 1)
        connections.producer.send(batch)
        _, events, (_, got, routing_keys, results) = connections.wait()
        assert events == []
        assert got == batch
        assert routing_keys == plain
        assert results == ([len(batch)] if plain else [])
        assert connections.received() == [batch if plain else b""]


def test_result_of_each_send_is_returned() -> None:
    with contextlib.ExitStack() as stack:
        connections = Connections(stack, 4)
        full, partly, gone, _ = (server for server, _ in connections.subscribers)
        fill(full)
        partly.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connections.subscribers[2][1].close()
        batch = RECORD * 1000
        connections.producer.send(batch)
        results = connections.wait()[2][3]
        assert results[0] == -errno.EAGAIN
        assert 0 < results[1] < len(batch)
        assert results[2] == -errno.EPIPE
        assert results[3] == len(batch)
        del connections.subscribers[2]
        assert [len(got) for got in connections.received()[1:]] == [results[1], results[3]]
        assert gone.fileno() >= 0


def test_long_batch_is_not_sent(connections: Connections) -> None:
    connections.producer.send(RECORD)
    _, _, relayed = connections.wait(threshold=len(RECORD))
    assert relayed == ("the producer", RECORD, [ROUTING_KEY], [])
    connections.producer.send(RECORD)
    assert connections.wait(threshold=len(RECORD) + 1)[2][3] == [len(RECORD)] * 2
    assert connections.received() == [RECORD] * 2


def test_read_size_is_kept(connections: Connections) -> None:
    connections.producer.send(RECORD * 2)
    assert connections.wait(read_size=len(RECORD))[2][1] == RECORD
    assert connections.wait(read_size=len(RECORD) - 1)[2][1:] == (RECORD[:-1], [], [])
    assert connections.wait()[2][1:] == (b"\n", [], [])


def test_other_events_are_returned_and_nothing_is_read(connections: Connections) -> None:
    subscriber, client = connections.subscribers[0]
    producer_fd, subscriber_fd = connections.server.fileno(), subscriber.fileno()
    connections.producer.send(RECORD)
    assert connections.wait(producers={})[1:] == ([(producer_fd, READ)], None)
    connections.epoll.register(subscriber, READ | select.EPOLLOUT)
    _, events, relayed = connections.wait()
    assert set(events) == {(producer_fd, READ), (subscriber_fd, select.EPOLLOUT)}
    assert relayed is None
    connections.epoll.modify(subscriber, READ)
    client.send(b"?")
    assert set(connections.wait()[1]) == {(producer_fd, READ), (subscriber_fd, READ)}
    assert read_available(subscriber) == b"?"
    connections.producer.close()
    assert connections.wait()[1] == [(producer_fd, READ | select.EPOLLHUP)]
    assert read_available(connections.server) == RECORD
    assert connections.received() == [b""] * 2


def test_spurious_event_is_passed_on(connections: Connections) -> None:
    """A producer that shuts down its sending direction causes an event without data or hangup."""
    connections.producer.shutdown(socket.SHUT_WR)
    assert connections.wait()[1:] == ([(connections.server.fileno(), READ)], None)
    assert read_available(connections.server) == b""
    with contextlib.ExitStack() as stack:
        eventfd = os.eventfd(1)
        stack.callback(os.close, eventfd)
        connections.epoll.unregister(connections.server)
        connections.epoll.register(eventfd, READ)
        assert connections.wait(producers={eventfd: "no socket"})[1] == [(eventfd, READ)]


def test_timeout_is_kept(connections: Connections) -> None:
    for seconds in (0.0, 0.01, 0.0101):
        before = time.monotonic()
        awake, events, relayed = connections.wait(seconds=seconds)
        assert (events, relayed) == ([], None)
        assert awake - before >= seconds
    signal.signal(signal.SIGALRM, lambda *_: connections.producer.send(RECORD))
    for no_timeout in (-1.0, -0.001, 1e300, float("inf"), float("nan")):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        # Either the handler's data or the signal itself ends the wait; the latter without data.
        while (relayed := connections.wait(seconds=no_timeout)[2]) is None:
            pass
        assert relayed[1] == RECORD


@pytest.fixture(autouse=True)
def _no_alarm() -> Iterator[None]:
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_signal_ends_the_wait_and_may_raise(connections: Connections) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        raise InterruptedError("by the test")

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    with pytest.raises(InterruptedError, match="by the test"):
        connections.wait(seconds=-1.0)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    assert connections.wait(seconds=-1.0)[1:] == ([], None)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"epoll": -1}, OSError),
        ({"epoll": 10**6}, OSError),
        ({"epoll": "3"}, TypeError),
        ({"epoll": 2**40}, OverflowError),
        ({"seconds": None}, TypeError),
        ({"producers": []}, TypeError),
        ({"read_size": 0}, ValueError),
        ({"read_size": -1}, ValueError),
        ({"read_size": sys.maxsize}, OverflowError),
        ({"rules": ()}, TypeError),
        ({"rules": (None, 1)}, TypeError),
        ({"rules": (b"x", "1")}, TypeError),
        ({"sockets": ()}, TypeError),
        ({"sockets": ["1"]}, TypeError),
        ({"sockets": [-1]}, ValueError),
        ({"sockets": [2**31]}, ValueError),
        ({"sockets": [2**70]}, OverflowError),
        ({"sockets": [1] * (_native.MAX_SOCKETS + 1)}, ValueError),
        ({"max_records": (1, 1)}, TypeError),
        ({"max_records": [1]}, ValueError),
        ({"max_records": [1, 1, 1]}, ValueError),
        ({"max_records": [1, "1"]}, TypeError),
        ({"max_records": [1, 2**70]}, OverflowError),
        ({"threshold": 1.5}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_without_effect(
    connections: Connections, wrong: dict[str, Any], error: type[Exception]
) -> None:
    connections.producer.send(RECORD)
    with pytest.raises(error):
        connections.wait(**wrong)
    assert read_available(connections.server) == RECORD
    assert connections.received() == [b""] * 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_recipient_gets_at_most_its_maximum_of_records(
    connections: Connections, count: int
) -> None:
    batch = RECORD * count
    connections.producer.send(batch)
    *_, results = connections.wait(max_records=[2, 1])[2]
    expected = [len(batch) if count <= limit else None for limit in (2, 1)]
    assert results == expected
    assert connections.received() == [batch if each else b"" for each in expected]


def test_bad_descriptor_is_reported_as_send_error(connections: Connections) -> None:
    connections.producer.send(RECORD)
    results = connections.wait(sockets=[connections.epoll.fileno(), 10**6])[2][3]
    assert results == [-errno.ENOTSOCK, -errno.EBADF]


def test_no_reference_is_leaked(connections: Connections) -> None:
    producer = object()
    bad = b'{"event_type": "notif_relayd.x", "priority": "b"}\n'
    others = b'{"event_type": "x", "priority": "b"}\n{"event_type": "\\udc00", "priority": "b"}\n'

    def all_paths() -> None:
        good = (RECORD, RECORD * 100, RECORD + others)
        for batch in (*good, bad, RECORD + b"[]\n", RECORD + b"\xff\n", b"x", RECORD + b"x"):
            connections.producer.send(batch)
            connections.wait(producers={connections.server.fileno(): producer})
            connections.received()
        connections.producer.send(RECORD)
        connections.wait(producers={})
        read_available(connections.server)
        _native.routing_keys_of(RECORD * 9 + others, Validator(MAX_RECORD_SIZE).rules)
        for wrong in ({"read_size": 0}, {"sockets": ["x"]}, {"epoll": -1}):
            with contextlib.suppress(ValueError, TypeError, OSError):
                connections.wait(**wrong)
        connections.wait()

    def blocks() -> int:
        for _ in range(50):
            all_paths()
        gc.collect()
        return sys.getallocatedblocks()

    blocks()
    references, known = sys.getrefcount(None), sys.getrefcount(producer)
    counts = [blocks() for _ in range(4)]
    assert sys.getrefcount(producer) == known
    assert abs(sys.getrefcount(None) - references) < 50
    # A reference that one of the calls leaks, or releases twice, changes the count by 50 or more in
    # each of the 50-fold runs. Other allocations of the process change it only now and then.
    assert min(abs(after - before) for before, after in pairwise(counts)) < 50
