# SPDX-License-Identifier: Apache-2.0
"""The compiled part relays exactly the runs that it may, and leaves everything else as it is."""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import logging
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
from notif_relayd.access.policy import Policy
from notif_relayd.context import Context
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.fanout.shared_pages import MIN_SHARED_SIZE, MIN_SHARED_SOCKETS
from notif_relayd.fastpath import FastPath
from notif_relayd.ingest.intake import READ_SIZE, Intake
from notif_relayd.ingest.producer import Producer
from notif_relayd.net.loop import READ, Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.records.validator import Validator
from notif_relayd.settings import ConnectionLimits
from notif_relayd.systemd.fdstore import FdStore
from notif_relayd.systemd.sdnotify import NotifySocket

LIMIT = 4096
GOOD = b'{"event_type": "a.b", "priority": "INFO"}\n'
KIND = ("a.b", "INFO", "")
ALL = sys.maxsize
SEND_TIMEOUT = 20.0

Result = tuple[float, list[tuple[int, int]], Any]


def pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, neither of which waits: the relay's, and the other one's."""
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        stack.enter_context(each)
        each.setblocking(False)
    return ours, theirs


def read(connection: socket.socket) -> bytes:
    """All that there is."""
    with contextlib.suppress(BlockingIOError):
        return connection.recv(1 << 20)
    return b""


def fill(connection: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.send(bytes(1000))


class World:
    """A producer and some subscribers, as the compiled part sees them."""

    def __init__(self, stack: contextlib.ExitStack, subscribers: int) -> None:
        self.epoll = stack.enter_context(contextlib.closing(select.epoll()))
        self.server, self.producer = pair(stack)
        self.epoll.register(self.server, READ)
        self.subscribers = [pair(stack) for _ in range(subscribers)]

    def wait(self, **other: Any) -> Result:
        given = {
            "epoll": self.epoll.fileno(),
            "seconds": 0.0,
            "producers": {self.server.fileno(): "the producer"},
            "read_size": READ_SIZE,
            "rules": Validator(LIMIT).rules,
            "sockets": [ours.fileno() for ours, _ in self.subscribers],
            "threshold": ALL,
            "peek": False,
        }
        return _native.wait(*{**given, **other}.values())

    def got(self) -> list[bytes]:
        return [read(theirs) for _, theirs in self.subscribers]


@pytest.fixture
def world() -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(stack, 2)


def test_good_batch_is_sent_to_all_in_one_call(world: World) -> None:
    world.producer.send(GOOD * 3)
    before = time.monotonic()
    awake, happened, relayed = world.wait(seconds=-1.0)
    assert before <= awake <= time.monotonic()
    assert happened == []
    size = len(GOOD) * 3
    assert relayed == ("the producer", GOOD * 3, [KIND] * 3, [size, size])
    assert world.got() == [GOOD * 3] * 2
    assert world.wait()[1:] == ([], None)


lines = st.one_of(
    st.sampled_from(
        [
            GOOD,
            b'{"event_type": "a.b", "priority": "INFO", "publisher_id": ["any"]}\n',
            b'{"event_type": "notif_relayd.gap", "priority": "WARN"}\n',
            b'{"event_type": "notif_relayd.x", "priority": "WARN"}\n',
            b'{"event_type": "\\u006eotif_relayd.x", "priority": "WARN"}\n',
            b'{"event_type": "notif_relayd", "priority": "notif_relayd."}\n',
            '{"event_type": "ä", "priority": "INFO"}\n'.encode(),
            b'{"event_type": "a", "priority": "\xff"}\n',
            b'{"event_type": "a", "priority": "\\ud800"}\n',
            b'{"event_type": "a", "priority": "b", "x": "' + b"x" * LIMIT + b'"}\n',
            b'{"event_type": "a", "priority": 1}\n',
            b"[" * 4000 + b"\n",
            b"[]\n",
            b"\r\n",
            b"\n",
            b"\x00\n",
        ]
    ),
    st.just(GOOD),
    st.binary(max_size=40).map(lambda some: some + b"\n"),
    st.integers(0, 9).map(
        lambda bytes_less: (
            b'{"event_type": "a", "priority": "b", "x": "'.ljust(LIMIT - 3 - bytes_less + 4, b"x")
            + b'"}\n'
        )
    ),
)


@given(run=st.lists(lines, min_size=1, max_size=9).map(b"".join), cut=st.integers(0, 3))
def test_only_plain_records_are_relayed(run: bytes, cut: int) -> None:
    run = run[: len(run) - cut] or b"x"
    plain = _native.routing_keys_of(run, Validator(LIMIT).rules)
    with contextlib.ExitStack() as stack:
        world = World(stack, 1)
        world.producer.send(run)
        _, happened, (_, got, routing_keys, results) = world.wait()
        assert happened == []
        assert got == run
        assert routing_keys == plain
        assert results == ([len(run)] if plain else [])
        assert world.got() == [run if plain else b""]


def test_result_of_each_send_is_returned() -> None:
    with contextlib.ExitStack() as stack:
        world = World(stack, 4)
        full, partly, gone, _ = (ours for ours, _ in world.subscribers)
        fill(full)
        partly.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        world.subscribers[2][1].close()
        run = GOOD * 1000
        world.producer.send(run)
        results = world.wait()[2][3]
        assert results[0] == -errno.EAGAIN
        assert 0 < results[1] < len(run)
        assert results[2] == -errno.EPIPE
        assert results[3] == len(run)
        del world.subscribers[2]
        assert [len(got) for got in world.got()[1:]] == [results[1], results[3]]
        assert gone.fileno() >= 0


def test_long_batch_is_not_sent(world: World) -> None:
    world.producer.send(GOOD)
    _, _, relayed = world.wait(threshold=len(GOOD))
    assert relayed == ("the producer", GOOD, [KIND], [])
    world.producer.send(GOOD)
    assert world.wait(threshold=len(GOOD) + 1)[2][3] == [len(GOOD)] * 2
    assert world.got() == [GOOD] * 2


def test_read_size_is_kept(world: World) -> None:
    world.producer.send(GOOD * 2)
    assert world.wait(read_size=len(GOOD))[2][1] == GOOD
    assert world.wait(read_size=len(GOOD) - 1)[2][1:] == (GOOD[:-1], [], [])
    assert world.wait()[2][1:] == (b"\n", [], [])


def test_other_events_are_returned_and_nothing_is_read(
    world: World,
) -> None:
    ours, theirs = world.subscribers[0]
    world.producer.send(GOOD)
    server = world.server.fileno()
    assert world.wait(producers={})[1:] == ([(server, READ)], None)
    world.epoll.register(ours, READ | select.EPOLLOUT)
    both = {(server, READ), (ours.fileno(), select.EPOLLOUT)}
    _, happened, relayed = world.wait()
    assert (set(happened), relayed) == (both, None)
    world.epoll.modify(ours, READ)
    theirs.send(b"?")
    assert set(world.wait()[1]) == {(server, READ), (ours.fileno(), READ)}
    assert read(ours) == b"?"
    world.producer.close()
    [(number, events)] = world.wait()[1]
    assert (number, events) == (server, READ | select.EPOLLHUP)
    assert read(world.server) == GOOD
    assert world.got() == [b""] * 2


def test_spurious_event_is_passed_on(world: World) -> None:
    """One that has shut its own direction down: the end of what it sends, and no hangup."""
    world.producer.shutdown(socket.SHUT_WR)
    assert world.wait()[1:] == ([(world.server.fileno(), READ)], None)
    assert read(world.server) == b""
    with contextlib.ExitStack() as stack:
        eventfd = os.eventfd(1)
        stack.callback(os.close, eventfd)
        world.epoll.unregister(world.server)
        world.epoll.register(eventfd, READ)
        assert world.wait(producers={eventfd: "no socket"})[1] == [(eventfd, READ)]


def test_timeout_is_kept(world: World) -> None:
    for seconds in (0.0, 0.01, 0.0101):
        before = time.monotonic()
        awake, happened, relayed = world.wait(seconds=seconds)
        assert (happened, relayed) == ([], None)
        assert awake - before >= seconds
    signal.signal(signal.SIGALRM, lambda *_: world.producer.send(GOOD))
    for for_ever in (-1.0, -0.001, 1e300, float("inf"), float("nan")):
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        # The handler's send may be what wakes it, or what it finds when it looks again.
        while (relayed := world.wait(seconds=for_ever)[2]) is None:
            pass
        assert relayed[1] == GOOD


@pytest.fixture(autouse=True)
def _no_alarm() -> Iterator[None]:
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_signal_ends_the_wait_and_may_raise(world: World) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        raise InterruptedError("by the test")

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    with pytest.raises(InterruptedError, match="by the test"):
        world.wait(seconds=-1.0)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    assert world.wait(seconds=-1.0)[1:] == ([], None)


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
        ({"sockets": [1] * (_native.MOST_SOCKETS + 1)}, ValueError),
        ({"threshold": 1.5}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_without_effect(
    world: World, wrong: dict[str, Any], error: type[Exception]
) -> None:
    world.producer.send(GOOD)
    with pytest.raises(error):
        world.wait(**wrong)
    assert read(world.server) == GOOD
    assert world.got() == [b""] * 2


def test_bad_descriptor_is_reported_as_send_error(world: World) -> None:
    world.producer.send(GOOD)
    results = world.wait(sockets=[world.epoll.fileno(), 10**6])[2][3]
    assert results == [-errno.ENOTSOCK, -errno.EBADF]


def test_no_reference_is_leaked(world: World) -> None:
    producer = object()
    bad = b'{"event_type": "notif_relayd.x", "priority": "b"}\n'
    others = b'{"event_type": "x", "priority": "b"}\n{"event_type": "\\udc00", "priority": "b"}\n'

    def every_way() -> None:
        good = (GOOD, GOOD * 100, GOOD + others)
        for run in (*good, bad, GOOD + b"[]\n", GOOD + b"\xff\n", b"x", GOOD + b"x"):
            world.producer.send(run)
            world.wait(producers={world.server.fileno(): producer})
            world.got()
        world.producer.send(GOOD)
        world.wait(producers={})
        read(world.server)
        _native.routing_keys_of(GOOD * 9 + others, Validator(LIMIT).rules)
        for wrong in ({"read_size": 0}, {"sockets": ["x"]}, {"epoll": -1}):
            with contextlib.suppress(ValueError, TypeError, OSError):
                world.wait(**wrong)
        world.wait()

    def blocks() -> int:
        for _ in range(50):
            every_way()
        gc.collect()
        return sys.getallocatedblocks()

    blocks()
    references, known = sys.getrefcount(None), sys.getrefcount(producer)
    counts = [blocks() for _ in range(4)]
    assert sys.getrefcount(producer) == known
    assert abs(sys.getrefcount(None) - references) < 50
    # 50 times ten calls: what is left of one of them, or given back once too often, makes a
    # difference of 50 or more each time. What others do meanwhile makes one now and then.
    assert min(abs(after - before) for before, after in pairwise(counts)) < 50


class Relaying:
    """An intake and a fan-out with a shortcut between them, and what they are connected to."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        fast_path = FastPath()
        self.loop = stack.enter_context(contextlib.closing(Loop(fast_path)))
        notify = stack.enter_context(contextlib.closing(NotifySocket(None)))
        descriptors = FdStore(self.loop, notify, 0, [], {})
        log, self._ids = RateLimitedLog(logging.getLogger("test")), itertools.count(1)
        limits = ConnectionLimits("room", 1000, 1000, 10**9)
        context = Context(self.loop, log, self._ids, descriptors)
        self.fanout = Fanout(context, limits, Policy(), 1 << 20, 1 << 20)
        self.intake = Intake(context, limits, LIMIT, self.fanout.publish)
        fast_path.connect(self.intake, self.fanout)
        self.loop.call_in(SEND_TIMEOUT, lambda: pytest.fail("nothing happens"))
        stack.callback(self.fanout.close)
        stack.callback(self.intake.close)

    def produce(self) -> tuple[Producer, socket.socket]:
        ours, theirs = self._pair()
        number = next(self._ids)
        self.intake.adopt(number, ours)
        return self.intake.producers[number], theirs

    def subscribe(self) -> socket.socket:
        """One that is current, and has read the word that something may be missing."""
        ours, theirs = self._pair()
        self.fanout.adopt(next(self._ids), ours, b"")
        while not self.fanout.drained:
            self.loop.run_once()
        assert b"relay_restarted" in read(theirs)
        return theirs

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setblocking(False)
        return ours, self._stack.enter_context(theirs)

    def run_once(self) -> bool:
        """A turn; whether all of it was done while waiting."""
        self.loop.run_once()
        handed_on = self.intake.received
        self.intake.flush()
        return self.intake.received == handed_on


