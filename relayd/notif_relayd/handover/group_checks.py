# SPDX-License-Identifier: Apache-2.0
"""Consistency checks of saved groups and their members."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

from notif_relay.group import MAX_WINDOW
from notif_relay.records import MAX_DROPPED
from notif_relayd.fanout.groups.missing import Missing
from notif_relayd.fanout.groups.run import Run
from notif_relayd.fanout.saved_state import (
    GROUP_MEMBER,
    FanoutState,
    GroupState,
    MemberState,
    SubscriptionState,
)
from notif_relayd.handover.errors import require
from notif_relayd.records.filters import FilterError

MESSAGE_ID_SIZE = 36
"""Characters of a UUID as text."""


def check_groups(fanout: FanoutState, newest: list[int]) -> None:
    """Check all groups and the members whose connections have ended.

    Args:
        fanout: the state.
        newest: for each stream, the sequence number after its last record.

    Raises:
        StateError: a group or a member is inconsistent.
    """
    keys = {(each.uid, each.name) for each in fanout.groups}
    require(len(keys) == len(fanout.groups), "two groups have the same name")
    for group in fanout.groups:
        held_until = group.held_until
        require(held_until is None or math.isfinite(held_until), "end of a hold is not finite")
        numbers = [group.dropped, group.redelivered, group.given_up, group.lost_before or 0]
        require(min(numbers) >= 0, "number of records of a group is negative")
        _check_missing(group.missing, group.deferred)
        _check_segments(group, newest)
        require(sorted(group.waiting) == group.waiting, "waiting records are not in order")
    subscriptions = (each for s in fanout.subscribers for each in s.subscriptions)
    members = [each.member for each in subscriptions if each.member is not None]
    members += fanout.absent
    taken: dict[tuple[int, str], list[Run]] = {key: [] for key in keys}
    for member in members:
        _check_member(member)
        if not member.left:
            key = member.uid, member.name
            require(key in keys, "member is in a missing group")
            taken[key] += (*member.unfinished, *member.unsent)
    for group in fanout.groups:
        _check_runs([*group.waiting, *taken[group.uid, group.name]], group)


def check_member(subscription: SubscriptionState, *, is_last: bool) -> None:
    """Check what remains to be sent to a member of a group.

    Args:
        subscription: the member's subscription.
        is_last: whether no other subscription follows it.

    Raises:
        StateError: the position is inconsistent.
    """
    member, cursor = subscription.member, subscription.cursor
    if member is None:
        return
    require(subscription.stream == GROUP_MEMBER, "member of a group reads a stream")
    require(member.left or is_last, "member of a group has another request and has not left")
    if cursor is None:
        is_owed = member.unsent or member.missing
        require(member.attached and not is_owed, "member of a group has no cursor")
        return
    require(cursor.chunk is None, "member of a group is in a chunk")
    require(cursor.next == 0, "member of a group is at a wrong position")
    require(cursor.until in (None, cursor.next), "member of a group has a wrong end")
    require(cursor.inserted[-1:] in (b"", b"\n"), "inserted record does not end with a newline")


def _check_segments(group: GroupState, newest: list[int]) -> None:
    require(bool(group.segments), "group reads no stream")
    for number, each in enumerate(group.segments, group.segments[0].number):
        require(each.number == number, "parts of what a group reads are not consecutive")
        require(0 <= each.stream < len(newest), "group reads a missing stream")
        stop = newest[each.stream] if each.stop_seq is None else each.stop_seq
        require(0 <= each.next_seq <= stop <= newest[each.stream], "group is beyond its end")
    open_ended = [each.number for each in group.segments if each.stop_seq is None]
    require(open_ended == [group.segments[-1].number], "group follows several streams, or none")


def _check_runs(runs: Iterable[Run], group: GroupState) -> None:
    """Check the records that wait or that members have."""
    ends = {each.number: each.next_seq for each in group.segments}
    ordered = sorted(runs)
    for run in ordered:
        require(run.segment in ends, "records are in a missing part of a stream")
        require(run.length > 0 and run.first >= 0, "records have a wrong number")
        require(run.end <= ends[run.segment], "records are beyond their end")
        require(run.attempts >= 0, "number of attempts is negative")
    for one, two in pairwise(ordered):
        is_before = one.segment < two.segment or one.end <= two.first
        require(is_before, "records wait twice, or two members have them")


def _check_missing(*missing: Missing | None) -> None:
    for each in missing:
        if each is not None:
            require(min(each[:4]) >= 0, "number of missing records is negative")
            require(any(each[:3]), "gap record announces nothing")
            require(len(each.message_id) <= MESSAGE_ID_SIZE, "message_id is too long")
            require(each.undeliverable <= MAX_DROPPED, "number of missing records is too large")


def _check_member(member: MemberState) -> None:
    try:
        member.view.view()
    except FilterError as error:
        require(False, f"filter of a member is invalid: {error}")
    require(member.view.patterns != {}, "filter of a member is empty")
    require(member.owed >= 0, "number is negative")
    if member.left:
        return
    window = member.window
    require(window is None or 1 <= window <= MAX_WINDOW, "window of a member is out of range")
    unfinished = sum(each.length for each in member.unfinished) + len(member.gaps)
    require(unfinished == 0 if window is None else unfinished <= window, "window is exceeded")
    require(0 <= member.finished <= member.sent, "member has finished more than it got")
    require(member.sent - member.finished == unfinished, "member has a wrong number of records")
    require(member.taken >= 0, "number is negative")
    _check_missing(member.missing, *(missing for _, missing in member.gaps))
    numbers = [member.finished - 1, *(number for number, _ in member.gaps), member.sent]
    in_order = all(one < two for one, two in pairwise(numbers))
    require(in_order, "gap records of a member are not in order")
    require(math.isfinite(member.hold), "hold of a member is not finite")
