# SPDX-License-Identifier: Apache-2.0
"""Groups of a relay that restarts or is killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.groups import join, numbers, request, wait_group
from support.records import record
from support.service_manager import ManagedRelay, managed_relay
from support.waiting import wait_until


@pytest.fixture
def relay(directory: Path) -> Iterator[ManagedRelay]:
    with managed_relay(directory) as relay:
        yield relay


def test_groups_survive_a_restart(relay: ManagedRelay) -> None:
    with relay.produce() as producer:
        join(relay, group="held", hold=100, filter={"event_type": ["test.*"]}).close()
        with join(relay, window=3) as one, join(relay) as two:
            producer.sendall(b"".join(record(number=number) for number in range(3)))
            assert numbers(one, 3) == [0, 1, 2]
            request(one, done=1)
            wait_until(lambda: relay.request("groups")[1]["unfinished"] == 2, "1 is finished")
            before = relay.request("groups")
            relay.restart()
            after = relay.request("groups")
            for each in (*before, *after):
                each["hold_seconds"] = each["hold_seconds"] and 100
            assert after == before
            request(one, done=2)
            wait_until(lambda: relay.request("groups")[1]["unfinished"] == 1, "2 are finished")
            one.close()
            assert two.notification()["payload"] == {"records": 1}
            assert numbers(two, 1) == [2]
            producer.sendall(record(number=3))
            assert numbers(two, 1) == [3]
        with join(relay, group="held") as held:
            assert numbers(held, 4) == [0, 1, 2, 3]


def test_members_that_end_during_a_restart_leave(relay: ManagedRelay) -> None:
    with relay.produce() as producer, join(relay, window=3, hold=100) as one:
        producer.sendall(b"".join(record(number=number) for number in range(3)))
        assert numbers(one, 3) == [0, 1, 2]
        relay.process.send_signal(signal.SIGSTOP)
        one.close()
        relay.process.terminate()
        relay.process.send_signal(signal.SIGCONT)
        relay.process.wait()
        relay.start()
        wait_group(relay, members=0, lag=3)
        with join(relay) as two:
            assert two.notification()["payload"] == {"records": 3}
            assert numbers(two, 3) == [0, 1, 2]


def test_a_group_gets_a_gap_after_a_crash(relay: ManagedRelay) -> None:
    with join(relay, window=3, hold=100) as member:
        relay.wait_stored("s1")
        relay.kill()
        assert member.line() == b"\n"
        gap = member.notification()
        assert gap["payload"] == {"dropped": None, "reason": "relay_restarted"}
        answer = member.notification()["payload"]
        assert answer.items() >= {"group": "g", "window": 3, "hold": 100}.items()
        with relay.produce() as producer:
            producer.sendall(record(number=0))
            assert numbers(member, 1) == [0]
            # A report that the relay which crashed did not read is ignored.
            request(member, done=7, group_since="2026-01-31 12:00:00")
            request(member, done=1, group_since=answer["group_since"])
            wait_group(relay, members=1, unfinished=0)
