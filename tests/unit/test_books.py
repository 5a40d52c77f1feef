# SPDX-License-Identifier: Apache-2.0
"""The books notice each fault that they are for."""

from __future__ import annotations

import pytest

from notif_relay import records
from support.books import Books, mark, record

FAULT, LOST = -1, -2


def books_of(*arrivals: int, emitted: int) -> Books:
    """Return the books of one producer: numbers of records, faults, and gaps of one record."""
    books = Books(1)
    for each in arrivals:
        if each == FAULT:
            books.note(mark("broker killed"))
        elif each == LOST:
            books.note(records.gap(1, "spool_full"))
        else:
            books.note(record(0, each).encode())
    books.finish([emitted])
    return books


@pytest.mark.parametrize(
    ("arrivals", "duplicates", "missing"),
    [
        ([0, 1, 2, 3], 0, 0),
        ([0, 1, LOST, 3], 0, 1),
        ([0, 1, 2, FAULT, 1, 2, 3], 2, 0),
        ([0, 1, 2, FAULT, 1, FAULT, 0, 1, 2, 3], 4, 0),
        ([0, LOST, 2, FAULT, 0, 2, 3], 2, 1),
        ([0, 1, FAULT, 2, 1, 2, 0, 1, 2, 3], 5, 0),  # a message may be stored after the mark
        ([0, 1, 2, FAULT, 0, 3, 1, 2, 3], 4, 0),  # and within a repetition
    ],
)
def test_books_without_errors(arrivals: list[int], duplicates: int, missing: int) -> None:
    books = books_of(*arrivals, emitted=4)
    assert books.errors == []
    assert (books.duplicates.total(), books.missing) == (duplicates, missing)
    assert set(books.duplicates) <= {"broker killed"}


@pytest.mark.parametrize(
    ("arrivals", "error"),
    [
        ([0, 1, 2], "the last ones are [3]"),
        ([0, 1, 3], "no gap record for range(2, 3)"),
        ([LOST, 0, 1, 3], "no gap record for range(2, 3)"),
        ([0, LOST, 3], "2 records are missing, and gap records announce 1"),
        ([0, LOST, 2, 1, 3], "1 is out of order"),
        ([0, 1, 1, 2, 3], "no fault explains a copy of 1"),
        ([FAULT, 0, 1, 0, 0, 0, 1, 2, 3], "no fault explains a copy of 0"),
        ([0, 1, 2, FAULT, 0, 3], "a repetition ends before 1"),
        ([0, 1, 2, FAULT, 0, 3, 2], "a repetition ends before 1"),
        ([0, 1, 2, FAULT, 0, 2, 3], "2 follows 0, which ends a repetition before 3"),
    ],
)
def test_each_error_is_found(arrivals: list[int], error: str) -> None:
    assert error in "\n".join(books_of(*arrivals, emitted=4).errors)


def test_gap_record_counts_once() -> None:
    books = Books(1)
    gap = records.gap(3, "spool_full")
    for each in (gap, gap, records.gap(None, "relay_restarted")):
        books.note(each)
    assert (books.announced, books.repeated_gaps, books.unknown) == (3, 1, 1)


def test_broker_that_removes_duplicates_may_omit_some() -> None:
    books = Books(1, removes_duplicates=True)
    for each in (0, 1, 2):
        books.note(record(0, each).encode())
    books.note(mark("fault"))
    for each in (0, 3):
        books.note(record(0, each).encode())
    books.finish([4])
    assert books.errors == []
    assert books.duplicates == {"fault": 1}
