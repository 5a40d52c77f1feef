# SPDX-License-Identifier: Apache-2.0
"""Tests of the offsets that a consumer of Kafka commits and reads again."""

from __future__ import annotations

import pytest

from notif_relayd_bridge.brokers.kafka.positions import Partition, Positions

A: Partition = ("t", 0)
B: Partition = ("t", 1)


@pytest.fixture
def positions() -> Positions:
    """Return positions with five messages, alternately of two partitions."""
    positions = Positions()
    positions.assign([A, B])
    for number, partition in enumerate((A, B, A, B, A)):
        positions.received(partition, 10 + number, 100)
    return positions


def test_offset_after_the_last_acknowledged_message_is_committed(positions: Positions) -> None:
    assert not positions.can_commit
    positions.acknowledged(3)
    assert positions.can_commit
    assert positions.take_finished() == {A: 13, B: 12}
    assert not positions.can_commit
    assert (len(positions), positions.size) == (2, 200)


def test_too_many_acknowledgements_are_ignored(positions: Positions) -> None:
    positions.acknowledged(9)
    assert (len(positions), positions.size) == (0, 0)
    assert positions.take_finished() == {A: 15, B: 14}


def test_forgotten_messages_are_read_again(positions: Positions) -> None:
    positions.acknowledged(1)
    positions.forget()
    positions.skipped(A, 15)
    positions.skipped(("t", 2), 7)
    assert (len(positions), positions.size) == (0, 0)
    assert positions.take_rewind() == {A: 12, B: 11, ("t", 2): 7}
    assert positions.take_rewind() == {}
    assert positions.take_finished() == {A: 11}


def test_revoked_partition_is_not_read_again(positions: Positions) -> None:
    positions.acknowledged(2)
    assert positions.revoke([B])
    positions.forget()
    assert positions.take_rewind() == {A: 12}
    assert positions.take_finished() == {A: 11}
    assert positions.assigned == {A}


def test_revoked_partition_may_have_nothing_outstanding(positions: Positions) -> None:
    positions.acknowledged(4)
    assert not positions.revoke([B])
    assert positions.revoke([A])


def test_failed_commit_does_not_go_back(positions: Positions) -> None:
    positions.acknowledged(2)
    failed = positions.take_finished()
    positions.acknowledged(1)
    positions.restore_finished(failed)
    assert positions.take_finished() == {A: 13, B: 12}


def test_failed_commit_of_a_revoked_partition_is_dropped(positions: Positions) -> None:
    positions.acknowledged(2)
    failed = positions.take_finished()
    positions.revoke([B])
    positions.restore_finished(failed)
    assert positions.take_finished() == {A: 11}