@pytest.fixture
def relaying() -> Iterator[Relaying]:
    with contextlib.ExitStack() as stack:
        yield Relaying(stack)


def test_figures_equal_those_of_the_usual_path(relaying: Relaying) -> None:
    producer, theirs = relaying.produce()
    subscribers = [relaying.subscribe() for _ in range(3)]
    before = relaying.fanout.bytes_delivered
    for number, quick in enumerate([True, False] * 2):
        if not quick:
            relaying.intake.steady.clear()
        theirs.send(GOOD * 2)
        assert relaying.run_once() is quick
        relaying.intake.steady[producer.socket.fileno()] = producer
        times = number + 1
        assert [read(each) for each in subscribers] == [GOOD * 2] * 3
        assert relaying.intake.received == producer.records == times * 2
        assert relaying.intake.bytes_received == producer.bytes == times * 2 * len(GOOD)
        assert relaying.fanout.delivered == times * 6
        assert relaying.fanout.bytes_delivered - before == times * 6 * len(GOOD)
    assert relaying.fanout.discarded == 0


def test_records_without_subscribers_are_discarded(relaying: Relaying) -> None:
    _, theirs = relaying.produce()
    theirs.send(GOOD)
    assert relaying.run_once()
    assert (relaying.fanout.discarded, relaying.intake.received) == (1, 1)


