# SPDX-License-Identifier: Apache-2.0
"""What producers tell that they dropped is added up, and nothing that they make up breaks it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import records
from notif_relayd.losses import END, Losses
from notif_relayd.validator import Validator


def noted(*gaps: bytes) -> tuple[dict[str, int], dict[str, int]]:
    losses = Losses()
    losses.note(gaps)
    return dict(losses.dropped), dict(losses.unknown)


def test_gap_records_of_the_library_are_added_up_by_reason() -> None:
    told = noted(
        records.gap(3, "producer_congested"),
        records.gap(4, "producer_congested"),
        records.gap(5, "relay_restarted"),
        records.gap(None, "relay_restarted"),
    )
    assert told == ({"producer_congested": 7, "relay_restarted": 5}, {"relay_restarted": 1})


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "text",
        {"reason": "relay_restarted"},
        {"dropped": 1},
        {"dropped": -1, "reason": "relay_restarted"},
        {"dropped": 1.5, "reason": "relay_restarted"},
        {"dropped": True, "reason": "relay_restarted"},
        {"dropped": END, "reason": "relay_restarted"},
        {"dropped": 10**400, "reason": "relay_restarted"},
        {"dropped": 1, "reason": "slow_subscriber"},
        {"dropped": 1, "reason": "a reason of its own"},
        {"dropped": 1, "reason": ["relay_restarted"]},
    ],
)
def test_what_no_producer_could_mean_does_not_count(payload: object) -> None:
    assert noted(json.dumps({"payload": payload}).encode()) == ({}, {})


def test_no_sum_becomes_too_large_to_be_saved_or_shown() -> None:
    losses = Losses()
    losses.note([records.gap(END - 1, "relay_restarted"), records.gap(3, "relay_restarted")])
    assert losses.dropped == {"relay_restarted": 2}


@given(st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_nothing_that_the_validator_takes_for_a_gap_fails(payload: object) -> None:
    fields = {"event_type": records.GAP, "priority": "WARN", "payload": payload}
    verdict = Validator(10**6).check(json.dumps(fields).encode() + b"\n")
    assert len(verdict.gaps) == 1
    assert noted(*verdict.gaps) == ({}, {})


def test_nesting_without_an_end_does_not_count() -> None:
    assert noted(b'{"payload":' + b"[" * 100_000) == ({}, {})


def test_the_sums_go_on_without_reasons_that_are_unknown_here() -> None:
    losses, heir = Losses(), Losses()
    losses.note([records.gap(3, "relay_restarted"), records.gap(None, "producer_congested")])
    saved = losses.save()
    saved.dropped["of_a_newer_relay"] = 9
    heir.restore(saved)
    heir.restore(None)
    assert +heir.dropped == {"relay_restarted": 3}
    assert +heir.unknown == {"producer_congested": 1}
