# SPDX-License-Identifier: Apache-2.0
"""Subscribers and members of groups get the records whose payload matches their pattern."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.groups import join, request
from support.records import record
from support.relay import Subscriber
from support.service_manager import ManagedRelay, managed_relay


@pytest.fixture
def relay(directory: Path) -> Iterator[ManagedRelay]:
    with managed_relay(directory) as relay:
        yield relay


def in_state(state: str, number: int = 0, event_type: str = "test.event") -> bytes:
    payload = {"nova_object.data": {"state": state, "host": f"cmp-{number}"}}
    return record(event_type, payload=payload, number=number)


def wanting(*alternatives: object, **globs: list[str]) -> dict[str, Any]:
    return globs | {"payload": {"nova_object.data.state": [*alternatives]}}


def answer(subscriber: Subscriber) -> Any:
    return subscriber.notification()["payload"]


GAP = record("notif_relayd.gap", "WARN", payload={"dropped": 1, "reason": "producer_congested"})


def test_pattern_is_in_force_over_a_restart_and_a_crash(relay: ManagedRelay) -> None:
    asked = wanting("error", event_type=["a"])
    records = [in_state("error", 1, "a"), in_state("active", 2, "a"), in_state("error", 3, "b")]
    with relay.subscribe() as some, relay.subscribe() as others, relay.produce() as producer:
        request(some, filter=asked)
        assert answer(some) == asked
        request(others, filter=wanting({"not": ["error"]}))
        answer(others)
        producer.sendall(b"".join(records) + GAP)
        assert [some.line(), some.line()] == [records[0], GAP]
        assert [others.line(), others.line()] == [records[1], GAP]
        relay.restart()
        producer.sendall(b"".join(records))
        assert some.line() == records[0]
        assert others.line() == records[1]
        relay.kill()
        producer.sendall(b"".join(records) + GAP)
        assert some.line() == b"\n"
        assert b"relay_restarted" in some.line()
        assert answer(some) == asked
        assert [some.line(), some.line()] == [records[0], GAP]


def test_members_get_what_their_patterns_match(relay: ManagedRelay) -> None:
    with (
        relay.produce() as producer,
        join(relay, filter=wanting("error"), window=9) as errors,
        join(relay, filter=wanting({"not": ["error", "build"]}), window=9) as others,
    ):
        states = ["error", "active", "build", "error", "active"]
        records = [in_state(state, number) for number, state in enumerate(states)]
        for each in records:
            producer.sendall(each)
        producer.sendall(b"".join(records))
        assert errors.lines(4) == [records[0], records[3]] * 2
        assert others.lines(4) == [records[1], records[4]] * 2
        with join(relay, filter=wanting({"glob": "*r*"}), window=9) as next_:
            relay.restart()
            others.close()
            errors.close()
            assert answer(next_) == {"records": 4}
            assert next_.lines(4) == [records[0], records[3]] * 2
            producer.sendall(records[1] + records[0])
            assert next_.line() == records[0]
