# SPDX-License-Identifier: Apache-2.0
"""Filters match like shell globs, within limits and at a bounded cost."""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import re
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from notif_relay.request import MAX_COMPILED, MAX_PATTERN_SIZE, MAX_PATTERNS
from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.streams import Streams
from notif_relayd.records.filters import (
    KEYS,
    UNFILTERED,
    Filter,
    FilterError,
    View,
)
from notif_relayd.records.selector import Selector


def passes(
    asked: dict[str, Any],
    event_type: str = "compute.instance.create.end",
    priority: str = "INFO",
    publisher_id: str = "",
) -> bool:
    """Return whether a filter passes a notification, and check that a selector agrees."""
    routing_key = event_type, priority, publisher_id
    view = View(Filter.parse(asked))
    selector: Selector[str] = Selector()
    selector.add(view, "tested")
    selector.add(View(Filter.parse({"event_type": ["never"]})), "other")
    assert ("tested" in selector.select([routing_key], b"")) == view(routing_key)
    return view(routing_key)


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
def test_one_pattern_of_each_key_must_match(asked: dict[str, Any], passing: bool) -> None:
    assert passes(asked, publisher_id="nova-compute:host-1") is passing


def test_gap_record_passes_every_filter() -> None:
    gap = {"event_type": "notif_relayd.gap", "priority": "WARN"}
    assert passes({"event_type": ["volume.*"], "priority": ["ERROR"]}, **gap)
    assert not passes({"event_type": ["volume.*"]}, event_type="notif_relayd.gaps")


def test_order_of_patterns_does_not_matter() -> None:
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
        ([], "not an object"),
        ("event_type", "not an object"),
        (None, "not an object"),
        ({"context": ["x"]}, "'context' in the filter; the keys are .*, payload"),
        ({"payload": {"a": "x"}}, r"In the filter, payload path 'a' must have a list.*'x'\."),
        ({"payload": []}, "payload must be an object"),
        ({"event_type": "compute.*"}, "event_type is not a list"),
        ({"event_type": []}, "event_type is not a list"),
        ({"event_type": None}, "event_type is not a list"),
        ({"event_type": ["a", 5]}, "event_type is not a list"),
        ({"priority": [["INFO"]]}, "priority is not a list"),
        ({"publisher_id": ["x"] * (MAX_PATTERNS + 1)}, "publisher_id has 65 patterns"),
        ({"event_type": ["x" * (MAX_PATTERN_SIZE + 1)]}, "event_type is longer than 256"),
        (
            {"event_type": ["a?", "[b]", "c*"], "publisher_id": ["?" * (MAX_COMPILED - 4)]},
            "129 characters in total; the limit is 128",
        ),
        (
            {"event_type": ["a?"], "payload": {"b": [{"glob": "?" * (MAX_COMPILED - 1)}]}},
            "129 characters in total; the limit is 128",
        ),
    ],
)
def test_invalid_filter_is_refused(asked: object, words: str) -> None:
    with pytest.raises(FilterError, match=words):
        Filter.parse(asked)


def test_filter_at_the_limits_is_accepted() -> None:
    patterns = [f"{number:0{MAX_PATTERN_SIZE}}" for number in range(MAX_PATTERNS)]
    assert passes({"event_type": patterns}, event_type=patterns[-1])
    longest = "?" * (MAX_COMPILED - 4)
    asked = {"event_type": [longest], "priority": ["[A]", "*"], "publisher_id": ["?"]}
    assert passes(asked, event_type="x" * len(longest), publisher_id="x")


@pytest.mark.parametrize("pattern", ["ŉ" * 129, "ŉ" * 64 + "?"])
def test_priority_is_measured_in_upper_case(pattern: str) -> None:
    """A filter is saved in upper case, and the next relay must accept it."""
    with pytest.raises(FilterError, match="characters"):
        Filter.parse({"priority": [pattern]})
    at_limit = Filter.parse({"priority": [pattern[1:]]})
    assert Filter.parse(at_limit.request) == at_limit


