# SPDX-License-Identifier: Apache-2.0
"""Limits on connections: which users may connect, how many at once, and how often."""

from __future__ import annotations

import dataclasses

import pytest

from notif_relayd.access.admission import BURST_SECONDS, Admission
from notif_relayd.access.policy import AccessRule, Policy
from notif_relayd.peer import Peer
from notif_relayd.records.filters import Filter
from notif_relayd.settings import AllowList, ConnectionLimits

LIMITS = ConnectionLimits(
    "max_subscribers", max_connections=5, per_user=3, rate=1000, socket="public"
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def peer(uid: int = 1000, *groups: int) -> Peer:
    return Peer(1, uid, uid, "test", frozenset({uid, *groups}))


def test_connection_limit_counts_current_connections() -> None:
    admission = Admission(LIMITS)
    connected = [peer(uid) for uid in range(5)]
    assert [admission.refusal(each) for each in connected] == [None] * 5
    assert admission.refusal(peer(5)) == "max_subscribers = 5 is reached"
    admission.leave(connected[0])
    assert admission.refusal(peer(5)) is None
    assert admission.refusal(peer(6)) is not None


def test_limit_per_user_leaves_room_for_others() -> None:
    admission = Admission(LIMITS)
    assert [admission.refusal(peer()) for _ in range(3)] == [None] * 3
    assert admission.refusal(peer()) == "uid 1000 has reached max_connections_per_user = 3"
    assert admission.refusal(peer(1001)) is None
    admission.leave(peer())
    assert admission.refusal(peer()) is None


def test_inherited_connection_is_counted() -> None:
    admission = Admission(LIMITS)
    for _ in range(7):
        admission.enter(peer())
    assert admission.refusal(peer()) is not None
    for _ in range(5):
        admission.leave(peer())
    assert admission.refusal(peer()) is None


def test_connection_rate_allows_a_burst_only() -> None:
    clock = Clock()
    admission = Admission(dataclasses.replace(LIMITS, rate=2), clock)
    burst = int(2 * BURST_SECONDS)
    assert [admission.take_token(1000) for _ in range(burst)] == [None] * burst
    assert admission.take_token(1000) == (
        "uid 1000 exceeds max_connection_rate = 2 connections per second"
    )
    assert admission.take_token(1001) is None
    clock.now += 0.5
    assert admission.take_token(1000) is None
    assert admission.take_token(1000) is not None
    clock.now += 10 * BURST_SECONDS
    assert [admission.take_token(1000) for _ in range(burst)] == [None] * burst
    assert admission.take_token(1000) is not None


def test_idle_users_take_no_memory() -> None:
    clock = Clock()
    admission = Admission(LIMITS, clock)
    for uid in range(1000):
        assert admission.take_token(uid) is None
        assert admission.refusal(peer(uid)) is None
        admission.leave(peer(uid))
        clock.now += 0.1
    # At 10 users per second, only those of the last BURST_SECONDS have a bucket that is not full.
    assert admission.tracked_users <= 10 * BURST_SECONDS + 1


@pytest.mark.parametrize(
    ("user", "admitted"),
    [
        (peer(0), True),
        (peer(7), True),
        (peer(8), False),
        (peer(8, 70), True),
        (peer(70), True),  # by its primary group
        (peer(8, 7), False),
    ],
)
def test_allow_list_admits_users_group_members_and_root(user: Peer, admitted: bool) -> None:
    allowed = AllowList(frozenset({7}), frozenset({70}))
    admission = Admission(dataclasses.replace(LIMITS, allowed=allowed))
    refusal = admission.refusal(user)
    assert (refusal is None) == admitted
    if refusal is not None:
        assert refusal == f"uid {user.uid} is not in public_allow_users or public_allow_groups"


def test_changed_limits_apply_to_new_connections() -> None:
    admission = Admission(LIMITS)
    assert [admission.refusal(peer()) for _ in range(3)] == [None] * 3
    admission.limits = dataclasses.replace(LIMITS, per_user=1)
    assert admission.refusal(peer()) is not None
    admission.leave(peer())
    admission.leave(peer())
    assert admission.refusal(peer()) is not None
    admission.leave(peer())
    assert admission.refusal(peer()) is None


def test_policy_combines_the_rules_of_all_groups() -> None:
    compute, volume = Filter.parse({"event_type": ["c*"]}), Filter.parse({"event_type": ["v*"]})
    policy = Policy([AccessRule(70, compute), AccessRule(71, volume)])
    assert policy.allowed(peer(1, 70)) == frozenset({compute})
    assert policy.allowed(peer(1, 70, 71)) == frozenset({compute, volume})
    assert policy.allowed(peer(1, 72)) == frozenset()
    assert policy.allowed(peer(0)) is None
    assert Policy().allowed(peer(1)) is None
