# SPDX-License-Identifier: Apache-2.0
"""The selector agrees with payload patterns themselves, and decodes records at a bounded cost."""

from __future__ import annotations

import gc
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notif_relayd.fanout.saved_state import ViewState
from notif_relayd.records import payload_index as module
from notif_relayd.records import subscription_request
from notif_relayd.records.filters import Filter, View
from notif_relayd.records.path_alternatives import PathAlternatives
from notif_relayd.records.payload_tree import Node, PayloadTree
from notif_relayd.records.selector import Selector
from notif_relayd.records.validator import RoutingKey, Validator

ROUTING_KEY = ("a", "INFO", "")


def view(payload: dict[str, Any], **asked: list[str]) -> View:
    return View(Filter.parse({"payload": payload, **asked}))


def record(payload: object, event_type: str = "a") -> bytes:
    fields = {"event_type": event_type, "priority": "INFO", "payload": payload}
    return json.dumps(fields).encode() + b"\n"


def raw(payload: str) -> bytes:
    return b'{"event_type": "a", "priority": "INFO", "payload": ' + payload.encode() + b"}\n"


def selects(payload: dict[str, Any], data: bytes) -> bool:
    """Return whether a record that the relay accepts passes a pattern."""
    assert Validator(len(data)).validate(data).routing_keys == [ROUTING_KEY]
    selector: Selector[str] = Selector()
    selector.add(view(payload), "target")
    return selector.select([ROUTING_KEY], data) == {"target": [0]}


LONG_TEXT = "a" + "x" * 600 + "b"
TEXTS = ["", "a", "ab", "a*", "1", LONG_TEXT]
NUMBERS = [0, 1, 1.0, -1.5, 1.5, 2, 3, 2**60, float(2**60), 2**61 - 1]
SCALARS = [*TEXTS, *NUMBERS, True, False, None]
GLOBS = ["*", "a*", "*b", "a*b", "?", "[ab]*"]
RANGES: list[list[float | None]] = [[0, 1], [None, 1.5], [2, None], [None, None], [1, 2**60]]

numbers = st.sampled_from(NUMBERS)
texts = st.sampled_from(TEXTS)
scalars = st.sampled_from(SCALARS)
keys = st.sampled_from(["a", "b", "a.b", "a.a"])
objects = st.recursive(
    st.dictionaries(keys, scalars | st.lists(scalars, max_size=2), min_size=1),
    lambda inner: st.dictionaries(keys, inner | st.lists(inner | scalars, max_size=3), min_size=1),
    max_leaves=4,
)
payloads = st.lists(objects | scalars | st.lists(objects), min_size=1, max_size=12)
short = texts.map(lambda text: text[:2])
alternatives = st.one_of(
    short | numbers | st.sampled_from([True, False, None]),
    st.builds(lambda glob: {"glob": glob}, st.sampled_from(GLOBS)),
    st.builds(lambda prefix: {"prefix": prefix}, short),
    st.builds(lambda some: {"not": some}, st.lists(short | numbers, min_size=1, max_size=3)),
    st.builds(lambda wanted: {"exists": wanted}, st.booleans()),
    st.builds(lambda limits: {"range": limits}, st.sampled_from(RANGES)),
)
patterns = st.dictionaries(
    keys, st.lists(alternatives, min_size=1, max_size=2), min_size=1, max_size=2
)
filters = st.builds(
    lambda pattern, globs: Filter.parse({"payload": pattern} | globs),
    patterns,
    st.sampled_from([{}, {"event_type": ["a"]}]),
) | st.sampled_from([Filter.parse({"event_type": ["*"]}), Filter.parse({"event_type": ["b"]})])
views = st.builds(View, filters) | st.builds(View, filters, st.frozensets(filters, max_size=2))


