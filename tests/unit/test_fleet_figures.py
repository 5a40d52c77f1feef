# SPDX-License-Identifier: Apache-2.0
"""Tests of the books and the arithmetic of bench/fleet.py."""

from __future__ import annotations

import json
import os

import pytest

from compare.arrivals import Arrivals
from compare.extrapolation import Line, Model, Need, spool_bytes
from compare.processes import session, usage


def one(event_type: str = "e", **payload: object) -> bytes:
    """Return the line of a record."""
    return json.dumps({"event_type": event_type, "payload": payload}).encode() + b"\n"


def gap(dropped: int | None) -> bytes:
    return one("notif_relayd.gap", dropped=dropped)


def all_records(_host: int, _number: int) -> bool:
    return True


def test_record_that_arrives_twice_is_a_duplicate() -> None:
    arrivals = Arrivals(2, all_records)
    stream = one("notif_relayd.subscribed") + one(host=0, number=0) + one(host=1, number=0)
    stream += one(host=0, number=0) + one(host=0, number=1)
    arrivals.read(stream[:100])
    arrivals.read(stream[100:])
    assert (arrivals.records, arrivals.duplicates, arrivals.disordered) == (3, 1, 0)
    assert arrivals.missing([2, 1]) == 0


def test_late_record_is_out_of_order() -> None:
    arrivals = Arrivals(1, all_records)
    arrivals.read(one(host=0, number=1) + one(host=0, number=0))
    assert (arrivals.disordered, arrivals.missing([2])) == (1, 0)


@pytest.mark.parametrize(
    ("gaps", "unexplained"), [(b"", 2), (gap(1), 1), (gap(2), 0), (gap(None), 0)]
)
def test_missing_records_must_be_announced(gaps: bytes, unexplained: int) -> None:
    arrivals = Arrivals(1, all_records)
    arrivals.read(one(host=0, number=0) + gaps + one(host=0, number=3))
    assert arrivals.missing([4]) == 2
    assert arrivals.unexplained([4]) == unexplained


def test_record_that_no_filter_passes_is_not_missing() -> None:
    arrivals = Arrivals(2, lambda host, number: host == 0 and number % 2 == 0)
    arrivals.read(one(host=0, number=0))
    assert arrivals.missing([2, 2]) == 0
    assert arrivals.missing([3, 2]) == 1


def test_line_through_points() -> None:
    assert Line.through([(10, 30), (20, 50), (30, 70)]).at(1000) == pytest.approx(2010)
    assert Line.through([(10, 5)]).at(20) == pytest.approx(10)


def test_line_has_no_negative_part() -> None:
    assert Line.through([(10, 5), (20, 3)]) == Line(4, 0)
    line = Line.through([(10, 10), (20, 40)])
    assert line.fixed == 0
    assert line.each == pytest.approx(1.8)


def test_model_separates_hosts_and_records() -> None:
    """A host takes 0.001 of a processor, a record 0.5 ms; 100 MiB and 2 MiB for each host."""
    needs = [Need(hosts, 0.001 * hosts, 0.0005, 100 + 2 * hosts) for hosts in (10, 25, 50)]
    model = Model.of(needs)
    assert model.processors(1000, 5000) == pytest.approx(1 + 2.5)
    assert model.memory.at(1000) == pytest.approx(2100)
    assert model.max_rate(1000, 2) == pytest.approx(2000)
    assert model.max_rate(3000, 2) == 0


def test_spool_grows_with_rate_and_time() -> None:
    assert spool_bytes(rate=2, size=1500, seconds=3600) == 10_800_000


def test_usage_of_this_process() -> None:
    before = usage([os.getpid()])
    sum(range(2_000_000))
    after = usage([os.getpid(), os.getpid()])
    assert after.seconds >= 2 * before.seconds
    assert before.memory > 5_000_000
    assert os.getpid() in session(os.getsid(0))
