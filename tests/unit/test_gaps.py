# SPDX-License-Identifier: Apache-2.0
"""What producers report as dropped is added up."""

from __future__ import annotations

from notif_relay.records import GapReport
from notif_relayd.records.gaps import END, ProducerGaps


def test_gap_records_are_summed_by_reason() -> None:
    losses = ProducerGaps()
    losses.note(
        [
            GapReport(3, "producer_congested"),
            GapReport(4, "producer_congested"),
            GapReport(5, "relay_restarted"),
            GapReport(None, "relay_restarted"),
        ]
    )
    assert losses.dropped == {"producer_congested": 7, "relay_restarted": 5}
    assert losses.unknown == {"relay_restarted": 1}


def test_sums_stay_exact_as_a_double() -> None:
    losses = ProducerGaps()
    losses.note([GapReport(END - 1, "relay_restarted"), GapReport(3, "relay_restarted")])
    assert losses.dropped == {"relay_restarted": 2}


def test_restored_sums_ignore_unknown_reasons() -> None:
    losses, heir = ProducerGaps(), ProducerGaps()
    losses.note([GapReport(3, "relay_restarted"), GapReport(None, "producer_congested")])
    saved = losses.save()
    saved.dropped["of_a_newer_relay"] = 9
    heir.restore(saved)
    heir.restore(None)
    assert +heir.dropped == {"relay_restarted": 3}
    assert +heir.unknown == {"producer_congested": 1}
