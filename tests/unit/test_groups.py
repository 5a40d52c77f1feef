# SPDX-License-Identifier: Apache-2.0
"""A group hands each record to exactly one member, or announces it as missing."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest

from notif_relay import records
from notif_relayd.fanout.chunk import Chunk
from notif_relayd.fanout.groups.hand_out import Draft
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.missing import Missing
from notif_relayd.fanout.groups.run import SUSPECT_ATTEMPTS, Run
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.records.filters import UNFILTERED, Filter, View
from notif_relayd.records.selector import Selector
from support.group_machine import VIEWS, Groups
from support.group_reader import all_reported
from support.records import record

TestGroups = Groups.TestCase


def test_waiting_records_of_different_attempts_keep_their_order() -> None:
    groups = started(UNFILTERED)
    groups.join(VIEWS[2], None)
    groups.publish(["a", "b", "a"])
    groups.serve(1, 0.5)  # The first record waits, the second is sent in part.
    groups.leave(0, completing=False)
    groups.publish(["a"])
    groups.teardown()
    assert groups.readers[1].got == [0, 1, 2, 3]


def test_records_of_two_streams_are_given_back_in_their_order() -> None:
    groups = started(VIEWS[3])
    groups.publish(["a"])
    groups.join(VIEWS[0], None)
    groups.publish(["a", "c"])
    groups.serve(0, 0.0)
    groups.teardown()
    assert groups.readers[1].got == [0, 1]


def started(view: View, window: int | None = None) -> Groups:
    groups = Groups()
    groups.start(limit=20, view=view, window=window, max_deliveries=4, examined=128)
    return groups


def test_rest_of_a_redelivered_batch_goes_to_others() -> None:
    groups = started(UNFILTERED)
    groups.publish(["a"] * 4)
    for share in (1.0, 0.7):
        groups.join(UNFILTERED, 9)
        groups.serve(1, share)
        groups.leave(0, completing=False)
    groups.teardown()
    assert groups.readers[1].got == [0, 1, 2, 3]


def test_suspect_record_is_alone_until_it_is_finished() -> None:
    groups = started(VIEWS[1])
    groups.publish(["b"])
    for _ in range(3):
        groups.join(VIEWS[2], 9)
        groups.publish(["b"])
        groups.serve(1, 1.0)
        groups.leave(0, completing=False)
    groups.join(VIEWS[2], 9)
    groups.publish(["b"])
    for _ in range(3):
        groups.serve(1, 1.0)
    assert len(groups.reader_of(1).got) == 1
    groups.teardown()


def test_suspect_record_behind_one_of_others_is_alone() -> None:
    groups = started(VIEWS[3], 2)
    groups.join(VIEWS[4], None)
    groups.publish(["a", "c", "a"])
    for window in (2, 1):
        groups.join(VIEWS[3], window)
        groups.serve(2, 1.0)
        groups.leave(1, completing=False)
        groups.serve(0, 1.0)
    assert groups.readers[1].got == [0]
    groups.teardown()
    assert groups.readers[1].got == [0, 2]


def test_returned_record_is_offered_to_members_that_read_further() -> None:
    groups = started(VIEWS[1], 1)
    groups.join(VIEWS[2], 9)
    groups.join(VIEWS[2], 9)
    groups.publish(["b", "a", "a"])
    groups.serve(1, 1.0)
    for event_type in "ba":
        groups.publish([event_type])
        groups.serve(2, 1.0)
    groups.leave(0, completing=False)
    groups.teardown()
    assert groups.readers[3].got == [3, 0]


def test_a_run_that_grows_is_offered_to_members_that_saw_its_start() -> None:
    groups = started(VIEWS[1], 1)
    for view in (VIEWS[2], VIEWS[4]):
        groups.join(view, None)
    groups.publish(["a", "a", "a"])
    for index in (0, 1, 2, 1, 2):
        groups.serve(index, 1.0)
    groups.publish(["b"])
    for index in (2, 1):
        groups.serve(index, 1.0)
    assert groups.readers[2].got == [3]
    groups.teardown()


def test_records_that_no_member_wants_any_more_are_skipped() -> None:
    groups = started(VIEWS[1])
    groups.join(VIEWS[3], 1)
    groups.join(VIEWS[2], 1)
    groups.publish(["b"] * 300)
    groups.serve(1, 1.0)
    groups.serve(2, 1.0)
    for remaining in (2, 1, 0):
        for _ in range(20):
            groups.serve(0, 1.0)
        if remaining:
            groups.finish(1, 1)
            groups.leave(0, completing=False)
    assert groups.group.lag == 0
    groups.teardown()


def test_a_batch_for_several_filters_is_divided_without_decoding() -> None:
    groups = started(VIEWS[1])
    groups.join(VIEWS[2], 9)
    groups.join(VIEWS[4], 1)
    with mock.patch("notif_relayd.fanout.groups.hand_out.routing_keys_of", None):
        groups.divide(["a", "b", "gap", "c", "c", "b"], set(), 1.0)
        groups.send_direct(["b"], 1, 1.0)
        groups.send_direct(["a"], 0, 1.0)
    assert [reader.got for reader in groups.readers.values()] == [[0, 2, 7], [1, 5, 6], [3]]
    assert groups.group.lag == 1
    groups.teardown()


def test_rest_of_a_part_of_a_batch_is_marked_if_it_is_late() -> None:
    groups = started(VIEWS[3], 9)
    groups.join(VIEWS[2], 9)
    groups.divide(["a", "b", "b", "b"], set(), 0.5)  # Each socket takes one record of two.
    groups.serve(1, 1.0)
    assert [reader.got for reader in groups.readers.values()] == [[0], [2, 1, 3]]
    assert groups.group.redelivered == 2
    groups.teardown()


def test_rest_of_a_long_batch_that_was_sent_directly_goes_to_others() -> None:
    groups = started(VIEWS[3])
    groups.join(VIEWS[2], None)
    groups.send_direct(["b"] * 300, 1, 0.9)
    groups.teardown()
    assert sorted(groups.readers[1].got + groups.readers[2].got) == [*range(300)]


def test_ring_keeps_unfinished_records() -> None:
    groups = started(UNFILTERED)
    groups.join(UNFILTERED, 1)
    groups.publish(["a"])
    groups.serve(1, 1.0)
    for _ in range(9):
        groups.publish(["a"])
        groups.serve(0, 1.0)
    groups.leave(0, completing=False)
    groups.teardown()
    assert groups.group.dropped == 0


def test_gap_that_no_member_finishes_waits_for_the_next_loss() -> None:
    groups = started(UNFILTERED)
    for _ in range(2):
        groups.publish(["a"] * 600)
        groups.publish(["b"])
        fail_often(groups)
        assert +groups.announced == {}
        groups.serve(0, 1.0)
        assert groups.readers[1].got[-1] == len(groups.kinds) - 1
    groups.publish(["a"] * 600)
    groups.publish(["b"])
    groups.serve(0, 1.0)
    assert groups.announced == {"slow_subscriber": 1800}
    groups.teardown()


def test_number_of_a_gap_that_is_given_up_is_announced() -> None:
    groups = started(UNFILTERED, 1)
    for kind in ("gap", "unknown", "gap", "a", "unknown"):
        groups.publish([kind])
        fail_often(groups)  # without finishing the gap record of the record before
        fail_often(groups)
        groups.restart()
    # The first gap record reports 0 records, the other one reports 2.
    assert all_reported(groups.undeliverable, groups.kinds) == (0 + 2 + 1, 2)
    groups.teardown()


@pytest.mark.parametrize("others", [[], ["c"]])
def test_suspect_record_waits_for_an_unfinished_gap_record(others: list[str]) -> None:
    groups = started(UNFILTERED, 1)
    groups.publish(["c"])
    groups.serve(0, 1.0)  # Its window is full.
    groups.publish(["b"])
    fail_often(groups, VIEWS[3])
    groups.publish([*others, "a"])
    for _ in range(3):
        groups.join(VIEWS[3], 9)
        reader = groups.reader_of(1)
        for _ in range(2):
            groups.serve(1, 1.0)
        assert reader.counted[0] == ("undeliverable", 1)
        if len(reader.counted) == 1:
            break
        groups.leave(0, completing=False)
    assert groups.attempts[len(groups.kinds) - 1] == SUSPECT_ATTEMPTS
    assert not groups.group.has_work_for(reader.member)
    groups.finish(1, 1)
    groups.serve(1, 1.0)
    assert reader.got == [len(groups.kinds) - 1]
    groups.teardown()


def test_sum_that_no_gap_record_can_state_is_unknown() -> None:
    one, most = Missing(undeliverable=1), Missing(undeliverable=records.MAX_DROPPED)
    assert most.plus(Missing(lost=2)) == Missing(2, records.MAX_DROPPED)
    assert most.plus(one) == Missing(0, records.MAX_DROPPED, 1)
    assert one.plus(most) == Missing(0, 1, 1)


def fail_often(groups: Groups, view: View = UNFILTERED) -> None:
    """Let members join, get what is next, and leave, until that is not handed out again."""
    for _ in range(groups.max_deliveries):
        groups.fail(view, 1, 1.0, completing=False)


def test_few_records_are_decoded_for_a_hand_out() -> None:
    seconds = itertools.count(0, 0.0001)  # each record takes 0.1 ms
    selector: Selector[Stream] = Selector(lambda: next(seconds))
    view = View(Filter.parse({"payload": {"n": [1]}}))
    member = Member(view, None)
    member.mask = selector.acquire(view)
    data = b"".join(record("a", payload={"n": 0, "number": number}) for number in range(30))
    draft = Draft(member, {member.mask}, selector)
    _, offered = draft.offer(Chunk(data, 30, 1), Run(1, 1, 30), {UNFILTERED})
    assert draft.full
    assert 2 <= offered <= 6
