# SPDX-License-Identifier: Apache-2.0
"""Filter requests of the library: their form, their limits, and agreement with the relay."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import BadFilter, RelayError
from notif_relay.group import GroupRequest, checked_membership
from notif_relay.request import Patterns, Payload, filter_request
from notif_relayd.records import subscription_request


def test_request_without_patterns_is_unfiltered() -> None:
    assert json.loads(filter_request(None, None, None)) == {"filter": {}}


@pytest.mark.parametrize(
    ("window", "hold"), [(None, None), (1, 0), (65536, 0.5)], ids=["plain", "small", "large"]
)
def test_relay_accepts_what_joins_a_group(window: int | None, hold: float | None) -> None:
    membership = checked_membership("A-z.0_9:/", window, hold, True)
    request = subscription_request.parse(filter_request("a", None, None, membership))
    assert request.group == GroupRequest("A-z.0_9:/", window, hold or 0)


def test_string_is_one_pattern_and_iterable_is_several() -> None:
    request = filter_request("a.*", iter(["ERROR", "warn"]), ("x:*", "é"))
    assert request.endswith(b"\n")
    assert json.loads(request) == {
        "filter": {
            "event_type": ["a.*"],
            "priority": ["ERROR", "warn"],
            "publisher_id": ["x:*", "é"],
        }
    }


def test_pattern_for_the_payload_is_sent_with_joined_paths() -> None:
    pattern = {"port": {"status": ["ACTIVE", {"glob": "DO*"}], "size": [2.0, True, None]}}
    assert json.loads(filter_request(None, "info", None, None, pattern)) == {
        "filter": {
            "priority": ["info"],
            "payload": {
                "port.size": [2, None, True],
                "port.status": ["ACTIVE", {"glob": "DO*"}],
            },
        }
    }


def test_globs_for_the_payload_count_for_the_limit() -> None:
    filter_request("?" * 64, None, None, None, {"a": [{"glob": "?" * 64}]})
    with pytest.raises(BadFilter, match="event_type and payload have 129 characters together"):
        filter_request("?" * 64, None, None, None, {"a": [{"glob": "?" * 65}]})


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ([], "event_type has no patterns"),
        (["a"] * 65, "event_type has more than 64 patterns"),
        ("a" * 257, "has 257 characters; at most 256"),
        (
            ["?" * 100, "[b]" * 10, "a*"],
            "of event_type have 130 characters together; at most 128",
        ),
        ([1], "must be a string, not 1"),
        ("\ud800", "surrogate"),
    ],
)
def test_refused_request_is_refused_before_sending(patterns: Patterns, message: str) -> None:
    with pytest.raises(BadFilter, match=message):
        filter_request(patterns, None, None)


def test_priority_size_is_measured_in_upper_case() -> None:
    assert filter_request(None, f"[{'ŉ' * 61}I]NFO", None)
    with pytest.raises(BadFilter, match="characters"):
        filter_request(None, f"[{'ŉ' * 62}I]NFO", None)


def test_bad_filter_is_a_relay_error_and_a_value_error() -> None:
    assert issubclass(BadFilter, RelayError)
    assert issubclass(BadFilter, ValueError)


def test_request_line_is_at_most_64_kib_long() -> None:
    patterns = ["\U0001f600" * 256] * 63
    assert len(filter_request(patterns, None, None)) <= 64 * 1024
    with pytest.raises(BadFilter, match="the filter takes 6"):
        filter_request([*patterns, "\U0001f600" * 256], None, None)


PATTERNS = st.one_of(
    st.none(),
    st.text(max_size=260),
    st.lists(st.text(max_size=20) | st.text("ŉß?[]", max_size=60), max_size=66),
)


TEXTS = st.text("aß?[]*", max_size=20)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS

ALTERNATIVES = st.one_of(
    SCALARS,
    st.fixed_dictionaries({"glob": TEXTS}),
    st.fixed_dictionaries({"prefix": TEXTS}),
    st.fixed_dictionaries({"not": st.lists(SCALARS, max_size=3)}),
    st.fixed_dictionaries({"range": st.tuples(st.integers(), st.none() | st.floats())}),
    st.fixed_dictionaries({"exists": st.booleans()}),
)

PAYLOADS = st.none() | st.dictionaries(
    st.sampled_from(["a", "a.b", "a.c", "nova_object.data", "é", "a..b"]),
    st.lists(ALTERNATIVES, min_size=1, max_size=3),
    max_size=3,
)


@given(PATTERNS, PATTERNS, PATTERNS, PAYLOADS)
def test_relay_accepts_every_request_of_the_library(
    event_type: Patterns, priority: Patterns, publisher_id: Patterns, payload: Payload
) -> None:
    try:
        request = filter_request(event_type, priority, publisher_id, None, payload)
    except BadFilter:
        return
    subscription_request.parse(request.rstrip(b"\n"))