@given(st.lists(views, min_size=2, max_size=8, unique=True), payloads, st.booleans(), st.data())
@settings(deadline=None, max_examples=12)
def test_selector_agrees_with_patterns(
    pool: list[View], batch: list[object], is_small: bool, data: st.DataObject
) -> None:
    routing_keys = [("ab"[index % 2], "INFO", "") for index in range(len(batch))]
    lines = [record(*each) for each in zip(batch, "ab" * len(batch), strict=False)]
    selector: Selector[int] = Selector()
    used: set[int] = set()

    def check() -> None:
        expected = {
            number: [n for n, each in enumerate(batch) if pool[number](routing_keys[n], each)]
            for number in used
        }
        expected = {number: places for number, places in expected.items() if places}
        assert selector.select(routing_keys, b"".join(lines)) == expected
        for n, line in enumerate(lines):
            single = selector.select(routing_keys[n : n + 1], line)
            assert single.keys() == {number for number in expected if n in expected[number]}

    with pytest.MonkeyPatch.context() as limits:
        if is_small:
            limits.setattr(module, "MAX_RESULTS_SIZE", 1500)
            limits.setattr(module, "MAX_VALUES_SIZE", 700)
            limits.setattr(module, "MAX_SHAPES", 2)
        numbers = range(len(pool))
        order = [*numbers, *data.draw(st.lists(st.sampled_from(numbers), max_size=20))]
        for number in order:
            if number in used:
                selector.remove(pool[number], number)
            else:
                selector.add(pool[number], number)
            used ^= {number}
            check()


VALUES = [*SCALARS, {}, {"b": 1}, [], ["a", 1], [["ab"], {"c": []}]]
ALTERNATIVES: list[list[Any]] = [
    [{"not": ["ab"]}],
    *([each] for each in SCALARS if each != LONG_TEXT),
    *([{"prefix": each}] for each in ("", "a", "a*")),
    *([{"glob": each}] for each in GLOBS),
    *([{"range": each}] for each in RANGES),
    [{"not": ["a", 1]}],
    [{"not": ["a", 1, True]}, {"not": [1, None]}],
    [{"range": [0, 3]}, {"range": [1, 2]}],
    [{"exists": True}],
    [{"exists": False}],
    ["a", {"exists": False}],
    *([None, {"range": each}] for each in RANGES),
    *([{"not": ["a", each]}] for each in NUMBERS[:4]),
]


def test_bits_are_reused_for_other_filters() -> None:
    records = [{"a": each} for each in VALUES] + [{"b": 1}]
    lines = [record(each) for each in records]
    pool = [view({"a": each}) for each in ALTERNATIVES]
    expected = [{n for n, line in enumerate(records) if each(ROUTING_KEY, line)} for each in pool]
    used: set[int] = set()
    selector: Selector[int] = Selector()
    numbers, third = range(len(pool)), range(0, len(pool), 3)
    for number in (*numbers, *third, *third, *numbers, *numbers):
        if number in used:
            selector.remove(pool[number], number)
        else:
            selector.add(pool[number], number)
        used ^= {number}
        for n, line in enumerate(lines):
            found = selector.select([ROUTING_KEY], line)
            assert found.keys() == {each for each in used if n in expected[each]}


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 1e300, 5e-324, -0.0])
def test_extreme_number_of_a_pattern_can_be_stored(number: float) -> None:
    line = json.dumps({"filter": {"payload": {"a": [number]}}}).encode()
    request = subscription_request.parse(line)
    assert subscription_request.parse(request.line).filter == request.filter
    saved = msgspec.msgpack.encode(ViewState.of(View(request.filter)))
    assert msgspec.msgpack.decode(saved, type=ViewState).view() == View(request.filter)
    assert str(number) in request.answer().decode()
    assert selects(request.requested["payload"], record({"a": number}))


@pytest.mark.parametrize(
    "key", ['a"b', "a\\b", "a\nb", "\u00e9", "\u65e5\u672c", "__class__", "f0", "\x7f", "'", "/"]
)
def test_key_of_any_characters_is_found(key: str) -> None:
    for path in (key, f"{key}.x", f"x.{key}"):
        payload: object = 1
        for part in reversed(path.split(".")):
            payload = {part: payload, "z": 0}
        assert selects({path: [1]}, record(payload))
        assert not selects({path: [2]}, record(payload))


@pytest.mark.parametrize("count", [16, 33, 70])
@pytest.mark.parametrize("path", ["{}", "{}.x", "x.{}.y", "x.y.{}"])
def test_many_paths_are_found(path: str, count: int) -> None:
    paths = [path.format(f"k{number}") for number in range(count)]
    selector: Selector[int] = Selector()
    for number, each in enumerate(paths):
        selector.add(view({each: [number]}), number)
        payload: object = number
        for part in reversed(each.split(".")):
            payload = {part: payload}
        for found in (payload, [payload], [{"x": []}, payload]):
            assert selector.select([ROUTING_KEY], record(found)) == {number: [0]}


