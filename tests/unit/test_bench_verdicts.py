# SPDX-License-Identifier: Apache-2.0
"""Verdicts and tables that the benchmark computes from its measurements."""

from __future__ import annotations

import pytest

from compare import table
from compare.verdicts import Verdict, column, regressions, verdicts


def rounds(*rates: float) -> list[dict[str, float]]:
    """Return rounds with these rates; the processor time per record is 100 / rate."""
    return [{"rate": rate, "cpu_each": 100 / rate} for rate in rates]


def only(found: list[Verdict], what: str, case: str, than: str) -> Verdict:
    """Return the single verdict for a measurement, a case and a peer."""
    (verdict,) = [each for each in found if (each.what, each.case, each.than) == (what, case, than)]
    return verdict


def test_best_peer_is_best_in_most_rounds() -> None:
    fanout = {
        "10": {
            "notif-relayd": rounds(100, 100, 100),
            "Redis": rounds(50, 20, 50),
            "NATS": rounds(20, 25, 100),
        }
    }
    verdict = only(verdicts({"fanout": fanout}), "records a second", "1 to 10", "best peer")
    assert verdict.peer == "Redis"
    assert verdict.ratios == [2.0, 5.0, 2.0]
    assert verdict.ratio == 2.0


def test_limit_is_not_a_peer() -> None:
    fanout = {
        "1": {
            "notif-relayd": rounds(100),
            "C limit": rounds(200),
            "Redis": rounds(50),
        }
    }
    found = verdicts({"fanout": fanout})
    assert only(found, "records a second", "1 to 1", "best peer").ratio == 2.0
    assert only(found, "records a second", "1 to 1", "C limit").ratio == 0.5
    assert only(found, "records a second", "1 to 1", "C limit").reached
    assert only(found, "processor time", "1 to 1", "C limit").ratio == 0.5


def test_failed_peer_is_not_compared() -> None:
    found = {"100": {"notif-relayd": rounds(3, 3), "Redis": rounds(6), "asyncio": rounds(1, 1)}}
    assert column(found, "100", "Redis", "rate") == []
    verdict = only(verdicts({"fanout": found}), "records a second", "1 to 100", "best peer")
    assert verdict.ratios == [3.0, 3.0]


def test_no_goals_without_peers() -> None:
    assert verdicts({"fanout": {"1": {"notif-relayd": rounds(1)}}}) == []


def test_goal_for_100_subscribers_is_three_times_best_peer() -> None:
    found = {"100": {"notif-relayd": rounds(290), "Redis": rounds(100)}}
    verdict = only(verdicts({"fanout": found}), "records a second", "1 to 100", "best peer")
    assert not verdict.reached
    found["100"]["Redis"] = rounds(96)
    verdict = only(verdicts({"fanout": found}), "records a second", "1 to 100", "best peer")
    assert verdict.reached


def test_lower_latency_is_better() -> None:
    found = {
        "50 at 1000": {
            "notif-relayd": [{"p50": 50.0, "p99": 200.0}],
            "Redis": [{"p50": 45.0, "p99": 190.0}],
        }
    }
    found_verdicts = verdicts({"latency": found})
    p50 = only(found_verdicts, "latency p50", "1 to 50, 1000 a second", "best peer")
    assert p50.ratio == 0.9
    assert p50.reached
    assert not only(found_verdicts, "latency p99", "1 to 50, 1000 a second", "best peer").reached


def test_growth_compares_many_with_few() -> None:
    producers = {"8": {"notif-relayd": rounds(100)}, "512": {"notif-relayd": rounds(69)}}
    stalled = {"0": {"notif-relayd": rounds(100)}, "1000": {"notif-relayd": rounds(91)}}
    few, many = verdicts({"producers": producers, "stalled": stalled})
    assert (few.ratio, few.reached) == (0.69, False)
    assert (many.ratio, many.reached) == (0.91, True)


def test_memory_goal_is_ring_plus_a_share_per_connection() -> None:
    def memory(most: float) -> dict[str, dict[str, list[dict[str, float]]]]:
        return {
            "0": {"notif-relayd": [{"idle": 30.0, "most": 31.0}]},
            "1024": {"notif-relayd": [{"idle": 33.0, "most": most}]},
        }

    assert all(each.reached for each in verdicts({"memory": memory(49.9)}))
    assert [each.case for each in verdicts({"memory": memory(50.1)}) if not each.reached] == [
        "1024 stalled subscribers"
    ]


def test_regression_is_more_than_a_quarter() -> None:
    verdict = Verdict("processor time", "1 to 1", "C limit", [0.5, 0.4, 0.6], None)
    assert regressions([verdict], {}) == []
    assert regressions([verdict], {verdict.key: 0.66}) == []
    assert regressions([verdict], {verdict.key: 0.67}) == [(verdict, 0.67)]


def test_table_marks_goals_that_are_missed() -> None:
    good = Verdict("start-up", "first record", "its imports", [0.5, 1.5, 1.0], 0.67)
    bad = Verdict("throughput", "512 producers", "8 producers", [0.4], 0.7)
    without_goal = Verdict("cost of emitting", "RelayHandler", "SysLogHandler", [2.0], None)
    head, rule, *rows = table.reached([good, bad, without_goal]).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [row[3:] for row in cells] == [
        ["1.00", "0.50 to 1.50", "0.67", "yes"],
        ["0.40", "0.40 to 0.40", "0.70", "NO"],
        ["2.00", "2.00 to 2.00", "", ""],
    ]
    assert len({len(line) for line in (head, rule, *rows)}) == 1


@pytest.mark.parametrize("name", ["fanout", "stalled"])
def test_table_has_the_median_of_each_measurement(name: str) -> None:
    measured = [
        {"rate": rate, "cpu_each": 1.0, "own_cpu": 0.5, "seconds": 1.0, "lost": 0}
        for rate in (1000.0, 3000.0, 2000.0)
    ]
    *_, row = table.measured(name, {"1": {"notif-relayd": measured}}).splitlines()
    assert "| 2,000 " in row
    assert "1,000 to 3,000" in row