def test_filtered_subscriber_gets_matching_records(relaying: Relaying) -> None:
    _, theirs = relaying.produce()
    everything, some = relaying.subscribe(), relaying.subscribe()
    some.send(b'{"filter": {"event_type": ["c.*"]}}\n')
    while not read(some).count(b"notif_relayd.subscribed"):
        relaying.run_once()
    while not relaying.fanout.drained:
        relaying.run_once()
    other = GOOD.replace(b"a.b", b"c.d")
    theirs.send(GOOD + other)
    assert relaying.run_once()
    assert (read(everything), read(some)) == (GOOD + other, other)


def test_full_socket_is_behind_and_closed_one_is_removed(
    relaying: Relaying,
) -> None:
    _, theirs = relaying.produce()
    slow, quick, gone = (relaying.subscribe() for _ in range(3))
    sent = 0
    while not relaying.fanout.store.size:
        theirs.send(GOOD * 500)
        relaying.run_once()
        sent += 500
        assert read(quick) == GOOD * 500
        assert read(gone)
    gone.close()
    theirs.send(GOOD)
    while len(relaying.fanout.subscribers) == 3:
        relaying.run_once()
    got = b""
    while not relaying.fanout.drained:
        got += read(slow)
        relaying.run_once()
    assert got + read(slow) == GOOD * (sent + 1)
    assert read(quick) == GOOD


