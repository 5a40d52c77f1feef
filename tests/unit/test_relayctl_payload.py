# SPDX-License-Identifier: Apache-2.0
"""The option --payload of relayctl: what its shorthand stands for, and errors."""

from __future__ import annotations

import argparse

import pytest

from notif_relay.payload_pattern import PayloadPattern
from notif_relayctl.payload import payload, united


@pytest.mark.parametrize(
    ("argument", "pattern"),
    [
        ("state=active", {"state": ["active"]}),
        ("port.binding:host_id=cmp-*", {"port.binding:host_id": [{"glob": "cmp-*"}]}),
        ("name=a=b", {"name": ["a=b"]}),
        ("name=", {"name": [""]}),
        ("name=høst", {"name": ["høst"]}),
        ("name=[ab]?", {"name": [{"glob": "[ab]?"}]}),
        ("size=10", {"size": ["10", 10]}),
        ("size=1.50", {"size": ["1.50", 1.5]}),
        ("fault=null", {"fault": ["null", None]}),
        ("locked=true", {"locked": ["true", True]}),
        ("name=NaN", {"name": ["NaN"]}),
        ("name=1e999", {"name": ["1e999"]}),
        ('name="a"', {"name": ['"a"']}),
        ("name=" + "[" * 256, {"name": [{"glob": "[" * 256}]}),
        ('{"size": [{"range": [10, null]}]}', {"size": [{"range": [10, None]}]}),
    ],
)
def test_argument_is_a_pattern(argument: str, pattern: object) -> None:
    assert payload(argument) == PayloadPattern.parse(pattern)


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("state", "'state' is neither PATH=GLOB nor a JSON object"),
        ("=active", "path '' has an empty part"),
        ("a..b=x", "path 'a..b' has an empty part"),
        ("size=" + "9" * 5000, "has 5000 characters"),
        ("name=" + "[" * 100_000, "has 100000 characters"),
        ("{", "payload is not JSON"),
        ("{}{}", "payload is not JSON"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply|more than 8 parts"),
        ("{}", "payload has no paths"),
        ('{"a": 1}', "path 'a' must have a list of alternatives"),
        ("a=\udcff", "is not valid UTF-8"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_invalid_argument_is_an_error(argument: str, problem: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=problem):
        payload(argument)


def test_patterns_of_one_path_are_alternatives() -> None:
    arguments = ["a.b=x", "a.b=1", '{"a": {"b": [true], "c": [{"exists": true}]}}']
    assert united(map(payload, arguments)) == {
        "a.b": ["x", "1", 1, True],
        "a.c": [{"exists": True}],
    }
    assert united([]) is None
