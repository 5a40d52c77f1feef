# SPDX-License-Identifier: Apache-2.0
"""The spool of a bridge: order, limits and figures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relay.records import MAX_DROPPED, MAX_RECORD_SIZE, gap
from notif_relayd_bridge.errors import SpoolError
from notif_relayd_bridge.spool.spool import Spool
from support.records import numbered_record
from support.spool import (
    MAX_AGE,
    MAX_BYTES,
    UNKNOWN,
    Clock,
    batch,
    check_books,
    contents,
    copy_killed,
    disk_usage,
    open_spool,
    rows,
)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spool(tmp_path: Path, clock: Clock) -> Iterator[Spool]:
    spool = open_spool(tmp_path, clock=clock)
    yield spool
    spool.close()


def test_rows_come_out_in_order(spool: Spool) -> None:
    spool.add(batch(0, 5))
    spool.add(batch(5, 5))
    assert contents(spool.head(0, 3)) == [0, 1, 2]
    assert contents(spool.head(3, 3)) == [3, 4, 5]
    assert [row for row, _ in spool.head(0, 100)] == list(range(1, 11))
    assert spool.head(10, 3) == []


def test_records_stay_byte_for_byte(spool: Spool) -> None:
    records = [b"", b"\0\xff\n", numbered_record(1, 4062), numbered_record(1, MAX_RECORD_SIZE // 8)]
    spool.add(records)
    assert [record for _, record in rows(spool)] == records


def test_numbers_are_not_used_again(tmp_path: Path, spool: Spool) -> None:
    spool.add(batch(0, 3))
    spool.remove_up_to(3)
    spool.add(batch(3, 1))
    assert rows(spool)[0][0] == spool.last == 4
    spool.remove_up_to(4)
    spool.close()
    again = open_spool(tmp_path)
    assert (again.last, again.count) == (4, 0)
    again.add(batch(4, 1))
    assert rows(again)[0][0] == 5
    again.close()


def test_figures(tmp_path: Path, spool: Spool, clock: Clock) -> None:
    assert (spool.count, spool.size, spool.last, spool.oldest) == (0, 0, 0, None)
    spool.add(batch(0, 4))
    clock.now = 7.0
    spool.add(batch(4, 1))
    assert (spool.count, spool.size, spool.last, spool.oldest) == (5, 500, 5, 7.0)
    spool.remove_up_to(4)
    assert (spool.count, spool.size, spool.last, spool.oldest) == (1, 100, 5, 0.0)
    spool.close()
    again = open_spool(tmp_path, clock=clock)
    assert (again.count, again.size, again.last, again.oldest) == (1, 100, 5, 0.0)
    again.close()


def test_removing_unknown_rows_is_harmless(spool: Spool) -> None:
    spool.remove_up_to(5)
    spool.add(batch(0, 2))
    spool.remove_up_to(0)
    spool.remove_up_to(-1)
    assert spool.count == 2
    spool.remove_up_to(100)
    spool.add(batch(2, 2))
    assert contents(rows(spool)) == [2, 3]
    assert spool.last == 4


def test_nothing_is_added_for_no_records(spool: Spool) -> None:
    spool.add([])
    assert (spool.count, spool.last) == (0, 0)


def test_page_of_rows_is_limited_in_bytes(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=64 * 1024 * 1024)
    spool.add(batch(0, 20, MAX_RECORD_SIZE))
    assert contents(spool.head(0, 100)) == [0, 1, 2, 3]
    assert check_books(rows(spool), range(20)) == 0
    spool.close()


def test_too_small_limit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes is 1, less than 65536"):
        open_spool(tmp_path, max_bytes=1)


def test_files_are_readable_only_by_the_owner(tmp_path: Path, spool: Spool) -> None:
    spool.add(batch(0, 1))
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "spool": 0o600,
        "spool-wal": 0o600,
        "spool.lock": 0o600,
    }
    spool.close()
    (tmp_path / "spool").chmod(0o644)
    open_spool(tmp_path).close()
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o600


def test_second_user_is_refused(tmp_path: Path, spool: Spool) -> None:
    with pytest.raises(SpoolError, match=r"/spool: another process uses it; run one bridge"):
        open_spool(tmp_path)
    spool.add(batch(0, 1))
    spool.close()
    open_spool(tmp_path).close()


def test_unexpected_error_adds_nothing(spool: Spool) -> None:
    spool.add(batch(0, 2))
    with pytest.raises(TypeError):
        spool.add([*batch(2, 2), None])  # type: ignore[list-item]
    assert (spool.count, spool.last) == (2, 2)
    spool.add(batch(2, 1))
    assert contents(rows(spool)) == [0, 1, 2]


def test_closed_spool_is_an_error(spool: Spool) -> None:
    spool.close()
    spool.close()
    with pytest.raises(SpoolError, match="it is closed"):
        spool.add(batch(0, 1))


# Size


@pytest.mark.parametrize("size", [100, 1000, 2100, 4061, 4062, 5000, 40_000])
@pytest.mark.parametrize("at_once", [1, 30])
def test_oldest_rows_of_a_full_spool_become_a_gap(tmp_path: Path, size: int, at_once: int) -> None:
    spool = open_spool(tmp_path)
    total = (3 * MAX_BYTES // size // at_once + 1) * at_once
    for first in range(0, total, at_once):
        spool.add(batch(first, at_once, size))
        assert (tmp_path / "spool").stat().st_size <= MAX_BYTES
    found = rows(spool)
    missing = check_books(found, range(total))
    assert missing == spool.dropped > 0
    assert contents(found)[0] == f"{missing} spool_full"
    assert (spool.count, spool.last) == (len(found), total)
    assert spool.size == sum(len(record) for _, record in found) > MAX_BYTES * 0.35
    spool.close()
    assert (tmp_path / "spool").stat().st_size <= MAX_BYTES


def test_log_is_bounded(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=1024 * 1024)
    for first in range(0, 20_000, 100):
        spool.add(batch(first, 100, 1000))
    assert disk_usage(tmp_path) <= (1 + 4.5) * 1024 * 1024
    check_books(rows(spool), range(20_000))
    spool.close()


def test_log_shrinks_after_a_large_transaction(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=16 * 1024 * 1024)
    spool.add(batch(0, 12, MAX_RECORD_SIZE))
    assert disk_usage(tmp_path) > 24 * 1024 * 1024
    spool.add(batch(12, 1))
    assert disk_usage(tmp_path) <= (16 + 4.5) * 1024 * 1024
    check_books(rows(spool), range(13))
    spool.close()


def test_file_shrinks_when_the_spool_is_empty(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=16 * 1024 * 1024)
    spool.add(batch(0, 4000, 1000))
    spool.add(batch(4000, 1, 1000))
    assert disk_usage(tmp_path) > 4_000_000
    spool.remove_up_to(spool.last)
    assert disk_usage(tmp_path) < 100 * 1024
    spool.add(batch(0, 3))
    assert rows(spool)[0][0] == 4002
    spool.close()


def test_kept_rows_do_not_become_a_gap(spool: Spool) -> None:
    spool.add(batch(0, 20, 2000))
    for first in range(20, 1000, 20):
        spool.add(batch(first, 20, 2000), keep=12)
    found = rows(spool)
    missing = check_books(found, range(1000))
    assert contents(found)[:14] == [*range(12), f"{missing} spool_full", 12 + missing]


def test_kept_rows_are_added_to_a_full_spool(spool: Spool, tmp_path: Path) -> None:
    spool.add(batch(0, 200, 2000))
    keep = spool.last + 100
    spool.add(batch(200, 150, 2000), keep=keep)
    found = rows(spool)
    check_books(found, range(350))
    assert set(range(200, 300)) <= set(contents(found))
    assert contents(found)[-1] == "50 spool_full"


def test_new_records_are_omitted_if_all_rows_are_kept(spool: Spool) -> None:
    spool.add(batch(0, 150, 2000), keep=150)
    for first in range(150, 160):
        spool.add(batch(first, 1, 2000), keep=150)
    assert contents(rows(spool)) == [*range(150), "10 spool_full"]
    assert (spool.count, spool.last, spool.dropped) == (151, 160, 10)
    spool.remove_up_to(150)
    spool.add(batch(160, 2))
    assert contents(rows(spool)) == ["10 spool_full", 160, 161]


def test_too_large_record_becomes_a_gap_in_its_place(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, max_bytes=16 * 1024 * 1024)
    large = numbered_record(1, MAX_RECORD_SIZE + 1)
    spool.add(
        [
            numbered_record(0, 100),
            large,
            large,
            numbered_record(3, 100),
            large,
            numbered_record(5, MAX_RECORD_SIZE),
        ]
    )
    assert contents(rows(spool)) == [0, "2 spool_full", 3, "1 spool_full", 5]
    assert [row for row, _ in rows(spool)] == [1, 3, 4, 5, 6]
    spool.close()


def test_record_larger_than_the_spool_becomes_a_gap(spool: Spool) -> None:
    spool.add(batch(0, 3))
    spool.add([numbered_record(3, MAX_BYTES)])
    assert contents(rows(spool)) == ["4 spool_full"]
    assert (spool.count, spool.dropped) == (1, 4)
    spool.add(batch(4, 1))
    assert contents(rows(spool)) == ["4 spool_full", 4]


# Gaps of others


def fill(spool: Spool, first: int) -> int:
    """Add records until those that were there are dropped; return the number of added ones."""
    spool.add(batch(first, 2 * MAX_BYTES // 1000, 1000))
    return 2 * MAX_BYTES // 1000


def test_dropped_gap_counts_with_its_number(spool: Spool) -> None:
    spool.add([gap(1000, "producer_congested"), numbered_record(0, 100)])
    added = fill(spool, 1)
    retained = len(rows(spool)) - 1
    [first, *_] = contents(rows(spool))
    assert first == f"{1000 + 1 + added - retained} spool_full"
    assert spool.dropped == 1 + added - retained


def test_dropped_gap_of_unknown_size_stays_unknown(spool: Spool) -> None:
    spool.add([numbered_record(0, 100), UNKNOWN])
    added = fill(spool, 1)
    assert contents(rows(spool))[0] == "None spool_full"
    fill(spool, added)
    assert contents(rows(spool))[0] == "None spool_full"
    assert sum(isinstance(each, str) for each in contents(rows(spool))) == 1


def test_sum_too_large_for_a_gap_is_unknown(spool: Spool) -> None:
    spool.add([gap(MAX_DROPPED, "producer_congested"), gap(1, "producer_congested")])
    fill(spool, 0)
    assert contents(rows(spool))[0] == "None spool_full"


@pytest.mark.parametrize(
    "record",
    [
        b'{"event_type": "notif_relayd.gap"',
        b'{"event_type": "notif_relayd.gap", "payload": {"dropped": -5, "reason": "x"}}\n',
        b'{"event_type": "notif_relayd.gap", "payload": {"dropped": 1e3, "reason": "x"}}\n',
        b'{"event_type": "notif_relayd.gap", "n":' + b"[" * 700,
        b"notif_relayd.gap \xff",
        gap(5, "producer_congested")[:-1] + b" " * 1000 + b"\n",
    ],
)
def test_malformed_gap_counts_as_one_record(spool: Spool, record: bytes) -> None:
    spool.add([record, record])
    added = fill(spool, 0)
    retained = len(rows(spool)) - 1
    assert contents(rows(spool))[0] == f"{2 + added - retained} spool_full"


# Age


def test_old_rows_become_a_gap(spool: Spool, clock: Clock) -> None:
    spool.add(batch(0, 3))
    clock.now = MAX_AGE
    spool.add(batch(3, 2))
    assert contents(rows(spool)) == [0, 1, 2, 3, 4]
    clock.now = MAX_AGE + 1
    spool.add(batch(5, 1))
    assert contents(rows(spool)) == ["3 spool_expired", 3, 4, 5]
    assert (spool.count, spool.dropped) == (4, 3)
    clock.now = 2 * MAX_AGE + 0.5
    assert contents(rows(spool)) == ["5 spool_expired", 5]


def test_old_rows_are_replaced_when_they_are_read(spool: Spool, clock: Clock) -> None:
    spool.add(batch(0, 5))
    clock.now = MAX_AGE + 1
    assert contents(spool.head(2, 10)) == ["3 spool_expired"]
    assert contents(spool.head(0, 10)) == ["5 spool_expired"]
    assert contents(spool.head(0, 10)) == ["5 spool_expired"]
    assert spool.dropped == 5


def test_kept_rows_do_not_expire(spool: Spool, clock: Clock) -> None:
    spool.add(batch(0, 5))
    clock.now = MAX_AGE + 1
    spool.add(batch(5, 1), keep=2)
    assert contents(rows(spool, 2)) == ["3 spool_expired", 5]


def test_many_rows_expire_at_once(tmp_path: Path, clock: Clock) -> None:
    spool = open_spool(tmp_path, max_bytes=4 * 1024 * 1024, clock=clock)
    spool.add(batch(0, 5000))
    clock.now = 2 * MAX_AGE
    assert contents(spool.head(0, 10)) == ["5000 spool_expired"]
    spool.close()


def test_set_date_does_not_expire_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(tmp_path / "spool"), MAX_BYTES, MAX_AGE)
    spool.add(batch(0, 2))
    date = time.time()
    for number, moved in enumerate([10 * MAX_AGE, -10 * MAX_AGE, -date], 2):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda moved=moved: date + moved)
            spool.add(batch(number, 1))
            spool.close()
            spool = Spool(str(tmp_path / "spool"), MAX_BYTES, MAX_AGE)
            assert contents(rows(spool)) == [*range(number + 1)]
            assert spool.oldest is not None
            assert 0 <= spool.oldest < MAX_AGE
    spool.close()


def test_clock_that_goes_back_expires_nothing(spool: Spool, clock: Clock) -> None:
    clock.now = 500.0
    spool.add(batch(0, 2))
    clock.now = -5000.0
    spool.add(batch(2, 2))
    assert spool.oldest == 0.0
    clock.now = 1499.0
    assert contents(rows(spool)) == [0, 1, 2, 3]
    clock.now = 1501.0
    assert contents(rows(spool)) == ["4 spool_expired"]


def test_age_continues_after_a_restart(tmp_path: Path, spool: Spool, clock: Clock) -> None:
    clock.now = 100.0
    spool.add(batch(0, 1))
    clock.now = 800.0
    spool.close()
    again = open_spool(tmp_path, clock=clock)
    assert again.oldest == 700.0
    clock.now = 1101.0
    assert contents(rows(again)) == ["1 spool_expired"]
    again.close()


def test_clock_that_goes_back_at_a_restart_expires_nothing(
    tmp_path: Path, spool: Spool, clock: Clock
) -> None:
    clock.now = 500.0
    spool.add(batch(0, 1))
    spool.close()
    clock.now = 300.0
    again = open_spool(tmp_path, clock=clock)
    assert again.oldest == 0.0
    again.add(batch(1, 1))
    clock.now = 1400.0
    assert contents(rows(again)) == [0, 1]
    clock.now = 1501.0
    assert contents(rows(again)) == ["2 spool_expired"]
    again.close()


# End of the process


def test_killed_process_loses_nothing(tmp_path: Path, spool: Spool, clock: Clock) -> None:
    spool.add(batch(0, 5))
    spool.remove_up_to(2)
    spool.add(batch(5, 5))
    copy_killed(tmp_path, tmp_path / "copy")
    again = open_spool(tmp_path / "copy", clock=clock)
    assert contents(rows(again)) == [*range(2, 10)]
    assert (again.last, again.replaced) == (10, None)
    again.close()