def test_batch_for_many_subscribers_is_shared(
    relaying: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribers = [relaying.subscribe() for _ in range(MIN_SHARED_SOCKETS)]
    _, theirs = relaying.produce()
    recipients, threshold = relaying.fanout.fast_recipients(MIN_SHARED_SOCKETS)
    assert (len(recipients), threshold) == (MIN_SHARED_SOCKETS, MIN_SHARED_SIZE)
    assert relaying.fanout.fast_recipients(MIN_SHARED_SOCKETS - 1) == ([], 0)
    shared: list[int] = []
    sendfile = os.sendfile

    def counted(out: int, file: int, offset: int, size: int) -> int:
        shared.append(out)
        return sendfile(out, file, offset, size)

    monkeypatch.setattr("notif_relayd.fanout.shared_pages.os.sendfile", counted)
    for number, times in ((1, 0), (MIN_SHARED_SIZE // len(GOOD) + 1, MIN_SHARED_SOCKETS)):
        theirs.send(GOOD * number)
        assert relaying.run_once()
        assert len(shared) == times
        assert [read(each) for each in subscribers] == [GOOD * number] * MIN_SHARED_SOCKETS


def test_only_steady_producers_use_the_fast_path(
    relaying: Relaying,
) -> None:
    producer, theirs = relaying.produce()
    subscriber = relaying.subscribe()
    steady = relaying.intake.steady
    assert list(steady.values()) == [producer]
    # What comes after the first half of a line is its other half, whatever it looks like.
    theirs.send(b"x")
    relaying.run_once()
    assert not steady
    theirs.send(GOOD)
    relaying.run_once()
    assert (producer.records, producer.rejected) == (0, 1)
    assert read(subscriber) == b""
    # After a rest it is read in small pieces, and trusted again when that went well for a while.
    while producer.paused:
        relaying.run_once()
    times = 0
    while not steady:
        theirs.send(GOOD)
        assert relaying.run_once() is False
        times += 1
    assert (times, producer.read_size) == (10, READ_SIZE)
    theirs.send(GOOD)
    assert relaying.run_once() is True
    assert read(subscriber) == GOOD * 11
    theirs.send(b"x" * LIMIT)
    relaying.run_once()
    assert not steady
    theirs.send(b"\n")
    relaying.run_once()
    theirs.shutdown(socket.SHUT_WR)
    while relaying.intake.producers:
        relaying.run_once()
    assert not steady


def test_reused_descriptor_is_not_read_for_old_producer(
    relaying: Relaying,
) -> None:
    producer, theirs = relaying.produce()
    number = producer.socket.fileno()
    subscriber = relaying.subscribe()
    relaying.intake.disconnect(producer)
    theirs.close()
    with contextlib.ExitStack() as stack:
        while (ours_theirs := pair(stack))[0].fileno() != number:
            pass
        ours, theirs = ours_theirs
        seen: list[int] = []
        relaying.loop.watch(number, READ, seen.append)
        theirs.send(GOOD)
        relaying.run_once()
        assert seen == [READ]
        assert read(ours) == GOOD
        relaying.loop.forget(number)
    assert read(subscriber) == b""
