# SPDX-License-Identifier: Apache-2.0
"""A filter lets through what its globs say, within limits, and at a bounded cost."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relayd.filters import (
    MAX_PATTERN_SIZE,
    MAX_PATTERNS,
    REMEMBERED,
    Filter,
    FilterError,
    Selector,
)
from notif_relayd.validator import Header


def passes(asked: dict[str, Any], **fields: Any) -> bool:
    """Whether a filter lets a notification through, by itself and beside others."""
    header = Header(**{"event_type": "compute.instance.create.end", "priority": "INFO"} | fields)
    wanted = Filter.parse(asked)
    selector = Selector()
    selector.use([wanted])
    alone = selector.select([header, header])
    assert alone in ({}, {wanted: [0, 1]})
    selector.use([Filter.parse({"event_type": ["never"]}), wanted, Filter.parse({})])
    assert (wanted in selector.select([header, header])) == (wanted in alone)
    return wanted in alone


@pytest.mark.parametrize(
    ("asked", "passing"),
    [
        ({}, True),
        ({"event_type": ["compute.instance.*"]}, True),
        ({"event_type": ["compute.instance"]}, False),
        ({"event_type": ["volume.*", "*.end"]}, True),
        ({"event_type": ["*.start"]}, False),
        ({"event_type": ["Compute.*"]}, False),
        ({"event_type": ["compute.instance.create.en?"]}, True),
        ({"event_type": ["[a-c]ompute*"]}, True),
        ({"event_type": ["[!c]ompute*"]}, False),
        ({"event_type": ["compute.instance.create.end*"]}, True),
        ({"priority": ["info"]}, True),
        ({"priority": ["WARN", "ERR*"]}, False),
        ({"priority": ["[h-j]nfo"]}, True),
        ({"publisher_id": ["nova-compute:*"]}, True),
        ({"publisher_id": ["nova-compute"]}, False),
        ({"publisher_id": ["Nova*"]}, False),
        ({"event_type": ["*"], "priority": ["INFO"], "publisher_id": ["*:host-1"]}, True),
        ({"event_type": ["*"], "priority": ["DEBUG"], "publisher_id": ["*:host-1"]}, False),
    ],
)
def test_any_pattern_of_a_key_may_match_and_all_keys_must(
    asked: dict[str, Any], passing: bool
) -> None:
    assert passes(asked, publisher_id="nova-compute:host-1") is passing


@pytest.mark.parametrize("publisher_id", [None, 5, ["nova"], {"a": 1}, True])
def test_a_publisher_that_is_no_string_is_an_empty_one(publisher_id: Any) -> None:
    assert not passes({"publisher_id": ["?*"]}, publisher_id=publisher_id)
    assert passes({"publisher_id": ["*"]}, publisher_id=publisher_id)
    assert passes({"event_type": ["*"]}, publisher_id=publisher_id)


def test_a_gap_record_passes_whatever_the_filter() -> None:
    gap = {"event_type": "notif_relayd.gap", "priority": "WARN"}
    assert passes({"event_type": ["volume.*"], "priority": ["ERROR"]}, **gap)
    assert not passes({"event_type": ["volume.*"]}, event_type="notif_relayd.gaps")


def test_equal_filters_are_one_whatever_the_order() -> None:
    one = Filter.parse({"event_type": ["a", "b"], "priority": ["info"]})
    two = Filter.parse({"priority": ["INFO"], "event_type": ["b", "a", "a"]})
    other = Filter.parse({"event_type": ["a", "b"]})
    assert one == two
    assert hash(one) == hash(two)
    assert one != other
    assert one != "a"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([], "no object"),
        ("event_type", "no object"),
        (None, "no object"),
        ({"payload": ["x"]}, "'payload'"),
        ({"event_type": "compute.*"}, "event_type is no list"),
        ({"event_type": []}, "event_type is no list"),
        ({"event_type": None}, "event_type is no list"),
        ({"event_type": ["a", 5]}, "event_type is no list"),
        ({"priority": [["INFO"]]}, "priority is no list"),
        ({"publisher_id": ["x"] * (MAX_PATTERNS + 1)}, "publisher_id has 65 patterns"),
        ({"event_type": ["x" * (MAX_PATTERN_SIZE + 1)]}, "event_type is longer than 256"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_in_a_sentence(asked: object, words: str) -> None:
    with pytest.raises(FilterError, match=words):
        Filter.parse(asked)


def test_the_limits_themselves_are_allowed() -> None:
    patterns = [f"{number:0{MAX_PATTERN_SIZE}}" for number in range(MAX_PATTERNS)]
    assert passes({"event_type": patterns}, event_type=patterns[-1])


@pytest.mark.parametrize("glob", ["*a" * 127 + "*b", "*" * 255 + "b", "?*" * 127 + "b"])
def test_a_hostile_glob_comes_to_an_end(glob: str) -> None:
    """One that tries all ways would be at it for longer than the universe is old."""
    assert not passes({"event_type": [glob] * MAX_PATTERNS}, event_type="a" * 100_000)


@given(st.text("ab*?[]!-", max_size=8), st.text("ab*?[]!-", max_size=8))
def test_a_glob_is_what_fnmatch_says(glob: str, value: str) -> None:
    expected = fnmatch.fnmatchcase(value, glob)
    assert passes({"event_type": [glob]}, event_type=value) == expected
    assert passes({"publisher_id": ["never", glob]}, publisher_id=value) == expected


def test_a_pattern_does_not_lend_its_flags_or_groups_to_another() -> None:
    asked = {"event_type": ["*a*b", "*c*d", "[x", "e|f", "(g"]}
    for value in ("1a2b", "3c4d", "[x", "e|f", "(g"):
        assert passes(asked, event_type=value)
    for value in ("ad", "e", "f", "g", "x"):
        assert not passes(asked, event_type=value)


def test_what_is_remembered_is_bounded_and_still_right() -> None:
    selector = Selector()
    even = Filter.parse({"event_type": ["*[02468]"]})
    selector.use([even])
    headers = [Header(str(number), "INFO") for number in range(3 * REMEMBERED)]
    places = list(range(0, 3 * REMEMBERED, 2))
    assert selector.select(headers) == {even: places}
    assert selector.select(headers) == {even: places}
    assert len(selector._remembered) <= REMEMBERED  # noqa: SLF001 - the point of the test


def test_without_filters_nothing_is_chosen_and_nothing_remembered() -> None:
    selector = Selector()
    selector.use([Filter.parse({"event_type": ["a"]})])
    assert len(selector.select([Header("a", "INFO")])) == 1
    selector.use([])
    assert selector.select([Header("a", "INFO")]) == {}