def test_patterns_that_have_only_stars_are_not_compiled() -> None:
    """Compiling a request of the maximum size would take Python a third of a second."""
    many = {key: [f"{number}" + "*a" * 120 for number in range(64)] for key in KEYS}
    assert not Filter.parse(many).compiled
    assert list(Filter.parse({"event_type": ["a*", "a?"]}).compiled) == ["a?"]


def test_pattern_that_python_cannot_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python before 3.10.5 fails on a reversed range."""
    monkeypatch.setattr("notif_relayd.records.filters.fnmatch.translate", lambda glob: glob)
    with pytest.raises(FilterError, match=r"'\[b-a\]' cannot be compiled: bad character range b-a"):
        Filter.parse({"event_type": ["x*", "[b-a]"]})


@pytest.mark.parametrize("pattern", ["[b-a]", "[a-", "[]", "[!]", "[[a]", "[a--b]", "[^&&~~||]?"])
def test_unusual_character_set_is_used_or_refused(pattern: str) -> None:
    with contextlib.suppress(FilterError):
        assert passes({"event_type": [pattern]}, event_type="a") == fnmatch.fnmatchcase(
            "a", pattern
        )


def request(*globs: str) -> dict[str, list[str]]:
    return {key: list(globs) for key in KEYS}


any_character = st.characters(exclude_characters="?[", exclude_categories=["Cs"])
globs = st.one_of(
    st.text(any_character, max_size=MAX_PATTERN_SIZE // 3),
    st.text("*aāဂ🂡", max_size=MAX_PATTERN_SIZE // 3),
    st.builds(lambda part: (part + "*") * 60, st.sampled_from(["abc", "āāā", "🂡", ""])),
    st.builds(lambda text: "*" + text + "*a", st.text(any_character, min_size=3, max_size=5)),
    st.sampled_from(["?*" * 15, "[āࠁᠠ⠀㠀]" * 4, "[🀀🁀🂀]?"]),
)
requests = st.dictionaries(
    st.sampled_from(KEYS), st.lists(globs, min_size=1, max_size=MAX_PATTERNS), max_size=3
)


def parsed(asked: dict[str, list[str]]) -> Filter | None:
    with contextlib.suppress(FilterError):
        return Filter.parse(asked)
    return None


def memory_of(filters: list[dict[str, list[str]]]) -> tuple[int, int]:
    """Return the bytes that these filters take in a relay, and the bytes charged for them."""
    streams = Streams(Store(1000))
    first = Filter.parse(request("a", "b*", "*c", "*d*", "*", "?e", "*hij*k"))
    streams.of(View(first))
    msgspec.msgpack.encode(first.request)
    lines = [msgspec.json.encode(each) for each in filters]
    cost = 0
    re.purge()
    gc.freeze()  # gc.collect() then skips the objects of all other tests, which are many.
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for line in lines:
            one = parsed(msgspec.json.decode(line))
            if one is not None:
                streams.of(View(one))
                msgspec.msgpack.encode(one.request)
                cost += one.cost
            one = None
        re.purge()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before, cost
    finally:
        tracemalloc.stop()
        gc.unfreeze()


@given(st.lists(requests, min_size=1, max_size=10))
@settings(deadline=None, max_examples=20)
@example([request("*")])
@example([request(*(f"{number}" for number in range(64)))] * 2)
@example([request(*(f"{n % 2 + number}*" for n in range(64))) for number in range(0, 1280, 64)])
@example(
    [
        request(*(f"{number}{n}*" for n in range(63)), f"{m}")
        for number in range(9)
        for m in range(9)
    ]
)
@example([request(*(f"*{chr(256 + n)}{chr(300 + m)}a*" for n in range(64))) for m in range(9)])
@example([request(*(f"{n:03}" + "*ā" * 126 for n in range(55)))])
@example(
    [request(*(f"{m} {n}" for n in range(58))) for m in range(6)]
)  # dictionaries that have just grown
@example([{"event_type": [chr(97 + n) + "?" for n in range(64)]}])
@example([{"event_type": ["[" + "".join(chr(256 + 257 * n) for n in range(126)) + "]"]}])
@example([{"event_type": ["?*" * 64]}])
def test_cost_is_an_upper_bound_of_the_memory(filters: list[dict[str, list[str]]]) -> None:
    memory_of(filters)  # fills caches, which are allocated once
    memory, cost = memory_of(filters)
    assert memory <= cost


def test_cost_of_plain_patterns_is_near_their_size() -> None:
    for size in (1, 20, MAX_PATTERN_SIZE - 2):
        asked = request(*(f"{number:02}" + "x" * size for number in range(MAX_PATTERNS)))
        patterns = len(KEYS) * MAX_PATTERNS
        assert Filter.parse(asked).cost <= 4096 + patterns * (size + 400)


def test_patterns_that_take_time_cost_more() -> None:
    def cost(glob: str) -> int:
        return Filter.parse({"event_type": [glob]}).cost

    assert cost("*b*") > cost("*bb") == cost("bb*") == cost("bbb")
    assert cost("?bb") > cost("*b*")


@pytest.mark.parametrize("glob", ["*a" * 127 + "*b", "*" * 255 + "b", "?*" * 63 + "b"])
def test_hostile_glob_takes_bounded_time(glob: str) -> None:
    """Matching with backtracking would not end."""
    assert not passes({"event_type": [glob]}, event_type="a" * 100_000)


@pytest.mark.parametrize(
    ("glob", "passing"),
    [
        ("a*", True),
        ("*b", True),
        ("a*b", True),
        ("a" * 255 + "*", True),
        ("a" * 128 + "*" + "b" * 127, True),
        ("a" * 256, False),
        ("*c*", False),  # only the start and the end are compared
        ("*ab*", True),
    ],
)
@pytest.mark.parametrize("key", KEYS)
def test_long_field_is_compared_at_both_ends(key: str, glob: str, passing: bool) -> None:
    value = "A" * 300 + "C" * 100_000 + "B" * 300
    if key != "priority":
        value = value.lower()
    assert passes({key: [glob]}, **{key: value}) is passing


@given(
    st.text("ab*?[]!-", max_size=8) | st.text("ab*", max_size=12),
    st.text("ab*?[]!-", max_size=8) | st.text("ab", max_size=12),
)
def test_glob_matches_as_with_fnmatch(glob: str, value: str) -> None:
    expected = fnmatch.fnmatchcase(value, glob)
    assert passes({"event_type": [glob]}, event_type=value) == expected
    assert passes({"publisher_id": ["never", glob]}, publisher_id=value) == expected


def test_patterns_are_independent_of_each_other() -> None:
    asked = {"event_type": ["*a*b", "*c*d", "[x", "e|f", "(g"]}
    for value in ("1a2b", "3c4d", "[x", "e|f", "(g"):
        assert passes(asked, event_type=value)
    for value in ("ad", "e", "f", "g", "x"):
        assert not passes(asked, event_type=value)


def allowing(*rules: dict[str, list[str]]) -> frozenset[Filter]:
    return frozenset(Filter.parse(rule) for rule in rules)


def test_views_are_equal_when_filter_and_rules_are() -> None:
    rules = {"event_type": ["a"]}, {"publisher_id": ["b"]}
    one = View(Filter.parse({"priority": ["info"]}), allowing(*rules))
    other = View(Filter.parse({"priority": ["INFO"]}), allowing(*reversed(rules)))
    assert one == other
    assert hash(one) == hash(other)
    assert one != View(one.requested, allowing(rules[0]))
    assert one != View(one.requested)
    assert not one.is_unfiltered
    assert View() == UNFILTERED
    assert UNFILTERED.is_unfiltered
