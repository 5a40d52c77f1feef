# SPDX-License-Identifier: Apache-2.0
"""What one turn of the loop does at most: whoever waits for the next one waits for all of it.

Nothing is lost or refused where these bounds do not hold, only late, which no other test sees.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from notif_relayd.access import request_pacer
from notif_relayd.access.policy import Policy
from notif_relayd.context import Context
from notif_relayd.control import server
from notif_relayd.control.server import ControlServer
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.ingest import expensive_time, intake
from notif_relayd.ingest.intake import READ_SIZE, Intake
from notif_relayd.ingest.producer import Producer
from notif_relayd.net import acceptor
from notif_relayd.net.loop import Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.records import validator
from notif_relayd.records.validator import Reason, RoutingKey
from notif_relayd.settings import ConnectionLimits
from notif_relayd.systemd.fdstore import FdStore
from notif_relayd.systemd.sdnotify import NotifySocket
from support.records import record
from support.relay import connect

THROTTLE = RateLimitedLog(logging.getLogger(__name__))


class LoopLatency:
    """A loop, one listening socket, and who comes in through it."""

    def __init__(self, directory: Path, room: int, loop: Loop) -> None:
        self.loop = loop
        self.path = directory / "listener.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(self.path))
        self.listener.listen(1024)
        self.limits = ConnectionLimits("room", max_connections=room, per_user=room, rate=10_000)
        self.notify = NotifySocket(None)
        store = FdStore(self.loop, self.notify, 0, (), {})
        self.context = Context(self.loop, THROTTLE, itertools.count(), store)
        self.opened: list[socket.socket] = [self.listener]
        self.inside: list[Intake | Fanout | ControlServer] = []

    def intake(
        self,
        publish: Callable[[bytes, list[RoutingKey]], float] = lambda *_: 0.0,
        limit: int = 1 << 20,
    ) -> Intake:
        intake = Intake(self.context, self.limits, limit, publish)
        self.inside.append(intake)
        intake.listen(self.listener)
        return intake

    def fanout(self) -> Fanout:
        fanout = Fanout(self.context, self.limits, Policy([]), 1 << 20, 1 << 20)
        self.inside.append(fanout)
        fanout.listen(self.listener)
        return fanout

    def connect(self, number: int = 1) -> socket.socket:
        """Connect so many times; the last one."""
        self.opened += [connect(self.path) for _ in range(number)]
        return self.opened[-1]

    def run_once(self) -> None:
        """As a relay does it."""
        self.loop.run_once()
        for each in self.inside:
            if isinstance(each, Intake):
                each.flush()

    def close(self) -> None:
        for each in (*self.inside, *self.opened, self.notify):
            each.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def turns(directory: Path, loop: Loop) -> Iterator[LoopLatency]:
    turns = LoopLatency(directory, 1000, loop)
    yield turns
    turns.close()


@pytest.fixture
def others(directory: Path, loop: Loop) -> Iterator[LoopLatency]:
    """Another socket of the same relay."""
    (directory / "others").mkdir()
    turns = LoopLatency(directory / "others", 1000, loop)
    yield turns
    turns.close()


def test_accepts_per_iteration_are_limited(turns: LoopLatency) -> None:
    waiting = turns.intake()
    turns.connect(acceptor.MAX_ACCEPTS + 10)
    turns.loop.run_once()
    assert len(waiting.producers) == acceptor.MAX_ACCEPTS
    turns.loop.run_once()
    assert len(waiting.producers) == acceptor.MAX_ACCEPTS + 10


def test_accepting_pauses_after_each_refusal(
    turns: LoopLatency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same moments for all sockets, so that fewer records have to wait."""
    breaks: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: acceptor.BREAK * 1000.25)
    monkeypatch.setattr(acceptor, "time", clock)
    turns.limits = ConnectionLimits("room", max_connections=2, per_user=2, rate=10_000)
    waiting = turns.intake()
    call_in = turns.loop.call_in
    monkeypatch.setattr(
        turns.loop, "call_in", lambda s, callback: (breaks.append(s), call_in(s, callback))
    )
    turns.connect(5)
    for sent_away in range(1, 4):
        while len(breaks) < sent_away:
            turns.loop.run_once()
        ended = [each for each in turns.opened[1:] if is_over(each)]
        assert len(ended) == sent_away
        assert len(waiting.producers) == 2
    assert breaks == [pytest.approx(acceptor.BREAK * 0.75)] * 3


