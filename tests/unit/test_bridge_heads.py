# SPDX-License-Identifier: Apache-2.0
"""Tests of values that are remembered for the head of a record."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from notif_relay import Notification
from notif_relayd_bridge.brokers.heads import MAX_HEADS, ByHead

texts = st.text(max_size=20) | st.sampled_from(["a", 'a", "priority": "b', "{", "\\", "\ud800"])


def driver_record(publisher: str, event_type: str, priority: str, payload: object = None) -> bytes:
    """Return a record as the log driver writes it."""
    fields = {
        "message_id": "8b5c1f0e-6a0f-4d6e-9d53-1f5a3f0d2c11",
        "publisher_id": publisher,
        "event_type": event_type,
        "priority": priority,
        "payload": {} if payload is None else payload,
        "timestamp": "2026-01-31 12:00:00.123456",
    }
    return json.dumps(fields).encode() + b"\n"


def values(notification: Notification) -> tuple[str, str, str]:
    return notification.publisher_id, notification.event_type, notification.priority


@given(st.lists(st.tuples(texts, texts, texts), max_size=6), st.dictionaries(texts, texts))
def test_remembered_values_are_those_of_the_record(
    heads: list[tuple[str, str, str]], payload: dict[str, str]
) -> None:
    by_head = ByHead(values)
    for expected in heads + heads:
        assert by_head(Notification(driver_record(*expected, payload))) == expected


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_other_records_are_computed_each_time(raws: list[bytes]) -> None:
    by_head = ByHead(lambda notification: notification.raw)
    for raw in raws + raws:
        assert by_head(Notification(raw)) == raw


def test_value_is_computed_once_for_each_head() -> None:
    computed: list[str] = []

    def compute(notification: Notification) -> int:
        computed.append(notification.publisher_id)
        return len(computed)

    by_head = ByHead(compute)
    for count in range(10):
        by_head(Notification(driver_record("a", "b", "c", {"count": count})))
    assert computed == ["a"]


def test_number_of_remembered_heads_is_limited() -> None:
    computed: list[str] = []

    def compute(notification: Notification) -> int:
        computed.append(notification.publisher_id)
        return len(computed)

    by_head = ByHead(compute)
    for publisher in [*map(str, range(MAX_HEADS + 1)), "0", str(MAX_HEADS)]:
        by_head(Notification(driver_record(publisher, "b", "c")))
    # The first one was forgotten with the others, and the last one was not.
    assert len(computed) == MAX_HEADS + 2
