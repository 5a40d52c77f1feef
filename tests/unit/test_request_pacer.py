# SPDX-License-Identifier: Apache-2.0
"""When the requests of subscribers are handled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from notif_relayd.access.request_pacer import BURST, INTERVAL, MIN_COST, SHARE, RequestPacer


class Schedule:
    """A loop and both clocks; time passes only when a deadline is waited for.

    Args:
        cost: seconds of processor time that a request takes.
    """

    def __init__(self, cost: float = 0.0) -> None:
        self.now = 1000.0
        self.used = 0.0
        self.served: list[int] = []
        self.cost = cost
        self._deadlines: list[tuple[float, Callable[[], None]]] = []
        self.pacer = RequestPacer(self.call_in, self, self._serve)

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.used

    def call_in(self, seconds: float, callback: Callable[[], None]) -> None:
        assert seconds >= 0
        self._deadlines.append((self.now + seconds, callback))
        assert len(self._deadlines) < 5

    def advance(self, seconds: float) -> None:
        """Let all deadlines of the next seconds pass."""
        end = self.now + seconds
        while self._deadlines and min(each[0] for each in self._deadlines) <= end:
            first = min(self._deadlines, key=lambda each: each[0])
            self._deadlines.remove(first)
            self.now, callback = first
            callback()
        self.now = end

    def _serve(self, number: int) -> None:
        self.served.append(number)
        self.used += self.cost


def test_single_request_is_handled_at_once() -> None:
    paced = Schedule()
    assert not paced.pacer.enter(1000, 1)
    assert paced.served == [1]


def test_requests_are_handled_at_an_interval() -> None:
    paced = Schedule()
    waits = [paced.pacer.enter(1000, number) for number in range(4)]
    assert waits == [False, True, True, True]
    for number in range(1, 4):
        paced.advance(INTERVAL)
        assert paced.served == list(range(number + 1))


@pytest.mark.parametrize("cost", [0.0, MIN_COST, 0.001, 0.02])
def test_requests_of_a_user_keep_to_their_share(cost: float) -> None:
    paced = Schedule(cost)
    for number in range(10_000):
        paced.pacer.enter(1000, number)
    paced.advance(10.0)
    charged = len(paced.served) * max(cost, MIN_COST)
    assert BURST + 10 * SHARE - 2 * max(cost, MIN_COST) <= charged
    assert charged <= BURST + 10 * SHARE + max(cost, MIN_COST)


def test_users_are_served_in_turn() -> None:
    paced = Schedule()
    for number in range(5):
        paced.pacer.enter(1000, number)
    paced.pacer.enter(1001, 100)
    paced.pacer.enter(1002, 200)
    paced.advance(3.01 * INTERVAL)
    assert paced.served == [0, 1, 100, 200]


def test_exhausted_user_does_not_delay_others() -> None:
    paced = Schedule(cost=2 * BURST)
    for number in range(3):
        paced.pacer.enter(1000, number)
    assert paced.served == [0]
    paced.advance(1.0)
    paced.cost = 0.0
    assert not paced.pacer.enter(1001, 100)
    assert paced.served == [0, 100]
    paced.advance(BURST / SHARE)
    assert paced.served[:3] == [0, 100, 1]


def test_disconnected_subscriber_is_not_served() -> None:
    paced = Schedule()
    for number in range(3):
        paced.pacer.enter(1000, number)
    paced.pacer.leave(1000, 1)
    paced.pacer.leave(1000, 2)
    paced.pacer.leave(1000, 7)
    paced.pacer.leave(1001, 2)
    paced.advance(10.0)
    assert paced.served == [0]


def test_users_are_forgotten() -> None:
    paced = Schedule()
    for uid in range(1000):
        paced.pacer.enter(uid, uid)
        paced.advance(1.0)
    assert len(paced.pacer._buckets) < 10  # noqa: SLF001 - memory is what is tested
