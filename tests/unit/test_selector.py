# SPDX-License-Identifier: Apache-2.0
"""A selector agrees with the filters themselves, at bounded memory and cost."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from notif_relayd.records import field_values, pattern_index
from notif_relayd.records import filters as filters_module
from notif_relayd.records import selector as module
from notif_relayd.records.filters import KEYS, Filter, View
from notif_relayd.records.selector import MAX_TARGETS_SIZE, Selector
from notif_relayd.records.validator import RoutingKey

GAP = ("notif_relayd.gap", "WARN", "")


def view(**asked: list[str]) -> View:
    return View(Filter.parse(asked))


def allowing(*rules: dict[str, list[str]]) -> frozenset[Filter]:
    return frozenset(Filter.parse(rule) for rule in rules)


def expected(members: dict[str, View], routing_keys: list[RoutingKey]) -> dict[str, list[int]]:
    """Return the result of a selector with these members, computed with the views."""
    positions = {
        name: [position for position, routing_key in enumerate(routing_keys) if each(routing_key)]
        for name, each in members.items()
    }
    return {name: matching for name, matching in positions.items() if matching}


@pytest.mark.parametrize(
    ("event_type", "passes"),
    [
        ("compute.start", True),
        ("compute.end", False),
        ("volume.start", True),
        ("port.start", False),
    ],
)
def test_view_is_request_and_any_allowed_filter(event_type: str, passes: bool) -> None:
    asked = Filter.parse({"event_type": ["*.start"]})
    rules = allowing({"event_type": ["compute.*"]}, {"event_type": ["volume.*"]})
    selector: Selector[str] = Selector()
    selector.add(View(asked, rules), "target")
    assert selector.select([(event_type, "INFO", "")], b"") == ({"target": [0]} if passes else {})


@pytest.mark.parametrize("asked", [None, Filter.parse({"priority": ["INFO"]})])
def test_view_without_rules_has_gap_records_only(asked: Filter | None) -> None:
    selector: Selector[str] = Selector()
    selector.add(View(asked, frozenset()), "target")
    assert selector.select([("compute.start", "INFO", ""), GAP], b"") == {"target": [1]}


texts = st.text("ab.*?[", max_size=5) | st.sampled_from(["abcab", "a.b.a", "notif_relayd.gap"])
globs = st.text("ab.*?[]", max_size=6) | st.text("abc.*", max_size=8)
requests = st.dictionaries(
    st.sampled_from(KEYS), st.lists(globs, min_size=1, max_size=4), max_size=3
)
filters = requests.map(Filter.parse)
long_texts = st.builds(lambda a, n, b: a + "a" * n + b, texts, st.integers(500, 520), texts)
routing_keys = st.lists(
    st.tuples(texts | long_texts, st.sampled_from(["a", "A", "ab", "INFO"]), texts), max_size=40
)


class SelectorMachine(RuleBasedStateMachine):
    """Add and remove views, and select records, with limits at which values are evicted."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = pytest.MonkeyPatch()
        self.limits.setattr(field_values, "MAX_REMEMBERED_SIZE", 9000)
        self.limits.setattr(module, "MAX_TARGETS", 5)
        self.limits.setattr(module, "EVICTION_BATCH", 2)
        self.limits.setattr(field_values, "EVICTION_BATCH", 2)
        self.limits.setattr(field_values, "MOVES", 2)
        self.selector: Selector[str] = Selector()
        self.members: dict[str, View] = {}
        self.number = 0

    def teardown(self) -> None:
        self.limits.undo()

    @rule(asked=st.none() | filters, allowed=st.none() | st.frozensets(filters, max_size=2))
    def add(self, asked: Filter | None, allowed: frozenset[Filter] | None) -> None:
        one = View(asked, allowed)
        if one.is_unfiltered or one in self.members.values():
            return
        self.number += 1
        name = f"target {self.number}"
        self.members[name] = one
        self.selector.add(one, name)

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.members)))
        self.selector.remove(self.members.pop(name), name)

    @rule(routing_keys=routing_keys)
    def select(self, routing_keys: list[RoutingKey]) -> None:
        assert self.selector.select(routing_keys, b"") == expected(self.members, routing_keys)

    @rule(routing_keys=routing_keys)
    def select_one_by_one(self, routing_keys: list[RoutingKey]) -> None:
        for routing_key in routing_keys:
            assert self.selector.select([routing_key], b"") == expected(self.members, [routing_key])

    @invariant()
    def known_values_are_selected(self) -> None:
        known = [("a", "A", ""), ("ab", "A", "b"), GAP]
        assert self.selector.select(known, b"") == expected(self.members, known)


SelectorMachine.TestCase.settings = settings(deadline=None, max_examples=50)
test_selector_agrees_with_filters = SelectorMachine.TestCase


def memory_after(selector: Selector[str], routing_keys: Iterable[RoutingKey]) -> int:
    """Return the bytes by which a selector grows when it selects these routing keys."""
    gc.collect()
    tracemalloc.start()
    try:
        for routing_key in routing_keys:
            selector.select([routing_key], b"")
        del routing_key
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def key_with(number: int, field: int, value: str) -> RoutingKey:
    """Return a routing key with `value` in one field, and one of a few values in the others."""
    routing_key = [f"e{number % 7}", "INFO", f"p{number % 5}"]
    routing_key[field] = value
    return routing_key[0], routing_key[1], routing_key[2]


