# SPDX-License-Identifier: Apache-2.0
"""Limits on accepting and reading connections in one loop iteration, which delays all other peers.

Other tests do not notice if such a limit fails: no record is lost or refused, only late.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from notif_relayd.ingest import intake
from notif_relayd.ingest.intake import READ_SIZE
from notif_relayd.ingest.producer import Producer
from notif_relayd.net import acceptor
from notif_relayd.records.validator import Reason, RoutingKey, ValidatedBatch
from notif_relayd.settings import ConnectionLimits
from support.loop_harness import (
    LoopHarness,
    drain_socket,
    is_refused,
    use_clock,
)
from support.records import record


def test_accepts_per_iteration_are_limited(harness: LoopHarness) -> None:
    waiting = harness.intake()
    harness.connect(acceptor.MAX_ACCEPTS + 10)
    harness.loop.run_once()
    assert len(waiting.producers) == acceptor.MAX_ACCEPTS
    harness.loop.run_once()
    assert len(waiting.producers) == acceptor.MAX_ACCEPTS + 10


def test_accepting_pauses_after_each_refusal(
    harness: LoopHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses of all sockets end at the same time, so that fewer records are delayed."""
    pauses: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: acceptor.REFUSAL_INTERVAL * 1000.25)
    use_clock(harness, monkeypatch, clock)
    harness.limits = ConnectionLimits("max_connections", max_connections=2, per_user=2, rate=10_000)
    waiting = harness.intake()
    call_in = harness.loop.call_in

    def record_pause(seconds: float, callback: Callable[[], None]) -> None:
        pauses.append(seconds)
        call_in(seconds, callback)

    monkeypatch.setattr(harness.loop, "call_in", record_pause)
    harness.connect(5)
    for refused in range(1, 4):
        while len(pauses) < refused:
            harness.loop.run_once()
        refusals = [each for each in harness.sockets[1:] if is_refused(each)]
        assert len(refusals) == refused
        assert len(waiting.producers) == 2
    assert pauses == [pytest.approx(acceptor.REFUSAL_INTERVAL * 0.75)] * 3


def read_once(harness: LoopHarness, producer: Producer) -> int:
    """Run the loop until the producer is read, after its pause if any; return the bytes read."""
    before = producer.bytes
    for _ in range(10):
        harness.run_once()
        if producer.bytes > before:
            break
    return producer.bytes - before


def test_reads_shrink_after_rejects_and_grow_again(
    harness: LoopHarness,
) -> None:
    """A rejected record takes many times the processor time of a valid one."""
    reading = harness.intake()
    producer = harness.connect()
    harness.run_once()
    (known,) = reading.producers.values()
    producer.sendall(b"garbage\n" * 1000)
    harness.run_once()
    assert known.bytes == 8000
    producer.sendall(b"garbage\n" * 1000)
    assert [read_once(harness, known) for _ in range(3)] == [intake.SUSPECT_READ_SIZE] * 3
    while known.bytes < 16_000:
        read_once(harness, known)
    good = record(payload="x" * 50)
    producer.sendall(good * 1000)
    read: list[int] = []
    while sum(read) < 1000 * len(good):
        read.append(read_once(harness, known))
    assert read[:4] == [intake.SUSPECT_READ_SIZE << n for n in range(4)]
    assert max(read) > 32 * intake.SUSPECT_READ_SIZE
    assert known.rejected == 2000
    assert known.records == 1000


def test_oversized_line_is_skipped_in_small_reads(harness: LoopHarness) -> None:
    """Large reads of a line that is rejected anyway would only delay other peers."""
    reading = harness.intake()
    producer = harness.connect()
    harness.run_once()
    (known,) = reading.producers.values()
    while not known.rejected:
        producer.sendall(b"x" * 60_000)
        harness.run_once()
    producer.sendall(b"x" * 2000)
    for _ in range(5):
        assert read_once(harness, known) == intake.SUSPECT_READ_SIZE
    # The next relay restores the small read size.
    another = harness.intake()
    another.restore(reading.save(), {known.id: known.socket.dup()})
    assert another.producers[known.id].read_size == intake.SUSPECT_READ_SIZE
    another.disconnect(another.producers[known.id])
    good = record(payload="x" * 50)
    producer.sendall(b"\n" + good * 1000)
    while known.records < 1000:
        harness.run_once()
    assert known.rejected == 1
    assert known.read_size == READ_SIZE


