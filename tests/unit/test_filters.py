# SPDX-License-Identifier: Apache-2.0
"""A filter lets through what its globs say, within limits, and at a bounded cost."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relayd.filters import (
    EVERYTHING,
    KEYS,
    MAX_COMPILED,
    MAX_PATTERN_SIZE,
    MAX_PATTERNS,
    REMEMBERED,
    Filter,
    FilterError,
    Selector,
    View,
)


def passes(
    asked: dict[str, Any],
    event_type: str = "compute.instance.create.end",
    priority: str = "INFO",
    publisher_id: str = "",
) -> bool:
    """Whether a filter lets a notification through, by itself and beside others."""
    kind = event_type, priority, publisher_id
    selector = Selector()
    view = View(Filter.parse(asked))
    selector.use([view])
    alone = selector.select([kind, kind])
    assert alone in ({}, {view: [0, 1]})
    selector.use([View(Filter.parse({"event_type": ["never"]})), view, EVERYTHING])
    assert (view in selector.select([kind, kind])) == (view in alone)
    return view in alone


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
        ({"event_type": ["compute.instance.create.end*end"]}, False),
        ({"event_type": ["compute.*create.e*e.end"]}, False),
        ({"event_type": ["*instance*compute*"]}, False),
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
        (
            {"event_type": ["a?", "[b]", "c*"], "publisher_id": ["?" * (MAX_COMPILED - 4)]},
            "129 characters together; there may be 128",
        ),
    ],
)
def test_a_filter_that_cannot_be_is_refused_in_a_sentence(asked: object, words: str) -> None:
    with pytest.raises(FilterError, match=words):
        Filter.parse(asked)


def test_the_limits_themselves_are_allowed() -> None:
    patterns = [f"{number:0{MAX_PATTERN_SIZE}}" for number in range(MAX_PATTERNS)]
    assert passes({"event_type": patterns}, event_type=patterns[-1])
    longest = "?" * (MAX_COMPILED - 4)
    asked = {"event_type": [longest], "priority": ["[A]", "*"], "publisher_id": ["?"]}
    assert passes(asked, event_type="x" * len(longest), publisher_id="x")


@pytest.mark.parametrize("pattern", ["ŉ" * 129, "ŉ" * 64 + "?"])
def test_a_priority_is_measured_in_upper_case_as_it_is_saved(pattern: str) -> None:
    """One that the next relay would refuse would have it refuse the state of all."""
    with pytest.raises(FilterError, match="characters"):
        Filter.parse({"priority": [pattern]})
    just_right = Filter.parse({"priority": [pattern[1:]]})
    assert Filter.parse(just_right.request) == just_right


def test_only_so_much_of_a_filter_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's compiler would take a third of a second for all that a request has room for."""
    compiled: list[str] = []
    monkeypatch.setattr(
        "notif_relayd.filters.fnmatch.translate", lambda glob: compiled.append(glob) or "x"
    )
    Filter.parse({key: [f"{number}" + "*a" * 120 for number in range(64)] for key in KEYS})
    assert not compiled
    Filter.parse({"event_type": ["a*", "a?"]})
    assert compiled == ["a?"]


@pytest.mark.parametrize("glob", ["*a" * 127 + "*b", "*" * 255 + "b", "?*" * 63 + "b"])
def test_a_hostile_glob_comes_to_an_end(glob: str) -> None:
    """One that tries all ways would be at it for longer than the universe is old."""
    assert not passes({"event_type": [glob]}, event_type="a" * 100_000)


@given(
    st.text("ab*?[]!-", max_size=8) | st.text("ab*", max_size=12),
    st.text("ab*?[]!-", max_size=8) | st.text("ab", max_size=12),
)
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
    view = View(Filter.parse({"event_type": ["*[02468]"]}))
    selector.use([view])
    kinds = [(str(number), "INFO", "") for number in range(3 * REMEMBERED)]
    places = list(range(0, 3 * REMEMBERED, 2))
    assert selector.select(kinds) == {view: places}
    assert selector.select(kinds) == {view: places}
    assert len(selector._remembered) <= REMEMBERED  # noqa: SLF001 - the point of the test


def test_without_filters_nothing_is_chosen_and_nothing_remembered() -> None:
    selector = Selector()
    selector.use([View(Filter.parse({"event_type": ["a"]}))])
    assert len(selector.select([("a", "INFO", "")])) == 1
    selector.use([])
    assert selector.select([("a", "INFO", "")]) == {}


def allowing(*rules: dict[str, list[str]]) -> frozenset[Filter]:
    return frozenset(Filter.parse(rule) for rule in rules)


@pytest.mark.parametrize(
    ("event_type", "passes"),
    [
        ("compute.start", True),
        ("compute.end", False),
        ("volume.start", True),
        ("port.start", False),
    ],
)
def test_a_view_has_what_was_asked_for_of_what_any_rule_allows(
    event_type: str, passes: bool
) -> None:
    asked = Filter.parse({"event_type": ["*.start"]})
    view = View(asked, allowing({"event_type": ["compute.*"]}, {"event_type": ["volume.*"]}))
    selector = Selector()
    selector.use([view])
    assert (selector.select([(event_type, "INFO", "")]) == {view: [0]}) == passes


def test_who_may_see_nothing_sees_gap_records_only() -> None:
    selector = Selector()
    nothing = View(allowed=frozenset())
    selector.use([nothing])
    kinds = [("compute.start", "INFO", ""), ("notif_relayd.gap", "WARN", "")]
    assert selector.select(kinds) == {nothing: [1]}


def test_views_are_one_when_they_ask_for_the_same_and_may_see_the_same() -> None:
    rules = {"event_type": ["a"]}, {"publisher_id": ["b"]}
    one = View(Filter.parse({"priority": ["info"]}), allowing(*rules))
    other = View(Filter.parse({"priority": ["INFO"]}), allowing(*reversed(rules)))
    assert one == other
    assert hash(one) == hash(other)
    assert one != View(one.asked, allowing(rules[0]))
    assert one != View(one.asked)
    assert not one.is_everything
    assert View() == EVERYTHING
    assert EVERYTHING.is_everything
