# SPDX-License-Identifier: Apache-2.0
"""Groups and their members in the saved state are restored completely or refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from notif_relay.records import MAX_DROPPED
from notif_relayd.fanout.groups.missing import Missing
from notif_relayd.fanout.groups.run import Run
from notif_relayd.fanout.saved_state import (
    GROUP_MEMBER,
    ChunkState,
    CursorState,
    FanoutState,
    GroupState,
    MemberState,
    SegmentState,
    StreamState,
    SubscriberState,
    SubscriptionState,
    TornRecordState,
    ViewState,
)
from notif_relayd.handover.errors import StateError
from notif_relayd.handover.state import State, decode, encode
from notif_relayd.ingest.saved_state import IntakeState
from notif_relayd.peer import Peer

PEER = Peer(17, 1000, 1000, "consumer", frozenset({1000}))
SINCE = "2026-01-01 00:00:00.000001"


def member(**changed: Any) -> MemberState:
    """Return a member of the group "g" that has got nothing yet, apart from the changes."""
    state = MemberState(
        *(1000, "g", ViewState(None), None, 1.5, [], [], [], None, 0, 0, 0),
        attached=True,
        left=False,
    )
    for name, value in changed.items():
        setattr(state, name, value)
    return state


def subscriber(
    number: int, subscription: SubscriptionState, pending: SubscriptionState | None = None
) -> SubscriberState:
    return SubscriberState(number, PEER, 7.5, 70, 9, 0, b"", True, subscription, pending)


def example() -> State:
    """Return a state with groups."""
    torn = CursorState(0, None, b"", None, 0, 0, 2)
    rest, answer = CursorState(0, 0, b"rest\n", None, 0), CursorState(0, None, b"answer\n", None, 0)
    windowed = member(
        window=5,
        unfinished=[Run(3, 6, 2)],
        gaps=[(3, Missing(lost=7, attempts=1, message_id="a")), (4, Missing(unknown=1))],
        unsent=[Run(4, 8, 1)],
        taken=9,
        sent=6,
        finished=2,
        has_begun=True,
    )
    return State(
        9,
        IntakeState(12, 3456, {}, []),
        FanoutState(
            *(3, 40, 2, 8000),
            [
                StreamState({"event_type": ["a.*"]}, 8, None, [ViewState({"priority": ["INFO"]})]),
                StreamState(None, 12),
            ],
            [ChunkState(0, b"1\n" * 4, 4), ChunkState(1, b"2\n" * 6, 6)],
            [
                subscriber(3, SubscriptionState(GROUP_MEMBER, torn, 900, windowed)),
                subscriber(
                    4,
                    SubscriptionState(GROUP_MEMBER, rest, 0, member(left=True)),
                    SubscriptionState(GROUP_MEMBER, answer, 0, member(attached=False)),
                ),
                subscriber(5, SubscriptionState(GROUP_MEMBER, None, 0, member())),
            ],
            torn=[TornRecordState(b"torn\n")],
            groups=[
                GroupState(
                    1000,
                    "g",
                    [SegmentState(3, 0, 8, 8), SegmentState(4, 1, 10, None)],
                    [Run(3, 5, 1, 1), Run(4, 7, 1)],
                    *(Missing(1, 2, attempts=1), Missing(undeliverable=3, attempts=5), 5, 3),
                    held_until=None,
                    since=SINCE,
                ),
                GroupState(
                    1000, "held", [SegmentState(1, 1, 9, None)], [], None, None, 0, 0, 700.5, SINCE
                ),
            ],
            groups_dropped=4,
            absent=[member(window=1, unfinished=[Run(4, 9, 1)], taken=1, sent=1)],
        ),
    )


def encoded(state: State) -> bytes:
    return b"".join(encode(state))


def test_decode_reverses_encode() -> None:
    assert decode(encoded(example())) == example()


def test_members_without_connections_are_absent() -> None:
    state = decode(encoded(example()), {5})
    assert [each.id for each in state.fanout.subscribers] == [5]
    assert len(state.fanout.absent) == 4
    assert state.fanout.streams_in_use == {0, 1}


PARTS: dict[str, Callable[[FanoutState], object]] = {
    "group": lambda fanout: fanout.groups[0],
    "first segment": lambda fanout: fanout.groups[0].segments[0],
    "last segment": lambda fanout: fanout.groups[0].segments[1],
    "held group": lambda fanout: fanout.groups[1],
    "subscription": lambda fanout: fanout.subscribers[0].subscription,
    "cursor": lambda fanout: fanout.subscribers[0].subscription.cursor,
    "member": lambda fanout: fanout.subscribers[0].subscription.member,
    "former member": lambda fanout: fanout.subscribers[1].subscription.member,
    "pending cursor": lambda fanout: fanout.subscribers[1].subscriptions[1].cursor,
    "idle subscription": lambda fanout: fanout.subscribers[2].subscription,
    "absent member": lambda fanout: fanout.absent[0],
}

CONTRADICTIONS: list[tuple[str, str, dict[str, Any]]] = [
    ("same name", "held group", {"name": "g"}),
    ("hold is not finite", "group", {"held_until": float("nan")}),
    ("missing records is negative", "group", {"missing": Missing(1, -1)}),
    ("missing records is negative", "group", {"deferred": Missing(1, attempts=-1)}),
    ("missing records is negative", "member", {"missing": Missing(-1, 2)}),
    ("missing records is too large", "group", {"missing": Missing(0, MAX_DROPPED + 1)}),
    ("gap record announces nothing", "group", {"deferred": Missing(attempts=2)}),
    ("gap record announces nothing", "member", {"gaps": [(3, Missing()), (4, Missing(1))]}),
    ("message_id is too long", "group", {"missing": Missing(1, message_id="x" * 37)}),
    ("not in order", "member", {"gaps": [(4, Missing(1)), (4, Missing(1))]}),
    ("not in order", "member", {"gaps": [(1, Missing(1)), (4, Missing(1))]}),
    ("not in order", "member", {"gaps": [(4, Missing(1)), (6, Missing(1))]}),
    ("member has a wrong number of records", "member", {"gaps": [(4, Missing(1))]}),
    ("records of a group is negative", "group", {"dropped": -1}),
    ("records of a group is negative", "group", {"redelivered": -1}),
    ("group reads no stream", "group", {"segments": []}),
    ("not consecutive", "last segment", {"number": 5}),
    ("group reads a missing stream", "last segment", {"stream": 2}),
    ("group reads a missing stream", "last segment", {"stream": -1}),
    ("group is beyond its end", "last segment", {"next_seq": 13}),
    ("group is beyond its end", "last segment", {"next_seq": -1}),
    ("group is beyond its end", "first segment", {"stop_seq": 7}),
    ("group is beyond its end", "first segment", {"stop_seq": 9}),
    ("several streams, or none", "first segment", {"stop_seq": None}),
    ("several streams, or none", "last segment", {"stop_seq": 12}),
    ("waiting records are not in order", "group", {"waiting": [Run(4, 7, 1), Run(3, 5, 1)]}),
    ("missing part of a stream", "group", {"waiting": [Run(2, 5, 1)]}),
    ("missing part of a stream", "member", {"unsent": [Run(5, 5, 1)]}),
    ("have a wrong number", "group", {"waiting": [Run(3, 5, 0)]}),
    ("have a wrong number", "group", {"waiting": [Run(3, -1, 2)]}),
    ("records are beyond their end", "group", {"waiting": [Run(4, 9, 2)]}),
    ("records are beyond their end", "member", {"unsent": [Run(4, 10, 1)]}),
    ("attempts is negative", "group", {"waiting": [Run(3, 5, 1, -1)]}),
    ("or two members have them", "group", {"waiting": [Run(3, 4, 2), Run(3, 5, 1)]}),
    ("or two members have them", "group", {"waiting": [Run(3, 6, 1)]}),
    ("or two members have them", "absent member", {"unfinished": [Run(4, 8, 1)]}),
    ("filter of a member is invalid", "member", {"view": ViewState({"nonsense": ["*"]})}),
    (
        "filter of a member is invalid",
        "absent member",
        {"view": ViewState(None, [{"priority": []}])},
    ),
    ("filter of a member is empty", "member", {"view": ViewState({})}),
    ("in a missing group", "member", {"uid": 1001}),
    ("in a missing group", "absent member", {"name": "h"}),
    ("out of range", "member", {"window": 0}),
    ("out of range", "member", {"window": 65537}),
    ("window is exceeded", "member", {"window": 1}),
    ("window is exceeded", "member", {"window": None}),
    ("finished more than it got", "member", {"finished": 7}),
    ("finished more than it got", "member", {"finished": -1}),
    ("wrong number of records", "member", {"sent": 5}),
    ("number is negative", "member", {"taken": -1}),
    ("number is negative", "former member", {"owed": -1}),
    ("hold of a member is not finite", "member", {"hold": float("inf")}),
    ("group reads a stream", "subscription", {"stream": 0}),
    ("has not left", "former member", {"left": False}),
    ("has no cursor", "subscription", {"cursor": None}),
    ("has no cursor", "idle subscription", {"member": member(attached=False)}),
    ("has no cursor", "idle subscription", {"member": member(missing=Missing(1))}),
    ("is in a chunk", "cursor", {"chunk": 0}),
    ("wrong position", "cursor", {"next": 1}),
    ("wrong end", "cursor", {"until": 1}),
    ("does not end with a newline", "cursor", {"inserted": b"torn"}),
    ("in a missing torn record", "cursor", {"torn": 1}),
    ("starts within a record", "pending cursor", {"torn": 0}),
    ("outside its torn record", "cursor", {"torn_sent": 5}),
]
"""For each rule: the error message, and the part of the state and its fields that break it."""


@pytest.mark.parametrize(
    ("what", "part", "fields"),
    [pytest.param(*each, id=f"{n}: {each[0]}") for n, each in enumerate(CONTRADICTIONS)],
)
def test_inconsistent_groups_are_refused(what: str, part: str, fields: dict[str, Any]) -> None:
    state = copy.deepcopy(example())
    for name, value in fields.items():
        setattr(PARTS[part](state.fanout), name, value)
    with pytest.raises(StateError, match=what):
        decode(encoded(state))
