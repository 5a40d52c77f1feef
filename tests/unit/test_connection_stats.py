# SPDX-License-Identifier: Apache-2.0
"""Connection statistics: accepted, kept, refused and reconnected clients."""

from __future__ import annotations

import dataclasses

from notif_relayd.access.admission import Admission
from notif_relayd.access.connection_stats import MAX_REMEMBERED, ConnectionStats, Refusal
from notif_relayd.peer import Peer
from notif_relayd.settings import AllowList, ConnectionLimits

LIMITS = ConnectionLimits(
    "max_subscribers", max_connections=3, per_user=2, rate=1000, socket="public"
)


def peer(pid: int = 1, uid: int = 1000) -> Peer:
    return Peer(pid, uid, uid, "test")


def test_reconnect_needs_an_earlier_disconnect() -> None:
    admission = Admission(LIMITS)
    assert admission.refusal(peer(1)) is None
    assert admission.refusal(peer(1)) is None
    assert admission.stats.reconnected == 0
    admission.leave(peer(1))
    assert admission.refusal(peer(2, 1001)) is None
    assert admission.stats.reconnected == 0
    assert admission.refusal(peer(1)) is None
    assert (admission.stats.accepted, admission.stats.reconnected) == (4, 1)


def test_one_disconnect_allows_one_reconnect() -> None:
    counts = ConnectionStats()
    counts.disconnected(peer())
    counts.disconnected(peer())
    counts.connected(peer())
    counts.connected(peer())
    assert counts.reconnected == 1


def test_unknown_pids_are_never_reconnects() -> None:
    counts = ConnectionStats()
    counts.disconnected(peer(0))
    counts.connected(peer(0))
    assert counts.reconnected == 0


def test_number_of_remembered_pids_is_bounded() -> None:
    counts = ConnectionStats()
    counts.disconnected(peer(1))
    counts.disconnected(peer(2))
    counts.disconnected(peer(1))
    for pid in range(3, MAX_REMEMBERED + 2):
        counts.disconnected(peer(pid))
    counts.connected(peer(2))
    assert counts.reconnected == 0
    counts.connected(peer(1))
    assert counts.reconnected == 1


def test_refusals_are_counted_by_reason() -> None:
    admission = Admission(LIMITS)
    for pid in (1, 2, 3):
        admission.refusal(peer(pid))
    admission.refusal(peer(4, 1001))
    admission.refusal(peer(5, 1002))
    admission.limits = dataclasses.replace(LIMITS, rate=0, allowed=AllowList(frozenset({7})))
    admission.refusal(peer(6))
    assert admission.take_token(1003) is None
    assert admission.take_token(1003) is not None
    assert admission.stats.refused == {
        Refusal.PER_USER: 1,
        Refusal.FULL: 1,
        Refusal.NOT_ALLOWED: 1,
        Refusal.RATE: 1,
    }
    assert admission.stats.accepted == 3


def test_inherited_connection_counts_as_kept() -> None:
    admission = Admission(LIMITS)
    admission.enter(peer())
    assert (admission.stats.accepted, admission.stats.kept) == (0, 1)


def test_restored_statistics_have_every_reason() -> None:
    counts, successor = ConnectionStats(), ConnectionStats()
    counts.accepted, counts.reconnected, counts.kept = 5, 3, 2
    counts.refused[Refusal.FULL] = 7
    saved = counts.save()
    assert saved.refused == {"not_allowed": 0, "per_user": 0, "full": 7, "rate": 0}
    saved.refused["added_by_a_newer_version"] = 9
    successor.restore(saved)
    del saved.refused["added_by_a_newer_version"]
    assert successor.save() == saved
    successor.restore(None)
    assert successor.save() == saved