def is_over(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False


def read_once(turns: LoopLatency, producer: Producer) -> int:
    """Turn until the producer has been read, after its rest if it has one; how many bytes."""
    before = producer.bytes
    for _ in range(10):
        turns.run_once()
        if producer.bytes > before:
            break
    return producer.bytes - before


def test_reads_shrink_after_rejects_and_grow_again(
    turns: LoopLatency,
) -> None:
    """Each rejected record costs many times what a good one does."""
    reading = turns.intake()
    producer = turns.connect()
    turns.run_once()
    (known,) = reading.producers.values()
    producer.sendall(b"garbage\n" * 1000)
    turns.run_once()
    assert known.bytes == 8000
    producer.sendall(b"garbage\n" * 1000)
    assert [read_once(turns, known) for _ in range(3)] == [intake.SUSPECT_READ_SIZE] * 3
    while known.bytes < 16_000:
        read_once(turns, known)
    good = record(payload="x" * 50)
    producer.sendall(good * 1000)
    read = []
    while sum(read) < 1000 * len(good):
        read.append(read_once(turns, known))
    assert read[:4] == [intake.SUSPECT_READ_SIZE << n for n in range(4)]
    assert max(read) > 32 * intake.SUSPECT_READ_SIZE
    assert known.rejected == 2000
    assert known.records == 1000


def test_oversized_line_is_skipped_in_small_reads(turns: LoopLatency) -> None:
    """A long read is a long turn, and nobody has anything of it."""
    reading = turns.intake()
    producer = turns.connect()
    turns.run_once()
    (known,) = reading.producers.values()
    while not known.rejected:
        producer.sendall(b"x" * 60_000)
        turns.run_once()
    producer.sendall(b"x" * 2000)
    for _ in range(5):
        assert read_once(turns, known) == intake.SUSPECT_READ_SIZE
    # The next relay knows as well.
    another = turns.intake()
    another.restore(reading.save(), {known.id: known.socket.dup()})
    assert another.producers[known.id].read_size == intake.SUSPECT_READ_SIZE
    another.disconnect(another.producers[known.id])
    good = record(payload="x" * 50)
    producer.sendall(b"\n" + good * 1000)
    while known.records < 1000:
        turns.run_once()
    assert known.rejected == 1
    assert known.read_size == READ_SIZE


def test_subscriber_is_served_between_batches(turns: LoopLatency, others: LoopLatency) -> None:
    """More than a socket holds, in many runs: it is asked between them whether there is room."""
    fanout = others.fanout()
    runs: list[int] = []
    got = 0

    def publish(run: bytes, routing_keys: list[RoutingKey]) -> float:
        nonlocal got
        runs.append(len(run))
        fanout.publish(run, routing_keys)
        # At first it does not read, and so is behind when it begins to.
        if len(runs) > 6:
            got += all_there_is(subscriber)
        return 0.0

    reading = turns.intake(publish)
    subscriber = others.connect()
    subscriber.setblocking(False)
    producers = [turns.connect() for _ in range(40)]
    for _ in range(40):
        if len(reading.producers) < 40:
            turns.run_once()
    sent = record(payload="x" * 900) * 60
    for each in producers:
        each.sendall(sent)
    turns.run_once()
    assert reading.received == 40 * 60
    assert max(runs) < intake.BATCH_SIZE + READ_SIZE
    assert 40 * len(sent) - got - all_there_is(subscriber) <= 2 * max(runs)
    assert not fanout.dropped


def test_stalled_subscribers_cost_nothing_per_batch(
    turns: LoopLatency,
) -> None:
    fanout = turns.fanout()
    turns.connect(100)
    quick = turns.connect()
    quick.setblocking(False)
    while len(fanout.subscribers) < 101:
        turns.run_once()
    stream = fanout._streams.unfiltered  # noqa: SLF001 - nothing else shows what it costs
    assert stream is not None
    run = record(payload="x" * 900) * 60
    while len(stream.current) > 1:
        fanout.publish(run, [("compute", "INFO", "")] * 60)
        assert all_there_is(quick) == len(run)
    assert sys.getsizeof(stream.current) <= sys.getsizeof(dict.fromkeys(range(10)))


def all_there_is(connection: socket.socket) -> int:
    """Read it; how many bytes that was."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while data := connection.recv(1 << 20):
            size += len(data)
    return size


def test_rejects_do_not_cause_rechecks_of_other_records(
    turns: LoopLatency, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = turns.intake()
    producers = [turns.connect() for _ in range(4)]
    turns.run_once()
    looked_at: list[bytes] = []
    check = reading.validator.check
    monkeypatch.setattr(
        reading.validator,
        "check",
        lambda lines: (looked_at.append(lines), check(lines))[1],
    )
    good = record()
    for each in producers:
        each.sendall(good)
    turns.run_once()
    assert looked_at == [4 * good]
    producers[1].sendall(b"garbage\n")
    turns.run_once()
    while any(each.paused for each in reading.producers.values()):
        turns.run_once()
    looked_at.clear()
    for each in producers:
        each.sendall(b"garbage\n" if each is producers[1] else good)
    turns.run_once()
    assert b"".join(looked_at).count(good) == 3
    assert looked_at.count(b"garbage\n") == 1
    assert reading.received == 7


def test_only_the_rejected_producer_is_paused(
    turns: LoopLatency, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[tuple[float, Callable[[], None]]] = []
    reading = turns.intake(limit=1000)
    bad, good = turns.connect(), turns.connect()
    turns.run_once()
    wake = partial(turns.loop.call_in, 0, lambda: None)
    monkeypatch.setattr(turns.loop, "call_in", lambda *rest: rests.append(rest))
    bad.sendall(b"garbage\n" + b"x" * 1001)
    turns.run_once()
    assert reading.rejected.total() == 2
    # What it sends before its end is read all the same, but not before its rest is over.
    bad.sendall(b"\n" + record())
    bad.close()
    for number in range(3):
        good.sendall(record())
        wake()
        turns.run_once()
        assert reading.received == number + 1
    ((seconds, rested),) = rests
    assert seconds == intake.REJECT_PAUSE
    rested()
    for _ in range(5):
        wake()
        turns.run_once()
    assert reading.received == 4
    assert len(reading.producers) == 1
    assert len(rests) == 1


def test_disconnect_while_paused_pauses_no_other_producer(turns: LoopLatency) -> None:
    """Its descriptor may be somebody else's by then."""
    reading = turns.intake()
    bad = turns.connect()
    turns.run_once()
    (known,) = reading.producers.values()
    bad.sendall(b"garbage\n")
    turns.run_once()
    assert known.paused
    reading.disconnect(known)
    turns.connect()
    while known.paused:
        turns.run_once()
    turns.opened[-1].sendall(b"garbage\n")
    turns.run_once()
    assert len(reading.producers) == 1
    assert reading.rejected[Reason.NOT_JSON] == 2


@pytest.mark.parametrize("at_once", [True, False])
def test_requests_are_handled_one_at_a_time_and_paced(
    turns: LoopLatency, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    clock = SimpleNamespace(monotonic=lambda: clock.now, thread_time=lambda: 0.0, now=1000.0)
    monkeypatch.setattr(request_pacer, "time", clock)
    pauses: list[tuple[float, Callable[[], None]]] = []
    wake = partial(turns.loop.call_in, 0, lambda: None)
    monkeypatch.setattr(turns.loop, "call_in", lambda *pause: pauses.append(pause))
    turns.fanout()
    clients = [turns.connect() for _ in range(3)]
    for each in clients:
        each.setblocking(False)
    turns.loop.run_once()
    requests = [b'{"filter": {"event_type": ["%d"]}}\n' % number for number in range(3)]
    if at_once:
        clients = clients[:1] * 3
        clients[0].sendall(b"".join(requests))
    else:
        for each, request in zip(clients, requests, strict=True):
            each.sendall(request)
    answered = 0
    for _ in range(3):
        for _ in range(10):
            wake()
            turns.loop.run_once()
        answers = b"".join(map(read_what_is_there, set(clients))).splitlines()
        assert len(answers) == 1
        answered += 1
        clock.now += request_pacer.INTERVAL
        if answered < 3:
            seconds, resume = pauses.pop()
            assert seconds == pytest.approx(request_pacer.INTERVAL)
            resume()
    assert answered == 3


def read_what_is_there(client: socket.socket) -> bytes:
    try:
        return client.recv(1 << 16)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("what", ["values", "lines"])
def test_expensive_records_delay_their_user(
    turns: LoopLatency, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    owed = 0.1
    cost = expensive_time.EXPENSIVE_BURST + owed
    times = iter([0.0, cost])
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    clock.thread_time = lambda: next(times, cost)
    monkeypatch.setattr(expensive_time, "time", clock)
    monkeypatch.setattr(validator, "time", clock)
    costs = iter([cost] if what == "values" else [])
    sent = record() if what == "values" else record(payload="?").replace(b"?", rb"\ud800")
    reading = turns.intake(lambda *_: next(costs, 0.0))
    producers = [turns.connect() for _ in range(2)]
    turns.run_once()
    wake = partial(turns.loop.call_in, 0, lambda: None)
    pauses: list[tuple[float, Callable[[], None]]] = []
    monkeypatch.setattr(turns.loop, "call_in", lambda *pause: pauses.append(pause))
    producers[0].sendall(sent)
    turns.run_once()
    producers[1].sendall(record())
    turns.run_once()
    assert reading.received == 1
    [(seconds, resume)] = pauses
    assert seconds == pytest.approx(owed / expensive_time.EXPENSIVE_SHARE)
    clock.now += 1.01 * seconds
    resume()
    wake()
    turns.run_once()
    assert reading.received == 2
    assert all(each.read_size < READ_SIZE for each in reading.producers.values())


def test_answers_to_one_user_are_limited_to_a_time_share(
    turns: LoopLatency, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(
        monotonic=lambda: clock.now, thread_time=lambda: clock.used, now=1000.0, used=0.0
    )
    monkeypatch.setattr(request_pacer, "time", clock)

    def status() -> int:
        clock.used += server.BURST + server.SHARE  # a second's share more than it may have
        return 1

    pauses: list[tuple[float, Callable[[], None]]] = []
    wake = partial(turns.loop.call_in, 0, lambda: None)
    monkeypatch.setattr(turns.loop, "call_in", lambda *pause: pauses.append(pause))
    asking = ControlServer(turns.loop, THROTTLE, {"status": status})
    turns.inside.append(asking)
    asking.listen(turns.listener)
    client = turns.connect()
    client.sendall(b'{"method": "status"}\n' * 2)

    def answers() -> int:
        for _ in range(5):
            wake()
            turns.loop.run_once()
        client.setblocking(False)
        return read_what_is_there(client).count(b"result")

    assert answers() == 1
    [(seconds, resume)] = pauses
    assert seconds == pytest.approx(1.0)
    clock.now += 1.01 * seconds
    resume()
    assert answers() == 1
