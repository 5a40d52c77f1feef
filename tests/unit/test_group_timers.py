# SPDX-License-Identifier: Apache-2.0
"""Groups that begin and end without a limit cost the relay a limited amount of memory."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from notif_relayd.net.kernel import SYSTEM
from notif_relayd.net.loop import Deadline, Events, Loop
from support.loop_harness import LoopHarness


class SimulatedTime:
    """Waits without sleeping: time passes at each iteration."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, epoll: int, _seconds: float) -> tuple[float, Events]:
        self.now += 0.01
        with select.epoll.fromfd(os.dup(epoll)) as polled:
            return self.now, polled.poll(0)


class CountingLoop(Loop):
    """A loop that counts its deadlines."""

    deadlines = 0

    def call_in(self, seconds: float, callback: Callable[[], None]) -> Deadline:
        def call() -> None:
            self.deadlines -= 1
            callback()

        self.deadlines += 1
        return super().call_in(seconds, call)

    def cancel(self, deadline: Deadline) -> None:
        self.deadlines -= 1
        super().cancel(deadline)


def test_held_groups_share_one_deadline(tmp_path: Path) -> None:
    time = SimulatedTime()
    loop = CountingLoop(time, replace(SYSTEM, monotonic=time.monotonic))
    harness = LoopHarness(tmp_path, 100, loop)
    fanout = harness.fanout()
    for number in range(100):
        hold = 300 - 2 * number if number % 2 else 0.01
        member = harness.connect()
        member.sendall(json.dumps({"group": f"g{number % 3}", "hold": hold}).encode() + b"\n")
        while not any(each.subscribers for each in fanout.groups):
            harness.run_once()
        member.close()
        while fanout.subscribers:
            harness.run_once()
        # The others are of the pacing of requests.
        assert loop.deadlines <= 4
    assert fanout.groups
    time.now += 300
    harness.run_once()
    assert not fanout.groups
    harness.close()
    loop.close()
