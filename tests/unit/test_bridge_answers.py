# SPDX-License-Identifier: Apache-2.0
"""Tests of what the targets of the bridge share: the order of answers, and the backoff."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relayd_bridge.brokers.answers import Answers
from notif_relayd_bridge.brokers.backoff import MAX_BACKOFF, MIN_BACKOFF, Backoff


class Reports:
    """Events that lists the answers one by one: None for a confirmation, or the refusal."""

    def __init__(self) -> None:
        self.answers: list[str | None] = []
        self.calls = 0
        self.on_confirmed: Callable[[], object] = lambda: None

    def connected(self) -> None:
        raise AssertionError("connected")

    def failed(self, reason: str) -> None:
        raise AssertionError(reason)

    def confirmed(self, count: int) -> None:
        assert count > 0
        self.calls += 1
        self.answers += [None] * count
        self.on_confirmed()

    def refused(self, reason: str) -> None:
        self.calls += 1
        self.answers.append(reason)


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)), st.sets(st.integers(0, 7)))
def test_answers_in_any_order_are_reported_in_order(
    order: list[int], refused: set[int], pauses: set[int]
) -> None:
    answers, reports = Answers(), Reports()
    assert [answers.sent() for _ in order] == sorted(order)
    for position, number in enumerate(order):
        answers.answer(number, str(number) if number in refused else None)
        if position in pauses:
            answers.report(reports)
            known = set(order[: position + 1])
            assert len(reports.answers) == min(set(range(9)) - known)
    answers.report(reports)
    assert reports.answers == [str(each) if each in refused else None for each in sorted(order)]
    assert answers.unanswered == 0


def test_adjacent_confirmations_are_one_report() -> None:
    answers, reports = Answers(), Reports()
    for _ in range(5):
        answers.answer(answers.sent())
    assert answers.report(reports)
    assert (reports.answers, reports.calls) == ([None] * 5, 1)
    assert not answers.report(reports)


def test_unknown_and_repeated_answers_are_ignored() -> None:
    answers, reports = Answers(), Reports()
    for number in (-1, 0, 7):
        answers.answer(number)
    answers.sent()
    assert not answers.report(reports)
    answers.answer(0)
    answers.answer(0)
    answers.report(reports)
    answers.answer(0)
    assert not answers.report(reports)
    assert reports.answers == [None]


def test_late_answers_after_a_failure_are_ignored() -> None:
    answers, reports = Answers(), Reports()
    old = answers.sent()
    early = answers.sent()
    answers.answer(early, "early")
    answers.forget()
    assert answers.unanswered == 0
    new = answers.sent()
    answers.answer(old, "old")
    assert not answers.report(reports)
    answers.answer(new)
    answers.report(reports)
    assert reports.answers == [None]


def test_messages_sent_within_a_report_are_counted() -> None:
    answers, reports = Answers(), Reports()
    reports.on_confirmed = answers.sent
    answers.answer(answers.sent())
    answers.report(reports)
    assert answers.unanswered == 1


def test_limit_of_the_pause_grows_to_its_maximum() -> None:
    backoff = Backoff(choose=lambda _, limit: limit)
    pauses = [backoff.pause() for _ in range(12)]
    assert pauses[:3] == [MIN_BACKOFF, 2 * MIN_BACKOFF, 4 * MIN_BACKOFF]
    assert pauses[-1] == MAX_BACKOFF
    assert pauses == sorted(pauses)
    backoff.reset()
    assert backoff.pause() == MIN_BACKOFF


@pytest.mark.parametrize("attempts", [1, 20])
def test_pauses_are_random_below_the_limit(attempts: int) -> None:
    def last_pause() -> float:
        backoff = Backoff()
        return [backoff.pause() for _ in range(attempts)][-1]

    pauses = {last_pause() for _ in range(50)}
    assert len(pauses) > 40
    assert 0 <= min(pauses) <= max(pauses) <= min(MIN_BACKOFF * 2 ** (attempts - 1), MAX_BACKOFF)