@pytest.mark.parametrize("field", range(3))
def test_values_of_a_megabyte_are_not_kept(field: int) -> None:
    selector: Selector[str] = Selector()
    selector.add(view(**{KEYS[field]: ["x*"]}), "target")
    values = (f"e{number}" + "z" * 1_000_000 for number in range(200))
    routing_keys = (key_with(number, field, value) for number, value in enumerate(values))
    assert memory_after(selector, routing_keys) < 1_000_000


@pytest.mark.parametrize("length", [10, 512])
@pytest.mark.parametrize("field", range(3))
def test_memory_of_values_is_bounded(
    field: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_values, "MAX_REMEMBERED_SIZE", 400_000)
    selector: Selector[str] = Selector()
    for number in range(40):
        selector.add(view(**{KEYS[field]: [f"*{number:02}*", "🀀1*"]}), f"{number}")
    count = 3 * 400_000 // (400 + 4 * length)
    values = (f"🀀{number:0{length - 1}}" for number in range(count))
    routing_keys = (key_with(number, field, value) for number, value in enumerate(values))
    memory = memory_after(selector, routing_keys)
    assert 100_000 < memory < 400_000 + MAX_TARGETS_SIZE // 2


def test_memory_of_targets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each record passes a different half of the filters."""
    monkeypatch.setattr(module, "MAX_TARGETS_SIZE", 100_000)
    selector: Selector[str] = Selector()
    rng = random.Random(1)
    for number in range(200):
        globs = [f"{value}" for value in range(64) if rng.random() < 0.9]
        selector.add(view(event_type=globs, publisher_id=globs[::-1]), f"{number}")
    memory_after(selector, [(f"{n}", "INFO", f"{n}") for n in range(64)])
    routing_keys = ((f"{n % 64}", "INFO", f"{n % 61}") for n in range(1000))
    assert memory_after(selector, routing_keys) < 120_000


class Counter:
    """Counts the matches of single patterns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        for each in (filters_module, pattern_index):
            monkeypatch.setattr(each, "matches", self)

    def __call__(self, glob: str, text: str) -> bool:
        self.calls += 1
        return original(glob, text)


original = filters_module.matches


def test_filter_change_affects_only_that_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    selector: Selector[str] = Selector()
    for number in range(50):
        selector.add(view(event_type=[f"*ute*{number}-{n}*" for n in range(64)]), f"{number}")
    routing_keys = [(f"compute.e{number}", "INFO", "p") for number in range(40)]
    selector.select(routing_keys, b"")
    counter = Counter(monkeypatch)
    selector.select(routing_keys, b"")
    assert counter.calls == 0
    for number in range(10):
        toggled = view(event_type=["*a*b*", f"*e{number}"])
        selector.add(toggled, "toggled")
        assert selector.select(routing_keys, b"") == {"toggled": [number]}
        selector.remove(toggled, "toggled")
        assert selector.select(routing_keys, b"") == {}
    assert counter.calls <= 10 * 2 * len(routing_keys)


def test_known_value_after_many_changes_is_like_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    selector: Selector[str] = Selector()
    known = ("compute.create", "INFO", "p")
    selector.select([known], b"")
    for number in range(100):
        selector.add(view(event_type=[f"{number}*", "*y*z*"]), f"{number}")
    read: list[Filter] = []
    globs = Filter.globs

    def counted(wanted: Filter, key: str) -> tuple[str, ...]:
        read.append(wanted)
        return globs(wanted, key)

    monkeypatch.setattr(Filter, "globs", counted)
    assert selector.select([known], b"") == {}
    assert selector.select([("7.y", "INFO", "p")], b"") == {"7": [0]}
    assert not read


@pytest.mark.parametrize(("filters", "patterns"), [(1, 4), (50, 20)])
def test_new_value_is_tried_on_few_patterns(
    filters: int, patterns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    selector: Selector[str] = Selector()
    for number in range(filters):
        globs = [f"*c*{number}-{n}*" for n in range(patterns)]
        plain = [f"{number}.{n}{end}" for n in range(patterns) for end in ("", "*")]
        selector.add(view(event_type=[*globs, *plain, f"*/{number}"]), f"{number}")
    counter = Counter(monkeypatch)
    for number in range(60):
        selected = selector.select([(f"compute{number}+7/{number}", "INFO", "p")], b"")
        assert list(selected) == ([f"{number}"] if number < filters else [])
    assert counter.calls == 0


def test_filter_that_passed_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    selector: Selector[str] = Selector()
    selector.add(view(event_type=["*a*b*", "*b*c*", "*"]), "target")
    counter = Counter(monkeypatch)
    assert selector.select([("abc", "INFO", "p")], b"") == {"target": [0]}
    assert counter.calls == 0


def test_equal_pattern_of_many_filters_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    selector: Selector[str] = Selector()
    for number in range(50):
        selector.add(view(event_type=["*a*b*"], publisher_id=[f"{number}"]), f"{number}")
    counter = Counter(monkeypatch)
    assert selector.select([("cabs", "INFO", "7")], b"") == {"7": [0]}
    assert counter.calls == 1


def test_bit_of_a_removed_filter_is_used_again() -> None:
    """The remembered values do not grow with the number of changes."""
    selector: Selector[str] = Selector()

    def change(times: int) -> Iterator[RoutingKey]:
        for number in range(times):
            one = view(event_type=[f"e{number % 100}"])
            selector.add(one, "target")
            yield f"e{number * 7 % 100}", "INFO", "p"
            selector.remove(one, "target")

    memory_after(selector, change(200))
    assert memory_after(selector, change(3000)) < 50_000