def test_subscriber_is_served_between_batches(
    harness: LoopHarness, other_harness: LoopHarness
) -> None:
    """Between batches the relay checks whether the subscriber's socket is writable again."""
    fanout = other_harness.fanout()
    batch_sizes: list[int] = []
    got = 0

    def publish(batch: bytes, routing_keys: list[RoutingKey]) -> float:
        nonlocal got
        batch_sizes.append(len(batch))
        fanout.publisher.publish(batch, routing_keys)
        # The subscriber does not read at first, so it is behind when it starts.
        if len(batch_sizes) > 6:
            got += drain_socket(subscriber)
        return 0.0

    reading = harness.intake(publish)
    subscriber = other_harness.connect()
    subscriber.setblocking(False)
    producers = [harness.connect() for _ in range(40)]
    for _ in range(40):
        if len(reading.producers) < 40:
            harness.run_once()
    sent = record(payload="x" * 900) * 60
    for each in producers:
        each.sendall(sent)
    harness.run_once()
    assert reading.received == 40 * 60
    assert max(batch_sizes) < intake.BATCH_SIZE + READ_SIZE
    assert 40 * len(sent) - got - drain_socket(subscriber) <= 2 * max(batch_sizes)
    assert not fanout.dropped


def test_stalled_subscribers_cost_nothing_per_batch(
    harness: LoopHarness,
) -> None:
    fanout = harness.fanout()
    harness.connect(100)
    quick = harness.connect()
    quick.setblocking(False)
    while len(fanout.subscribers) < 101:
        harness.run_once()
    stream = fanout.streams.unfiltered
    assert stream is not None
    batch = record(payload="x" * 900) * 60
    while len(stream.current) > 1:
        fanout.publisher.publish(batch, [("compute", "INFO", "")] * 60)
        assert drain_socket(quick) == len(batch)
    assert sys.getsizeof(stream.current) <= sys.getsizeof(dict.fromkeys(range(10)))


def test_rejects_do_not_cause_rechecks_of_other_records(
    harness: LoopHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = harness.intake()
    producers = [harness.connect() for _ in range(4)]
    harness.run_once()
    checked: list[bytes] = []
    validate = reading.validator.validate

    def record_lines(lines: bytes) -> ValidatedBatch:
        checked.append(lines)
        return validate(lines)

    monkeypatch.setattr(reading.validator, "validate", record_lines)
    good = record()
    for each in producers:
        each.sendall(good)
    harness.run_once()
    assert checked == [4 * good]
    producers[1].sendall(b"garbage\n")
    harness.run_once()
    while any(each.paused for each in reading.producers.values()):
        harness.run_once()
    checked.clear()
    for each in producers:
        each.sendall(b"garbage\n" if each is producers[1] else good)
    harness.run_once()
    assert b"".join(checked).count(good) == 3
    assert checked.count(b"garbage\n") == 1
    assert reading.received == 7


def test_only_the_rejected_producer_is_paused(
    harness: LoopHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[tuple[float, Callable[[], None]]] = []
    reading = harness.intake(limit=1000)
    bad, good = harness.connect(), harness.connect()
    harness.run_once()
    wake = partial(harness.loop.call_in, 0, lambda: None)
    monkeypatch.setattr(harness.loop, "call_in", lambda *pause: pauses.append(pause))
    bad.sendall(b"garbage\n" + b"x" * 1001)
    harness.run_once()
    assert reading.rejected.total() == 2
    # Data sent before the disconnection is still read, but only after the pause.
    bad.sendall(b"\n" + record())
    bad.close()
    for number in range(3):
        good.sendall(record())
        wake()
        harness.run_once()
        assert reading.received == number + 1
    ((seconds, resume),) = pauses
    assert seconds == intake.REJECT_PAUSE
    resume()
    for _ in range(5):
        wake()
        harness.run_once()
    assert reading.received == 4
    assert len(reading.producers) == 1
    assert len(pauses) == 1


def test_disconnect_while_paused_pauses_no_other_producer(harness: LoopHarness) -> None:
    """Another connection may have its descriptor when the pause ends."""
    reading = harness.intake()
    bad = harness.connect()
    harness.run_once()
    (known,) = reading.producers.values()
    bad.sendall(b"garbage\n")
    harness.run_once()
    assert known.paused
    reading.disconnect(known)
    harness.connect()
    while known.paused:
        harness.run_once()
    harness.sockets[-1].sendall(b"garbage\n")
    harness.run_once()
    assert len(reading.producers) == 1
    assert reading.rejected[Reason.NOT_JSON] == 2
