# SPDX-License-Identifier: Apache-2.0
"""The pipeline of a bridge with the spool on disk, and what the model does not look at."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from notif_relay import Gap, Notification, records
from notif_relayd_bridge.errors import SpoolError
from notif_relayd_bridge.marker import is_brought_in
from notif_relayd_bridge.outbound.attempts import RETRY_INTERVAL
from notif_relayd_bridge.outbound.interfaces import MAX_HELD_BYTES, Storage
from notif_relayd_bridge.outbound.pipeline import (
    FULL_AFTER,
    MAX_UNCONFIRMED_BYTES,
    SLOW_AFTER,
    Pipeline,
)
from notif_relayd_bridge.spool.spool import MIN_MAX_BYTES, Spool
from support.memory_spool import MemorySpool
from support.records import numbered_record, record, record_number


class Target:
    """Keeps what is sent."""

    max_unconfirmed = 10

    def __init__(self) -> None:
        self.sent: list[Notification] = []

    def send(self, notification: Notification) -> None:
        self.sent.append(notification)


class Harness:
    """A pipeline with a clock that stands still."""

    def __init__(self, spool: Storage) -> None:
        self.now = 0.0
        self.target = Target()
        self.done: list[int] = []
        self.pipeline = Pipeline(self.target, spool, lambda: self.now)

    def receive(self, numbers: Sequence[int], size: int = 1024) -> None:
        notifications = [Notification(numbered_record(number, size)) for number in numbers]
        for number, notification in zip(numbers, notifications, strict=True):
            notification.attach(self.done.append, number)
        self.pipeline.receive(notifications)
        self.pipeline.advance()

    def connect(self) -> None:
        self.pipeline.connect()
        self.pipeline.advance()

    def confirm(self, count: int) -> None:
        self.pipeline.confirm(count)
        self.pipeline.advance()

    def fail(self) -> None:
        self.pipeline.fail("connection reset")
        self.pipeline.advance()

    def confirm_all(self) -> None:
        while count := self.pipeline.unconfirmed:
            self.confirm(count)
        assert self.pipeline.idle
        assert self.pipeline.deadline is None


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with contextlib.closing(Spool(str(tmp_path / "spool"), MIN_MAX_BYTES, 3600)) as spool:
        yield spool


def missing(sent: Sequence[Notification]) -> int:
    """Check that messages are in order, and that gap records count those that are missing."""
    expected = gaps = 0
    for notification in sent:
        if notification.event_type == "notif_relayd.gap":
            gaps += notification.payload["dropped"]
            expected += notification.payload["dropped"]
        else:
            assert record_number(notification) == expected
            expected += 1
    return gaps


def test_full_spool_is_counted_exactly(spool: Spool) -> None:
    harness = Harness(spool)
    harness.fail()
    for first in range(0, 500, 10):
        harness.receive(range(first, first + 10))
    assert harness.done == list(range(500))
    harness.connect()
    harness.confirm_all()
    gaps = missing(harness.target.sent)
    assert len(harness.target.sent) - 1 + gaps == 500
    assert 0 < gaps < 500
    assert spool.count == 0


def test_report_counts_each_record_once(spool: Spool) -> None:
    def figures() -> tuple[object, ...]:
        found: dict[str, Any] = harness.pipeline.report()
        return found["unconfirmed"], found["waiting"], found["spool"]["records"]

    harness = Harness(spool)
    harness.connect()
    harness.receive(range(40), size=100)
    assert figures() == (10, 30, 0)
    harness.now += SLOW_AFTER
    harness.receive([])
    assert figures() == (0, 0, 40)
    harness.confirm_all()
    assert figures() == (0, 0, 0)


def test_full_spool_is_reported_as_full(tmp_path: Path) -> None:
    with contextlib.closing(Spool(str(tmp_path / "spool"), 1024 * 1024, 3600)) as spool:
        harness = Harness(spool)
        harness.fail()
        for first in range(0, 1500, 50):
            harness.receive(range(first, first + 50))
        found: dict[str, Any] = harness.pipeline.report()
    figures = found["spool"]
    assert 0.8 < figures["bytes"] / figures["max_bytes"] <= 1
    assert figures["dropped"] + figures["records"] - 1 == found["spooled"] == 1500
    assert not figures["failed"]


def test_unconfirmed_records_are_not_in_a_gap(spool: Spool) -> None:
    harness = Harness(spool)
    harness.connect()
    harness.receive(range(40))
    harness.now += SLOW_AFTER  # The ten unconfirmed ones are spooled, too.
    for first in range(40, 500, 10):
        harness.receive(range(first, first + 10))
    harness.confirm_all()
    sent = harness.target.sent
    assert [record_number(each) for each in sent[:10]] == list(range(10))
    assert len(sent) - 1 + missing(sent) == 500


def test_rows_of_a_previous_process_come_first(tmp_path: Path) -> None:
    path = str(tmp_path / "spool")
    with contextlib.closing(Spool(path, 1024 * 1024, 3600)) as spool:
        harness = Harness(spool)
        harness.fail()
        harness.receive(range(30))
        harness.connect()
        harness.confirm(7)
        harness.fail()  # Confirmed rows are removed when nothing is unconfirmed.
    with contextlib.closing(Spool(path, 1024 * 1024, 3600)) as spool:
        harness = Harness(spool)
        harness.connect()
        harness.receive(range(30, 40))
        harness.confirm_all()
    assert [record_number(each) for each in harness.target.sent] == list(range(7, 40))


def test_direct_records_do_not_touch_the_spool(tmp_path: Path) -> None:
    spool = MemorySpool(broken=True)
    harness = Harness(spool)
    harness.connect()
    harness.receive(range(100))
    harness.confirm_all()
    assert harness.done == list(range(100))
    assert spool.last == 0


def test_everything_that_has_arrived_is_one_transaction() -> None:
    class Counting(MemorySpool):
        transactions = 0

        def add(self, records: Sequence[bytes], keep: int) -> None:
            self.transactions += 1
            super().add(records, keep)

    spool = Counting()
    harness = Harness(spool)
    harness.fail()
    for number in range(20):
        harness.pipeline.receive([Notification(numbered_record(number))])
    harness.pipeline.advance()
    assert (spool.transactions, spool.count) == (1, 20)


def test_records_wait_for_a_slow_broker_and_then_are_spooled() -> None:
    spool = MemorySpool()
    harness = Harness(spool)
    harness.connect()
    assert harness.pipeline.deadline is None
    harness.receive(range(11))
    assert harness.pipeline.deadline == SLOW_AFTER
    harness.now = SLOW_AFTER
    harness.pipeline.advance()
    assert spool.count == 11
    assert harness.pipeline.deadline is None


def test_records_that_fill_the_reader_are_spooled_earlier() -> None:
    spool = MemorySpool()
    harness = Harness(spool)
    harness.connect()
    harness.receive(range(15), MAX_HELD_BYTES // 16)
    assert harness.pipeline.deadline == SLOW_AFTER
    harness.receive(range(15, 17), MAX_HELD_BYTES // 16)
    assert harness.pipeline.deadline == FULL_AFTER
    harness.now = FULL_AFTER
    harness.pipeline.advance()
    assert spool.count == 17
    harness.receive([17])
    assert harness.pipeline.deadline is None


def test_size_of_unconfirmed_records_is_limited() -> None:
    harness = Harness(MemorySpool())
    harness.connect()
    size = MAX_UNCONFIRMED_BYTES // 4
    harness.receive(range(8), size)
    assert len(harness.target.sent) == 4
    harness.confirm(1)
    assert len(harness.target.sent) == 5


def test_full_disk_is_logged_once_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    spool = MemorySpool(broken=True)
    harness = Harness(spool)
    harness.fail()
    for number in range(5):
        harness.receive([number])
        assert harness.pipeline.deadline == harness.now + RETRY_INTERVAL
        harness.now += RETRY_INTERVAL
        harness.pipeline.advance()
        harness.fail()
    assert harness.done == []
    spool.broken = False
    harness.now += RETRY_INTERVAL
    harness.pipeline.advance()
    assert harness.done == list(range(5))
    assert [each.getMessage() for each in caplog.records] == [
        "waiting for the broker, and spooling notifications: connection reset",
        "spooling stops, and notifications remain in the relay: no space left on device",
        "the spool can be written again",
    ]


def test_unreadable_spool_is_read_again_later(caplog: pytest.LogCaptureFixture) -> None:
    class Unreadable(MemorySpool):
        readable = False

        def head(self, after: int, limit: int) -> list[tuple[int, bytes]]:
            if not self.readable:
                raise SpoolError("input/output error")
            return super().head(after, limit)

    spool = Unreadable()
    harness = Harness(spool)
    harness.fail()
    harness.receive(range(3))
    caplog.set_level(logging.INFO)
    for _ in range(2):
        harness.connect()
        assert harness.pipeline.deadline == harness.now + RETRY_INTERVAL
        assert harness.pipeline.spool_failed
        harness.now += RETRY_INTERVAL
    harness.receive(range(3, 5))  # They go to the spool, because their order is kept.
    assert (harness.target.sent, spool.count) == ([], 5)
    spool.readable = True
    harness.now += RETRY_INTERVAL
    harness.pipeline.advance()
    assert not harness.pipeline.spool_failed
    harness.confirm_all()
    assert [record_number(each) for each in harness.target.sent] == list(range(5))
    assert [each for each in caplog.messages if "the spool" in each] == [
        "the spool cannot be read, and its records wait: input/output error",
        "the spool can be read again",
    ]


def test_hostile_names_do_not_disturb_the_log(caplog: pytest.LogCaptureFixture) -> None:
    harness = Harness(MemorySpool())
    harness.connect()
    harness.pipeline.receive([Notification(record("a\n\x1b[0m" + "x" * 100_000))])
    harness.pipeline.advance()
    harness.pipeline.refuse("too\nlarge" + "x" * 100_000)
    assert caplog.messages[-1].isprintable()
    assert len(caplog.messages[-1]) < 600


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (record(_bridge="hub"), True),
        (record(_bridge=None), True),
        (record(payload={"_bridge": "hub"}), False),
        (record(payload='"_bridge"'), False),
        (record(), False),
        (b'{"_bridge": ', False),
        (b'["_bridge"]\n', False),
        (b'"_bridge"\xff\n', False),
        (b'{"_bridge": ' + b"[" * 100_000 + b"\n", False),
        (b'{"_bridge": ' + b"9" * 10_000 + b"}\n", True),
    ],
)
def test_record_of_another_bridge_is_recognised(raw: bytes, expected: bool) -> None:
    assert is_brought_in(raw) is expected


def test_gap_for_refused_records_has_their_number() -> None:
    harness = Harness(MemorySpool())
    harness.connect()
    harness.receive(range(5))
    harness.pipeline.refuse("too large")
    harness.pipeline.refuse("too large")
    harness.pipeline.advance()
    assert dropped(harness) == 2
    harness.confirm(3)
    assert harness.done == [2, 3, 4]
    harness.confirm(1)
    assert harness.done == [2, 3, 4, 0, 1]


def test_rows_are_removed_before_later_records_finish() -> None:
    spool = MemorySpool()
    harness = Harness(spool)
    harness.fail()
    harness.receive(range(5))
    harness.connect()
    harness.receive(range(5, 8))
    harness.pipeline.confirm(6)
    assert harness.done == list(range(5))
    harness.pipeline.advance()
    # Otherwise, the next process would send the rows again, but not the record 5 after them.
    assert (spool.count, harness.done, harness.pipeline.unconfirmed) == (0, list(range(6)), 2)


def test_message_refused_again_is_announced_again() -> None:
    harness = Harness(MemorySpool())
    harness.connect()
    harness.receive([0])
    for _ in range(2):
        harness.pipeline.refuse("too large")
        harness.pipeline.advance()
        assert harness.target.sent[-1].event_type == "notif_relayd.gap"
        harness.fail()
        harness.connect()
    harness.pipeline.refuse("too large")
    harness.pipeline.advance()
    harness.confirm_all()
    assert harness.done == [0]


@pytest.mark.parametrize(("number", "expected"), [(70, 71), (0, 1), (None, None)])
def test_refused_gap_counts_with_its_own_number(number: int | None, expected: int | None) -> None:
    harness = Harness(MemorySpool())
    harness.connect()
    harness.pipeline.receive([Notification(records.gap(number, "slow_subscriber"))])
    harness.receive([0])
    harness.pipeline.refuse("not allowed")
    harness.pipeline.refuse("not allowed")
    harness.pipeline.advance()
    assert dropped(harness) == expected


def dropped(harness: Harness) -> object:
    """Return the number of the gap record that was sent last."""
    payload = harness.target.sent[-1].payload
    assert payload["reason"] == "undeliverable"
    return payload["dropped"]


def test_gap_record_is_finished_when_it_is_confirmed() -> None:
    spool = MemorySpool()
    harness = Harness(spool)
    harness.connect()
    gap = Gap(records.gap(7, "producer_congested"))
    gap.attach(harness.done.append, 0)
    harness.pipeline.receive([gap])
    harness.receive([1])
    assert harness.done == []
    harness.confirm(1)
    assert (harness.done, spool.last) == ([0], 0)