def test_removed_paths_leave_nothing() -> None:
    def count() -> int:
        gc.collect()
        return sum(isinstance(each, Node | PathAlternatives) for each in gc.get_objects())

    before = count()
    selector: Selector[str] = Selector()
    for number in range(50):
        added = view({f"{number}.b.c.d.e": [number, {"prefix": "x"}]})
        selector.add(added, "target")
        selector.remove(added, "target")
    assert count() < before + 10  # the decoder of the last path


DEEP = 100_000
LONG = "1" * 5000


@pytest.mark.parametrize(
    ("alternatives", "payload"),
    [
        ([{"range": [1, None]}], f'{{"a": {LONG}}}'),
        (["x"], f'{{"b": {LONG}, "a": "x"}}'),
        (["x"], '{"b": "\\ud800", "a": "x"}'),
        ([{"not": ["x"]}], '{"a": "\\udc00"}'),
        ([{"range": [1, None]}], '{"a": 1e400}'),
        (["y"], '{"a": "x", "a": "y"}'),
        ([7], '1, "payload": {"a": 7}'),
        ([{"exists": False}], '{"a": 1}, "payload": null'),
        ([{"exists": False}], "3"),
        (["\N{SNOWMAN}"], '{"\\u0061": "\\u2603"}'),
        (["x"], '{"a": ' + "[" * 500 + '"x"' + "]" * 500 + "}"),
    ],
)
def test_unusual_record_is_selected(alternatives: list[Any], payload: str) -> None:
    assert selects({"a": alternatives}, raw(payload))


@pytest.mark.parametrize("alternatives", [["x"], [{"exists": False}], [{"not": ["y"]}]])
def test_record_that_cannot_be_decoded_passes_no_pattern(alternatives: list[Any]) -> None:
    data = raw('{"b": ' + "[" * DEEP + "]" * DEEP + ', "a": "x"}')
    selector: Selector[str] = Selector()
    allowed = frozenset({Filter.parse({"payload": {"c": [{"exists": False}]}})})
    selector.add(view({"a": alternatives}), "asked")
    selector.add(View(None, allowed), "allowed")
    selector.add(View(Filter.parse({"event_type": ["a"]})), "other")
    assert selector.select([ROUTING_KEY], data) == {"other": [0]}


def test_long_lists_are_examined_up_to_a_limit() -> None:
    pattern = {"a.b": [{"not": [0]}], "c": [{"exists": False}]}
    items = [{"b": 1}] * module.MAX_ELEMENTS
    assert selects(pattern, record({"a": items, "d": items}))
    assert not selects(pattern, record({"a": [*items, {"b": 1}]}))


@pytest.mark.parametrize("count", [1, 3])
def test_gap_records_pass_every_pattern(count: int) -> None:
    selector: Selector[str] = Selector()
    selector.add(view({"a": [1]}), "target")
    keys = [("notif_relayd.gap", "WARN", "")] * count
    batch = record({"dropped": 1, "reason": "x"}, "notif_relayd.gap") * count
    assert selector.select(keys, batch) == {"target": [*range(count)]}


def test_records_are_decoded_only_for_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(PayloadTree, "payload_of", lambda _, data: decoded.append(data))
    selector: Selector[str] = Selector()
    selector.add(View(Filter.parse({"event_type": ["*"]})), "plain")
    batch: list[RoutingKey] = [("a", "INFO", ""), ("b", "INFO", "")]
    data = record(1, "a") + record(2, "b")
    selector.select(batch, data)
    assert not decoded
    wanted = [view({str(number): [1]}, event_type=["a"]) for number in range(100)]
    for each in wanted:
        selector.add(each, "target")
    selector.select(batch, data)
    selector.select(batch, data)
    assert decoded == [record(1, "a")]
    for each in wanted:
        selector.remove(each, "target")
    selector.select(batch, data)
    assert len(decoded) == 1


@pytest.mark.parametrize(("seconds", "charged"), [(1.0, 0.999), (60e-6, 0.0)])
def test_payload_that_takes_long_is_charged(seconds: float, charged: float) -> None:
    clock: Iterator[float] = itertools.repeat(0.0)
    selector: Selector[str] = Selector(lambda: next(clock))
    selector.add(view({"a": [1]}), "target")
    selector.select([ROUTING_KEY], record({"a": 2}))
    clock = iter([0.0, seconds])
    selector.select([ROUTING_KEY], record({"a": 3, "b": "x" * 1200}))
    assert selector.decode_seconds == seconds
    assert selector.seconds == pytest.approx(charged, abs=0.001)


