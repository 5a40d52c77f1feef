# SPDX-License-Identifier: Apache-2.0
"""The state that a relay saves is restored completely or refused."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import json
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notif_relayd.access.connection_stats import ConnectionStatsState
from notif_relayd.access.policy import Policy
from notif_relayd.context import Context
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.fanout.saved_state import (
    ChunkState,
    CursorState,
    FanoutState,
    StreamState,
    SubscriberState,
    SubscriptionState,
    TornRecordState,
)
from notif_relayd.handover.errors import StateError
from notif_relayd.handover.state import State, decode, encode
from notif_relayd.ingest.intake import Intake
from notif_relayd.ingest.saved_state import IntakeState, ProducerState
from notif_relayd.net.loop import Loop
from notif_relayd.net.loop_latency import LoopLatencyState
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.peer import Peer
from notif_relayd.records.gaps import ProducerGapsState
from notif_relayd.settings import ConnectionLimits, GroupLimits
from notif_relayd.systemd.fdstore import FdStore
from notif_relayd.systemd.sdnotify import NotifySocket
from simulation.simulator import Simulation
from support.sockets import connected_pair

GOLDEN = Path(__file__).with_name("state-2.bin")
"""Saved state of version 2, which every later relay must be able to read."""

SEND_TIMEOUT = 20.0
"""Seconds after which a test fails if data does not arrive."""


def example() -> State:
    """Return a state in which every field is used."""
    peer = Peer(17, 1000, 1000, "nova-compute", frozenset({1000, 4}))
    return State(
        9,
        IntakeState(
            12,
            3456,
            {"TORN": 2, "NOT_JSON": 1},
            [
                ProducerState(1, peer, 5.5, 3000, 11, 2, b'{"half', False),
                ProducerState(2, peer, 6.5, 456, 1, 1, b"", True),
            ],
        ),
        FanoutState(
            3,
            40,
            2,
            8000,
            [
                StreamState(None, 12),
                StreamState({"event_type": ["a.*"], "priority": ["ERROR"]}, 3),
                StreamState(None, 2, [{"publisher_id": ["p*"]}]),
            ],
            [
                ChunkState(0, b"one\ntwo\n", 2),
                ChunkState(1, b"one\n", 1),
                ChunkState(0, b"three\n", 1),
            ],
            [
                SubscriberState(
                    3, peer, 7.5, 70, 9, 0, b"", True, SubscriptionState(0, None), None
                ),
                SubscriberState(
                    *(4, peer, 7.5, 70, 9, 0, b'{"fil', True),
                    SubscriptionState(0, CursorState(9, None, b"", 0, 5)),
                    None,
                ),
                SubscriberState(
                    *(5, peer, 7.5, 70, 3, 2, b"", False),
                    SubscriptionState(0, CursorState(4, 12, b"rest\n", None, 0)),
                    SubscriptionState(1, CursorState(2, None, b"answer\n", None, 0)),
                ),
                SubscriberState(
                    *(8, peer, 7.5, 70, 2, 0, b"", True),
                    SubscriptionState(2, CursorState(1, None, b"gap\n", None, 0, 0, 2), 900),
                    None,
                ),
            ],
            torn=[TornRecordState(b"torn\n")],
        ),
    )


def encoded(state: State) -> bytes:
    return b"".join(encode(state))


def test_decode_reverses_encode() -> None:
    assert decode(encoded(example())) == example()


def test_state_of_version_2_can_be_read() -> None:
    assert decode(GOLDEN.read_bytes()) == example()


def test_fields_with_defaults_are_kept() -> None:
    state = example()
    counted = ConnectionStatsState(5, 1, 2, {"full": 3})
    state.intake.connections = state.fanout.connections = counted
    state.intake.producer_gaps = ProducerGapsState(
        {"producer_congested": 4}, {"relay_restarted": 1}
    )
    state.fanout.unknown_gaps = 2
    state.latency = LoopLatencyState([1, 0, 2], 0.5)
    assert decode(encoded(state)) == state


def test_state_of_simulated_relays_survives_a_round_trip() -> None:
    for each in simulated_states():
        assert encoded(decode(each)) == each


def test_unknown_fields_are_ignored() -> None:
    raw = unpack(encoded(example()))
    by_name = {"TORN", "event_type", "publisher_id"}
    for each in list(every_mapping(raw)):
        if not by_name & each.keys():
            each["added_by_a_newer_version"] = {"any": ["thing"]}
    assert decode(pack(raw)) == example()


@pytest.mark.parametrize("version", [0, 1, 3, 2**63])
def test_another_version_is_refused(version: int) -> None:
    raw = unpack(encoded(example()))
    raw[0]["version"] = version
    with pytest.raises(StateError, match=f"version {version}"):
        decode(pack(raw))


def contradictions() -> Iterator[tuple[str, Callable[[State], object]]]:
    """Yield, for each rule of a state, the error message and a function that breaks the rule."""

    def first(state: State) -> ProducerState:
        return state.intake.producers[0]

    def cursor(state: State, which: int = 1) -> CursorState:
        found = state.fanout.subscribers[which].subscription.cursor
        assert found is not None
        return found

    def set_fields(**fields: Any) -> Callable[[object], None]:
        def change(thing: object) -> None:
            for name, value in fields.items():
                setattr(thing, name, value)

        return change

    yield "same ID", lambda s: set_fields(id=3)(first(s))
    yield "ID is out of range", lambda s: set_fields(id=0)(first(s))
    yield "ID is out of range", set_fields(next_id=8)
    yield "timestamp is not finite", lambda s: set_fields(since=float("nan"))(first(s))
    yield "contains a newline", lambda s: set_fields(partial=b"a\nb")(first(s))
    yield "is invalid", lambda s: set_fields(patterns={"nonsense": ["*"]})(s.fanout.streams[1])
    yield "is invalid", lambda s: set_fields(allowed=[{"priority": []}])(s.fanout.streams[2])
    yield "the same filter", lambda s: set_fields(patterns=None)(s.fanout.streams[1])
    yield "a stream is empty", lambda s: set_fields(patterns={})(s.fanout.streams[1])
    yield "belongs to a missing stream", lambda s: set_fields(stream=3)(s.fanout.chunks[0])
    yield "belongs to a missing stream", lambda s: set_fields(stream=-1)(s.fanout.chunks[0])
    yield "within a record", lambda s: set_fields(data=b"one\ntwo")(s.fanout.chunks[0])
    yield "within a record", lambda s: set_fields(data=b"", count=0)(s.fanout.chunks[0])
    yield "wrong number of records", lambda s: set_fields(count=1)(s.fanout.chunks[0])
    yield "more records than it has had", lambda s: set_fields(next_seq=0)(s.fanout.streams[1])
    yield (
        "reads a missing stream",
        lambda s: set_fields(stream=3)(s.fanout.subscribers[0].subscription),
    )
    yield (
        "reads a missing stream",
        lambda s: set_fields(stream=-1)(s.fanout.subscribers[0].subscription),
    )
    yield (
        "has no cursor",
        lambda s: set_fields(pending=SubscriptionState(1, None))(s.fanout.subscribers[1]),
    )
    yield (
        "starts within a record",
        lambda s: set_fields(pending=SubscriptionState(0, cursor(s)))(s.fanout.subscribers[1]),
    )
    yield "ends within a chunk", lambda s: set_fields(until=10)(cursor(s))
    yield "ends within a chunk", lambda s: set_fields(until=-1)(cursor(s))
    yield "ends within a chunk", lambda s: set_fields(chunk=None, next=13, until=13)(cursor(s))
    yield "beyond its end", lambda s: set_fields(chunk=None, next=13)(cursor(s))
    yield "beyond its end", lambda s: set_fields(chunk=None, next=-1)(cursor(s))
    yield "not in a chunk", lambda s: set_fields(chunk=None, next=10)(cursor(s))
    yield "in a missing chunk", lambda s: set_fields(chunk=3)(cursor(s))
    yield "in a missing chunk", lambda s: set_fields(chunk=-1)(cursor(s))
    yield "chunk of another stream", lambda s: set_fields(chunk=1)(cursor(s))
    yield "outside its chunk", lambda s: set_fields(offset=9)(cursor(s))
    yield "outside its chunk", lambda s: set_fields(offset=-1)(cursor(s))
    yield "ends before its chunk does", lambda s: set_fields(until=9)(cursor(s))
    yield "record does not end", lambda s: set_fields(inserted=b"torn")(cursor(s, 2))
    yield "within another record", lambda s: set_fields(inserted=b"answer\n", offset=5)(cursor(s))
    yield "within another record", lambda s: set_fields(torn=0, offset=5)(cursor(s))
    yield "in a missing torn record", lambda s: set_fields(torn=1)(cursor(s, 3))
    yield "in a missing torn record", lambda s: set_fields(torn=-1)(cursor(s, 3))
    yield "outside its torn record", lambda s: set_fields(torn_sent=5)(cursor(s, 3))
    yield "outside its torn record", lambda s: set_fields(torn_sent=-1)(cursor(s, 3))
    yield "torn record does not end", lambda s: set_fields(data=b"torn")(s.fanout.torn[0])
    yield (
        "filter is negative",
        lambda s: set_fields(charge=-1)(s.fanout.subscribers[3].subscription),
    )
    yield (
        "subscriber is too long",
        lambda s: set_fields(request=b"x" * 65537)(s.fanout.subscribers[3]),
    )


def test_disconnected_subscribers_leave_only_their_counts() -> None:
    state = decode(encoded(example()), {3, 8})
    assert [each.id for each in state.fanout.subscribers] == [3, 8]
    assert (state.fanout.delivered, state.fanout.dropped, state.fanout.bytes) == (52, 4, 8140)
    bad = example()
    bad.fanout.streams[1].patterns = {"nonsense": ["*"]}
    assert decode(encoded(bad), {3, 8}).fanout.streams_in_use == {0, 2}


@pytest.mark.parametrize(
    ("what", "spoil"),
    [pytest.param(*each, id=f"{n}: {each[0]}") for n, each in enumerate(contradictions())],
)
def test_inconsistent_state_is_refused(what: str, spoil: Callable[[State], object]) -> None:
    state = copy.deepcopy(example())
    spoil(state)
    with pytest.raises(StateError, match=what):
        decode(encoded(state))


@given(garbage=st.binary())
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(StateError):
        decode(garbage)


def test_state_that_is_cut_off_anywhere_is_refused() -> None:
    data = encoded(example())
    for size in range(len(data)):
        with pytest.raises(StateError):
            decode(data[:size])


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_accepted_state_gives_whole_records_only(
    data: st.DataObject,
) -> None:
    """Change parts of saved states; most of the results are refused, but not all."""
    raw = unpack(data.draw(st.sampled_from(simulated_states())))
    for _ in range(data.draw(st.integers(0, 3))):
        change(raw[1:], data)
    with contextlib.suppress(StateError):
        restore_and_publish(decode(pack(raw)))


def restore_and_publish(state: State) -> None:
    """Restore a state, publish a record, and check the data that subscribers receive."""
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(contextlib.closing(Loop()))
        notify = stack.enter_context(contextlib.closing(NotifySocket(None)))
        descriptors = FdStore(loop, notify, 0, [], {})
        log, ids = RateLimitedLog(logging.getLogger("test")), itertools.count(state.next_id)
        limits = ConnectionLimits("room", 1000, 1000, 10**9)
        context = Context(loop, log, ids, descriptors)
        fanout = Fanout(context, limits, Policy(), 2000, 1 << 20, GroupLimits())
        intake = Intake(context, limits, 300, fanout.publisher.publish)
        clients: dict[int, socket.socket] = {}
        servers: dict[int, socket.socket] = {}
        ids_in_use = [each.id for each in state.intake.producers]
        ids_in_use += [each.id for each in state.fanout.subscribers]
        for number in ids_in_use:
            clients[number], servers[number] = connected_pair(stack)
        intake.restore(state.intake, servers)
        fanout.restore(state.fanout, servers)
        fanout.publisher.publish(b"published\n", [("a.x", "INFO", "p1")])
        read = {each.id: bytearray() for each in state.fanout.subscribers}
        loop.call_in(SEND_TIMEOUT, lambda: pytest.fail("the data does not arrive"))
        while not fanout.drained:
            loop.run_once()
            read_all(read, clients)
        read_all(read, clients)
        intake.close()
        fanout.close()
        for each in state.fanout.subscribers:
            assert_whole_lines(bytes(read[each.id]), each, state.fanout)


def read_all(read: dict[int, bytearray], clients: dict[int, socket.socket]) -> None:
    for number in read:
        with contextlib.suppress(OSError):
            read[number] += clients[number].recv(1 << 20)


def assert_whole_lines(got: bytes, subscriber: SubscriberState, fanout: FanoutState) -> None:
    assert not got or got.endswith(b"\n")
    whole = {b"published"}
    for chunk in fanout.chunks:
        whole.update(chunk.data.split(b"\n"))
    for each in (subscriber.subscription, subscriber.pending):
        if each is not None and each.cursor is not None:
            whole.update(each.cursor.inserted.split(b"\n"))
    # The first line may be the remainder of a record that was sent in part.
    for line in got.split(b"\n")[1:-1]:
        assert line in whole or json.loads(line)["event_type"].startswith("notif_relayd.")


def change(thing: Any, data: st.DataObject) -> None:
    """Replace a random part of a decoded state."""
    places: list[tuple[Any, Any]] = [
        (each, key)
        for each in [*every_mapping(thing), *every_list(thing)]
        for key in (each if isinstance(each, dict) else range(len(each)))
    ]
    holder, key = data.draw(st.sampled_from(places))
    new = data.draw(
        st.one_of(
            st.integers(-1, 40),
            st.integers(-(2**63), 2**64 - 1),
            st.none(),
            st.booleans(),
            st.sampled_from([b"", b"\n", b"x", b"x\ny\n", b"{}\n" * 9]),
            st.sampled_from([each[k] for each, k in places if type(each) is type(holder)]),
        )
    )
    holder[key] = copy.deepcopy(new)


def every_mapping(thing: Any) -> Iterator[dict[str, Any]]:
    if isinstance(thing, dict):
        yield thing
    for each in thing.values() if isinstance(thing, dict) else thing:
        if isinstance(each, (dict, list)):
            yield from every_mapping(each)


def every_list(thing: Any) -> Iterator[list[Any]]:
    if isinstance(thing, list):
        yield thing
    for each in thing.values() if isinstance(thing, dict) else thing:
        if isinstance(each, (dict, list)):
            yield from every_list(each)


def unpack(data: bytes) -> list[dict[str, Any]]:
    raw = []
    while data:
        size = int.from_bytes(data[:4], "big")
        raw.append(msgspec.msgpack.decode(data[4 : 4 + size]))
        data = data[4 + size :]
    return raw


def pack(raw: list[dict[str, Any]]) -> bytes:
    pieces = [msgspec.msgpack.encode(each) for each in raw]
    return b"".join(len(each).to_bytes(4, "big") + each for each in pieces)


@functools.cache
def simulated_states() -> list[bytes]:
    """Return the saved states of simulated relays that are restarted at random moments."""
    states = []
    for seed in range(60):
        simulation = Simulation(seed)
        simulation.run()
        states += simulation.states
    assert len(states) > 60
    return states
