# SPDX-License-Identifier: Apache-2.0
"""The pacing of subscribers' requests, by interval and by share of processor time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from notif_relayd.access.request_pacer import BURST, INTERVAL, MIN_COST, SHARE, RequestPacer


class Schedule:
    """A simulated loop with a clock and a processor-time clock, and a pacer that uses them.

    Args:
        cost: Processor time of a request, in seconds.
        later: Processor time that it takes later, in seconds.
    """

    def __init__(self, cost: float = 0.0, later: float = 0.0) -> None:
        self.now = 1000.0
        self.used = 0.0
        self.served: list[int] = []
        self.cost = cost
        self.later = later
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
        """Advance the clock, and call the callbacks that become due."""
        end = self.now + seconds
        while self._deadlines and min(each[0] for each in self._deadlines) <= end:
            first = min(self._deadlines, key=lambda each: each[0])
            self._deadlines.remove(first)
            self.now, callback = first
            callback()
        self.now = end

    def _serve(self, number: int) -> float:
        self.served.append(number)
        self.used += self.cost
        return self.later


def test_single_request_is_handled_at_once() -> None:
    simulated = Schedule()
    assert not simulated.pacer.enter(1000, 1)
    assert simulated.served == [1]


def test_requests_are_handled_at_an_interval() -> None:
    simulated = Schedule()
    waits = [simulated.pacer.enter(1000, number) for number in range(4)]
    assert waits == [False, True, True, True]
    for number in range(1, 4):
        simulated.advance(INTERVAL)
        assert simulated.served == list(range(number + 1))


@pytest.mark.parametrize("cost", [0.0, MIN_COST, 0.001, 0.02])
def test_requests_of_a_user_keep_to_their_share(cost: float) -> None:
    simulated = Schedule(cost)
    for number in range(10_000):
        simulated.pacer.enter(1000, number)
    simulated.advance(10.0)
    charged = len(simulated.served) * max(cost, MIN_COST)
    assert BURST + 10 * SHARE - 2 * max(cost, MIN_COST) <= charged
    assert charged <= BURST + 10 * SHARE + max(cost, MIN_COST)


def test_users_are_served_in_turn() -> None:
    simulated = Schedule()
    for number in range(5):
        simulated.pacer.enter(1000, number)
    simulated.pacer.enter(1001, 100)
    simulated.pacer.enter(1002, 200)
    simulated.advance(3.01 * INTERVAL)
    assert simulated.served == [0, 1, 100, 200]


def test_time_that_a_request_takes_later_is_charged() -> None:
    simulated = Schedule(later=2 * BURST)
    for number in range(3):
        simulated.pacer.enter(1000, number)
    simulated.advance(0.9 * BURST / SHARE)
    assert simulated.served == [0]
    simulated.advance(0.2 * BURST / SHARE)
    assert simulated.served == [0, 1]


def test_exhausted_user_does_not_delay_others() -> None:
    simulated = Schedule(cost=2 * BURST)
    for number in range(3):
        simulated.pacer.enter(1000, number)
    assert simulated.served == [0]
    simulated.advance(1.0)
    simulated.cost = 0.0
    assert not simulated.pacer.enter(1001, 100)
    assert simulated.served == [0, 100]
    simulated.advance(BURST / SHARE)
    assert simulated.served[:3] == [0, 100, 1]


def test_disconnected_subscriber_is_not_served() -> None:
    simulated = Schedule()
    for number in range(3):
        simulated.pacer.enter(1000, number)
    simulated.pacer.leave(1000, 1)
    simulated.pacer.leave(1000, 2)
    simulated.pacer.leave(1000, 7)
    simulated.pacer.leave(1001, 2)
    simulated.advance(10.0)
    assert simulated.served == [0]


def test_idle_users_are_not_tracked() -> None:
    simulated = Schedule()
    for uid in range(1000):
        simulated.pacer.enter(uid, uid)
        simulated.advance(1.0)
    assert simulated.pacer.tracked_users < 10
