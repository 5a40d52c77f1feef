# SPDX-License-Identifier: Apache-2.0
"""Payload patterns: what they match, their canonical form, and their limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from notif_relay import BadFilter
from notif_relay.payload_pattern import PayloadPattern

NOVA = {
    "nova_object.name": "InstanceActionPayload",
    "nova_object.data": {
        "host": "cmp-1",
        "state": "active",
        "fault": None,
        "flavor": {"nova_object.data": {"memory_mb": 512, "extra_specs": {"hw:cpu": "shared"}}},
        "ip_addresses": [
            {"nova_object.data": {"address": "10.0.0.1", "version": 4}},
            {"nova_object.data": {"address": "fe80::1", "version": 6}},
        ],
        "tags": [],
        "nested": [[["deep"]], "flat", True],
    },
}
DATA = "nova_object.data."


@pytest.mark.parametrize(
    ("alternatives", "payload", "is_match"),
    [
        (["active"], "active", True),
        (["active"], "Active", False),
        (["a", "active"], "active", True),
        ([1], 1.0, True),
        ([1], True, False),
        ([True], 1, False),
        ([True], True, True),
        ([0], False, False),
        ([None], None, True),
        ([None], 0, False),
        ([""], "", True),
        (["1"], 1, False),
        ([{"glob": "cmp-*"}], "cmp-1", True),
        ([{"glob": "cmp-[12]"}], "cmp-3", False),
        ([{"glob": "*"}], 1, False),
        ([{"prefix": "c*"}], "c*d", True),
        ([{"prefix": "c*"}], "cmp", False),
        ([{"not": ["active", 1]}], "error", True),
        ([{"not": ["active", 1]}], 1.0, False),
        ([{"not": ["active", 1]}], True, True),
        ([{"not": ["active"]}], {"a": 1}, True),
        ([{"not": ["active"]}], [], False),
        ([{"not": ["active"]}], ["active", "error"], True),
        ([{"range": [1, 2]}], 2, True),
        ([{"range": [1, 2]}], 2.5, False),
        ([{"range": [None, 2]}], -(10**30), True),
        ([{"range": [1, None]}], True, False),
        ([{"range": [1, None]}], "2", False),
        ([{"range": [None, None]}], 10**400, True),
        ([{"exists": True}], None, True),
        ([{"exists": True}], [], True),
        ([{"exists": False}], None, False),
        (["deep"], [[["deep"]]], True),
        (["x"], {"x": 1}, False),
    ],
)
def test_alternative_matches(alternatives: list[Any], payload: object, is_match: bool) -> None:
    pattern = PayloadPattern.parse({"a": alternatives})
    assert pattern.matches({"a": payload}) is is_match
    assert pattern.matches([{"b": 0}, {"a": payload}]) is is_match


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [
        ({DATA + "host": ["cmp-1"]}, True),
        ({"nova_object": {"data": {"host": ["cmp-1"]}}}, True),
        ({"nova_object.data": {"host": ["cmp-1"], "state": ["error"]}}, False),
        ({DATA + "flavor." + DATA + "memory_mb": [{"range": [512, 512]}]}, True),
        ({DATA + "ip_addresses." + DATA + "version": [6]}, True),
        ({DATA + "ip_addresses." + DATA + "version": [5]}, False),
        ({DATA + "fault": [None]}, True),
        ({DATA + "fault.code": [{"exists": True}]}, False),
        ({DATA + "fault.code": [{"exists": False}]}, True),
        ({DATA + "fault.code": [{"not": [1]}]}, False),
        ({DATA + "tags": [{"exists": True}]}, True),
        ({DATA + "tags.name": [{"exists": False}]}, True),
        ({DATA + "nested": ["deep"]}, True),
        ({"nova_object": [{"exists": True}]}, False),
    ],
)
def test_path_leads_through_objects_and_lists(pattern: dict[str, Any], is_match: bool) -> None:
    assert PayloadPattern.parse(pattern).matches(NOVA) is is_match


@pytest.mark.parametrize("payload", [None, "text", 1, [], {}])
def test_payload_without_paths_has_none(payload: object) -> None:
    assert not PayloadPattern.parse({"a": [{"not": [1]}, {"exists": True}]}).matches(payload)
    assert PayloadPattern.parse({"a": [{"exists": False}]}).matches(payload)


def test_key_with_dots_and_nested_keys_both_match() -> None:
    pattern = PayloadPattern.parse({"a.b": [1]})
    assert pattern.matches({"a.b": 0, "a": {"b": 1}})
    assert pattern.matches({"a.b": 1, "a": {"b": 0}})


def test_long_value_is_compared_at_both_ends() -> None:
    pattern = PayloadPattern.parse({"a": [{"glob": "x*y"}]})
    assert pattern.matches({"a": "x" + "z" * 10_000 + "y"})
    assert not PayloadPattern.parse({"a": [{"glob": "*w*"}]}).matches(
        {"a": "z" * 300 + "w" + "z" * 300}
    )


def test_deep_lists_do_not_exhaust_the_stack() -> None:
    payload: list[Any] = ["x"]
    for _ in range(100_000):
        payload = [payload]
    assert PayloadPattern.parse({"a": ["x"]}).matches({"a": payload})
    while payload and isinstance(payload[0], list):
        payload = payload[0]  # or freeing the lists would exhaust it


def test_equal_patterns_have_one_form() -> None:
    one = PayloadPattern.parse(
        {"b": {"c": [True, 1.0, "x", "x", {"not": [2, 1]}]}, "a": [{"range": [1, None]}]}
    )
    other = PayloadPattern.parse(
        {"a": [{"range": [1, None]}], "b.c": ["x", 1, {"not": [1.0, 2]}, True]}
    )
    assert one == other
    assert hash(one) == hash(other)
    assert PayloadPattern.parse(json.loads(json.dumps(one.to_json()))) == one
    assert PayloadPattern.parse({"a": [1]}) != PayloadPattern.parse({"a": [True]})


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ([], "payload must be an object of paths, not an empty list"),
        ({}, "payload has no paths"),
        ({1: ["x"]}, "payload must have strings as keys, not a number"),
        ({"a": "x"}, "path 'a' must have a list of alternatives, not 'x'"),
        ({"a": []}, "path 'a' has no alternatives"),
        ({"a": {"b": {}}}, "path 'a.b' has no alternatives"),
        ({"a": {"glob": "x"}}, "path 'a.glob' must have a list of alternatives"),
        ({"a": [["x"]]}, "a value must be a string, a number, true, false or null, not a list"),
        ({"a": [{}]}, "an object with one of the keys glob, prefix, not, range, exists"),
        ({"a": [{"glob": "x", "not": ["y"]}]}, "an object with one of the keys"),
        ({"a": [{"like": "x"}]}, "an object with one of the keys"),
        ({"a": [{"glob": 1}]}, "glob must be a string, not a number"),
        ({"a": [{"not": []}]}, "not must have a list of values, not an empty list"),
        ({"a": [{"range": [1]}]}, "range must have a list of two numbers"),
        ({"a": [{"range": [1, True]}]}, "range must have numbers or null, not true"),
        ({"a": [{"range": [2, 1]}]}, "range matches nothing"),
        ({"a": [{"exists": 1}]}, "exists must be true or false, not a number"),
        ({"a": [float("nan")]}, "a number must be between"),
        ({"a": [10**5000]}, "an integer must have at most 64 bits"),
        ({"a": [{"range": [None, 2**64]}]}, "an integer must have at most 64 bits"),
        ({"a": [{"not": [-(2**63) - 1]}]}, "an integer must have at most 64 bits"),
        ({"a": ["x" * 257]}, "has 257 characters; at most 256"),
        ({"a" * 257: ["x"]}, "has 257 characters; at most 256"),
        ({"a": ["\ud800"]}, "path 'a' contains an unpaired surrogate"),
        ({"\ud800": ["x"]}, "unpaired surrogate"),
        ({"a": {"b": ["x"]}, "a.b": ["y"]}, "path 'a.b' occurs twice"),
        ({"a..b": ["x"]}, "path 'a..b' has an empty part"),
        ({"": ["x"]}, "path '' has an empty part"),
        ({"a.a.a.a.a.a.a.a.a": ["x"]}, "more than 8 parts"),
        ({str(n): ["x"] for n in range(17)}, "more than 16 paths"),
        ({"a": [*range(65)]}, "path 'a' has more than 64 alternatives"),
        ({"a": [{"not": [*range(64)]}, 64]}, "path 'a' has more than 64 alternatives"),
    ],
)
def test_refused_pattern_names_its_path(pattern: object, message: str) -> None:
    with pytest.raises(BadFilter) as caught:
        PayloadPattern.parse(pattern)
    assert message in str(caught.value)


def test_deep_pattern_is_refused() -> None:
    pattern: dict[str, Any] = {"a": ["x"]}
    for _ in range(100_000):
        pattern = {"a": pattern}
    with pytest.raises(BadFilter, match="more than 8 parts"):
        PayloadPattern.parse(pattern)
    while isinstance(pattern.get("a"), dict):
        pattern = pattern["a"]  # or freeing the objects would exhaust the stack


def test_largest_pattern_is_allowed() -> None:
    longest = "b.c.d.e.f.g." + "h" * 240
    pattern = {f"{n:x}.{longest}": ["x" * 256, *range(63)] for n in range(16)}
    assert len(PayloadPattern.parse(pattern).paths) == 16


def test_globs_that_the_relay_compiles_are_counted() -> None:
    pattern = PayloadPattern.parse(
        {"a": [{"glob": "x?"}, {"glob": "x*"}], "b": [{"glob": "x?"}, {"glob": "[ab]"}]}
    )
    assert pattern.compiled_size == len("x?[ab]")


def test_pattern_is_read_from_text() -> None:
    assert PayloadPattern.from_text(' {"a": [1]}\n') == PayloadPattern.parse({"a": [1]})
    for text, message in (
        ("{", "^payload is not JSON: Expecting"),
        ("[" * 100_000 + "]" * 100_000, "^payload (is nested too deeply|must be an object)"),
        ('{"a": [' + "9" * 5000 + "]}", "^payload (is not JSON: Exceeds|path 'a': a number)"),
        ('{"a": [NaN]}', "^payload path 'a': a number must be"),
        ('"host"', "^payload must be an object of paths"),
    ):
        with pytest.raises(BadFilter, match=message):
            PayloadPattern.from_text(text)
