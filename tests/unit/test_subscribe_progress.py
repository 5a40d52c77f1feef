# SPDX-License-Identifier: Apache-2.0
"""Members of groups: which notifications they count, report as finished, and see as redelivered."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import Gap, Notification, Redelivered, records
from notif_relay.progress import Progress
from notif_relay.stream import OnGap, Stream
from support.records import record

OLD, NEW = ({records.GROUP_SINCE: since} for since in ("1", "2"))


class Reports:
    """A connection that keeps the reported numbers; while it is full, it takes none."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.since: str | None = None
        self.full = False

    def send(self, line: bytes) -> bool:
        if self.full:
            return False
        report = json.loads(line)
        self.counts.append(report["done"])
        self.since = report.get(records.GROUP_SINCE)
        return True

    def progress(self, window: int, since: str | None = None) -> Progress:
        return Progress(window, since, self.send, lambda: None)


@given(st.integers(1, 300), st.data())
def test_reports_are_the_finished_prefix(window: int, data: st.DataObject) -> None:
    reports = Reports()
    progress = reports.progress(window)
    unfinished: list[Notification] = []
    finished: set[int] = set()
    notifications: list[Notification] = []
    for step in data.draw(st.lists(st.sampled_from(["add", "finish", "wait", "full"]))):
        had = len(finished)
        if step == "add":
            room = window - len(notifications) + (reports.counts or [0])[-1]
            for _ in range(min(room, data.draw(st.integers(1, 300)))):
                notifications.append(progress.add(Notification(b"")))
                unfinished.append(notifications[-1])
        elif step == "finish":
            for _ in range(min(len(unfinished), data.draw(st.integers(1, 300)))):
                each = unfinished.pop(data.draw(st.integers(0, min(3, len(unfinished) - 1))))
                finished.add(notifications.index(each))
                each.done()
                each.done()
        elif step == "full":
            reports.full = not reports.full
        else:
            progress.start_waiting()
            progress.stop_waiting()
        prefix = next(number for number in itertools.count() if number not in finished)
        last = (reports.counts or [0])[-1]
        assert reports.counts == sorted(set(reports.counts))
        assert last <= prefix
        if not reports.full and (step == "wait" or (len(finished) > had and not unfinished)):
            assert last == prefix


def test_reports_are_rare_while_there_is_something_to_read() -> None:
    reports = Reports()
    progress = reports.progress(100)
    notifications = [progress.add(Notification(b"")) for _ in range(100)]
    for each in notifications[:99]:
        each.done()
    assert reports.counts == [50]
    progress.start_waiting()
    assert reports.counts == [50, 99]
    progress.end()
    notifications[99].done()
    assert reports.counts == [50, 99]


def test_few_lines_wait_for_a_relay_that_does_not_read() -> None:
    reports = Reports()
    progress = reports.progress(65536)
    notifications = [progress.add(Notification(b"")) for _ in range(65536)]
    progress.start_waiting()
    for each in notifications:
        each.done()
    assert len(reports.counts) <= 65
    assert reports.counts[-1] == 65536


def member(reports: Reports, on_gap: OnGap | None = None) -> Stream:
    """Return the stream of a member that has the answer to its request."""
    stream = Stream("/the/socket", on_gap, lambda since: reports.progress(100, since))
    assert not list(stream.receive(records.subscribed(OLD)))
    return stream


def test_records_and_gaps_since_the_answer_are_counted() -> None:
    reports = Reports()
    stream = member(reports)
    data = record("a") + records.gap(3, "producer_congested") + records.redelivered(1) + record("b")
    for each in stream.receive(data + records.gap(1, "slow_subscriber")):
        each.done()
    assert (reports.counts[-1], reports.since) == (4, "1")
    # After a crash, the relay answers once more.
    restart = records.gap(None, "relay_restarted") + records.subscribed(NEW) + record("d")
    old = next(stream.receive(record("e")))
    _, new = stream.receive(restart)
    old.done()
    assert reports.counts[-1] == 4
    new.done()
    assert (reports.counts[-1], reports.since) == (1, "2")


def test_gap_is_finished_when_its_handler_has_returned() -> None:
    reports = Reports()
    seen: list[list[int]] = []

    def fail_once(_: Gap) -> None:
        seen.append(reports.counts.copy())
        if len(seen) == 1:
            raise RuntimeError

    stream = member(reports, fail_once)
    found = stream.receive(records.gap(1, "slow_subscriber") * 2 + record("a"))
    with pytest.raises(RuntimeError):
        next(found)
    next(found).done()
    assert (seen, reports.counts) == ([[], []], [])
    for each in stream.receive(records.gap(2, "undeliverable")):
        raise AssertionError(each)
    assert reports.counts == []  # The first gap is unfinished.


def test_redelivered_records_are_marked() -> None:
    stream = member(Reports())
    gap = records.gap(1, "producer_congested")
    found = list(stream.receive(records.redelivered(3) + record("a") + gap))
    found += stream.receive(record("b"))
    found += stream.receive(record("c"))
    assert [type(each) for each in found] == [Redelivered, Gap, Redelivered, Notification]
    assert [each.redelivered for each in found] == [True, False, True, False]
    assert not list(stream.receive(records.redelivered(9)))
    stream.end()
    assert not list(stream.receive(records.subscribed(OLD)))
    assert [type(each) for each in stream.receive(record())] == [Notification]


def test_reconnect_is_a_gap_only_if_the_group_is_new() -> None:
    stream = member(Reports())
    stream.end()
    assert not list(stream.receive(record("before") + records.subscribed(OLD)))
    stream.end()
    assert [type(each) for each in stream.receive(records.subscribed(NEW))] == [Gap]


def test_unread_data_without_a_window_is_a_gap() -> None:
    stream = Stream("/the/socket", None)
    assert not list(stream.receive(records.subscribed(OLD)))
    stream.end(is_complete=True)
    assert not list(stream.receive(records.subscribed(OLD)))
    stream.end()
    assert [type(each) for each in stream.receive(records.subscribed(OLD))] == [Gap]