@pytest.mark.parametrize(("seconds", "forgotten"), [(1.0, 2.0), (0.0009, 0.0)])
def test_who_adds_a_pattern_pays_for_slow_records(seconds: float, forgotten: float) -> None:
    clock: Iterator[float] = itertools.repeat(0.0)
    selector: Selector[str] = Selector(lambda: next(clock))
    first, second = view({"a": [1]}), view({"a": [2]})
    selector.add(first, "first")
    selector.add(second, "second")
    clock = itertools.cycle([0.0, seconds])
    for number in range(2):
        selector.select([ROUTING_KEY], record({"a": 3, "b": number}))
    selector.remove(second, "second")
    assert selector.forgotten_seconds == 0.0
    clock = itertools.repeat(0.0)
    for number in range(2):
        selector.add(view({"a": [3 + number]}), "others")
    assert selector.forgotten_seconds == forgotten


def test_removal_of_the_last_pattern_costs_nothing() -> None:
    clock: Iterator[float] = itertools.repeat(0.0)
    selector: Selector[str] = Selector(lambda: next(clock))
    last = view({"a": [1]})
    selector.add(last, "target")
    clock = itertools.cycle([0.0, 1.0])
    selector.select([ROUTING_KEY], record({"a": 3}))
    selector.remove(last, "target")
    assert selector.forgotten_seconds == 0.0


def test_bit_of_a_removed_pattern_is_used_by_other_filters() -> None:
    selector: Selector[str] = Selector()
    stays, leaves, plain = (
        view({"a": [1]}),
        view({"a": [2]}),
        View(Filter.parse({"priority": ["INFO"]})),
    )
    selector.add(stays, "stays")
    selector.add(leaves, "leaves")
    assert selector.select([ROUTING_KEY], record({"a": 1})) == {"stays": [0]}
    selector.remove(leaves, "leaves")
    selector.add(plain, "plain")
    assert selector.select([ROUTING_KEY], record({"a": 1})) == {"stays": [0], "plain": [0]}


def test_cost_covers_the_memory_of_patterns() -> None:
    def distinct(number: int) -> Filter:
        path = ".".join(f"{number}-{part}" for part in range(8))
        some = [f"{number}-{each}" for each in range(20)]
        searched = [{"glob": f"*{number}*{each}*"} for each in range(2)]
        return Filter.parse(
            {"payload": {path: [*some, *searched, {"range": [number, None]}, {"not": [number]}]}}
        )

    selector: Selector[str] = Selector()
    tracemalloc.start()
    try:
        wanted = [distinct(number) for number in range(100)]
        for each in wanted:
            selector.add(View(each), "target")
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < sum(each.cost for each in wanted)


def test_memory_of_results_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RESULTS_SIZE", 64 * 1024)
    monkeypatch.setattr(module, "MAX_VALUES_SIZE", 64 * 1024)
    selector: Selector[str] = Selector()
    selector.add(view({"a": [{"glob": "*x*y"}]}), "target")
    tracemalloc.start()
    try:
        for number in range(1000):
            selector.select([ROUTING_KEY], record({"a": f"{number}" * 20, f"{number}": 1}))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 256 * 1024


def test_results_of_all_large_records_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(PayloadTree, "payload_of", lambda _, data: decoded.append(data))
    selector: Selector[str] = Selector()
    selector.add(view({"a": [1]}), "target")
    data = [record("x" * 500_000 + str(number)) for number in range(10)]
    for each in data * 2:
        selector.select([ROUTING_KEY], each)
    assert decoded == data


def test_numbers_of_equal_hash_make_no_equal_filters() -> None:
    numbers = [1.5 * 2.0 ** (61 * power) for power in range(-16, 16)]
    assert len({*map(hash, numbers)}) == 1  # 2**61 - 1 is the modulus of Python's hash
    asked = [Filter.parse({"payload": {"a": [number]}}) for number in numbers]
    assert len({*map(hash, asked)}) == len(asked)
    selector: Selector[float] = Selector()
    for number, each in zip(numbers, asked, strict=True):
        selector.add(View(each), number)
    for number in numbers:
        assert selector.select([ROUTING_KEY], record({"a": number})) == {number: [0]}
