# SPDX-License-Identifier: Apache-2.0
"""Limits on the processor time of requests and expensive records in one loop iteration.

Other tests do not notice if such a limit fails: every answer still arrives, only late.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest

from notif_relayd.access import request_pacer
from notif_relayd.control import server
from notif_relayd.control.server import ControlServer
from notif_relayd.ingest import expensive_time
from notif_relayd.ingest.intake import READ_SIZE
from support.loop_harness import (
    LOG,
    LoopHarness,
    read_available,
    use_clock,
)
from support.records import record


@pytest.mark.parametrize("at_once", [True, False])
def test_requests_are_handled_one_at_a_time_and_paced(
    harness: LoopHarness, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    clock: SimpleNamespace = SimpleNamespace(
        monotonic=lambda: clock.now, thread_time=lambda: 0.0, now=1000.0
    )
    use_clock(harness, monkeypatch, clock)
    pauses: list[tuple[float, Callable[[], None]]] = []
    wake = partial(harness.loop.call_in, 0, lambda: None)
    monkeypatch.setattr(harness.loop, "call_in", lambda *pause: pauses.append(pause))
    harness.fanout()
    clients = [harness.connect() for _ in range(3)]
    for each in clients:
        each.setblocking(False)
    harness.loop.run_once()
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
            harness.loop.run_once()
        answers = b"".join(map(read_available, set(clients))).splitlines()
        assert len(answers) == 1
        answered += 1
        clock.now += request_pacer.INTERVAL
        if answered < 3:
            seconds, resume = pauses.pop()
            assert seconds == pytest.approx(request_pacer.INTERVAL)
            resume()
    assert answered == 3


@pytest.mark.parametrize("what", ["values", "lines"])
def test_expensive_records_delay_their_user(
    harness: LoopHarness, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    excess = 0.1
    cost = expensive_time.EXPENSIVE_BURST + excess
    times = iter([0.0, cost])
    clock: SimpleNamespace = SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    clock.thread_time = lambda: next(times, cost)
    use_clock(harness, monkeypatch, clock)
    costs = iter([cost] if what == "values" else [])
    sent = record() if what == "values" else record(payload="?").replace(b"?", rb"\ud800")
    reading = harness.intake(lambda *_: next(costs, 0.0))
    producers = [harness.connect() for _ in range(2)]
    harness.run_once()
    wake = partial(harness.loop.call_in, 0, lambda: None)
    pauses: list[tuple[float, Callable[[], None]]] = []
    monkeypatch.setattr(harness.loop, "call_in", lambda *pause: pauses.append(pause))
    producers[0].sendall(sent)
    harness.run_once()
    producers[1].sendall(record())
    harness.run_once()
    assert reading.received == 1
    [(seconds, resume)] = pauses
    assert seconds == pytest.approx(excess / expensive_time.EXPENSIVE_SHARE)
    clock.now += 1.01 * seconds
    resume()
    wake()
    harness.run_once()
    assert reading.received == 2
    assert all(each.read_size < READ_SIZE for each in reading.producers.values())


def test_answers_to_one_user_are_limited_to_a_time_share(
    harness: LoopHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock: SimpleNamespace = SimpleNamespace(
        monotonic=lambda: clock.now, thread_time=lambda: clock.used, now=1000.0, used=0.0
    )
    use_clock(harness, monkeypatch, clock)

    def status() -> int:
        clock.used += server.BURST + server.SHARE  # the burst and one second's share
        return 1

    pauses: list[tuple[float, Callable[[], None]]] = []
    wake = partial(harness.loop.call_in, 0, lambda: None)
    monkeypatch.setattr(harness.loop, "call_in", lambda *pause: pauses.append(pause))
    server_ = ControlServer(harness.loop, LOG, {"status": status})
    harness.parts.append(server_)
    server_.listen(harness.listener)
    client = harness.connect()
    client.sendall(b'{"method": "status"}\n' * 2)

    def answers() -> int:
        for _ in range(5):
            wake()
            harness.loop.run_once()
        client.setblocking(False)
        return read_available(client).count(b"result")

    assert answers() == 1
    [(seconds, resume)] = pauses
    assert seconds == pytest.approx(1.0)
    clock.now += 1.01 * seconds
    resume()
    assert answers() == 1
