# SPDX-License-Identifier: Apache-2.0
"""Records that producers report as dropped are summed by reason."""

from __future__ import annotations

from notif_relay.records import GapReport
from notif_relayd.records.gaps import END, ProducerGaps


def test_gap_records_are_summed_by_reason() -> None:
    gaps = ProducerGaps()
    gaps.note(
        [
            GapReport(3, "producer_congested"),
            GapReport(4, "producer_congested"),
            GapReport(5, "relay_restarted"),
            GapReport(None, "relay_restarted"),
        ]
    )
    assert gaps.dropped == {"producer_congested": 7, "relay_restarted": 5}
    assert gaps.unknown == {"relay_restarted": 1}


def test_sums_stay_exact_as_a_double() -> None:
    gaps = ProducerGaps()
    gaps.note([GapReport(END - 1, "relay_restarted"), GapReport(3, "relay_restarted")])
    assert gaps.dropped == {"relay_restarted": 2}


def test_restored_sums_ignore_unknown_reasons() -> None:
    gaps, successor = ProducerGaps(), ProducerGaps()
    gaps.note([GapReport(3, "relay_restarted"), GapReport(None, "producer_congested")])
    saved = gaps.save()
    saved.dropped["added_by_a_newer_version"] = 9
    successor.restore(saved)
    successor.restore(None)
    assert +successor.dropped == {"relay_restarted": 3}
    assert +successor.unknown == {"producer_congested": 1}
