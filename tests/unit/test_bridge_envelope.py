# SPDX-License-Identifier: Apache-2.0
"""Tests of the conversion of messages of oslo.messaging to records."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_messaging._drivers.impl_kafka import pack_message

from notif_relayd_bridge.brokers.envelope import UnreadableMessageError, to_record
from notif_relayd_bridge.brokers.source import MAX_MESSAGE_SIZE
from support.records import record

FIELDS = ("message_id", "publisher_id", "event_type", "priority", "payload", "timestamp")

NOTIFICATION = dict.fromkeys(FIELDS, "x") | {"priority": "INFO", "payload": {"a": [1, None]}}


def sealed(content: object, version: object = "2.0") -> bytes:
    return json.dumps({"oslo.version": version, "oslo.message": content}).encode()


@pytest.mark.parametrize(
    "message",
    [
        record().rstrip(b"\n"),
        b'{ "event_type" : "a" }\r\n',
        record(payload={"oslo.message": "a", "oslo.version": "2.0"}),
        b"no JSON",
    ],
)
def test_message_without_envelope_is_unchanged(message: bytes) -> None:
    assert to_record(message, "notifications.info") == message


def test_notification_of_the_kafka_driver_is_converted() -> None:
    context = {"user_id": "u", "auth_token": "s3cr3t"}
    packed = pack_message(context, {**NOTIFICATION, "_unique_id": "y"})
    converted = json.loads(to_record(json.dumps(packed).encode(), "notifications.info"))
    assert converted == NOTIFICATION | {"_context": {"user_id": "u", "auth_token": "***"}}
    assert list(converted)[:6] == list(FIELDS)


@pytest.mark.parametrize(
    ("topic", "fields"),
    [
        ("notifications.info", {}),
        ("versioned_notifications.info", {"_topic": "versioned_notifications"}),
        ("all", {"_topic": "all"}),
    ],
)
def test_topic_is_a_field_unless_it_is_the_default(topic: str, fields: dict[str, str]) -> None:
    message = sealed(json.dumps(NOTIFICATION))
    assert json.loads(to_record(message, topic)) == NOTIFICATION | fields


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"x" * (MAX_MESSAGE_SIZE + 1), "larger than"),
        (b'["oslo.message"]', "not JSON"),
        (sealed("{"), "not JSON"),
        (sealed("[" * 100_000), "not JSON"),
        (sealed("[]"), "not JSON"),
        (sealed("\ud800"), "not JSON"),
        (sealed("{}"), "no event_type"),
        (sealed('{"event_type": 1, "priority": "INFO"}'), "no event_type"),
        (sealed({}), "no text"),
        (sealed("{}", "3.0"), "version"),
        (sealed("{}", 2), "version"),
    ],
)
def test_other_message_is_unreadable(message: bytes | None, reason: str) -> None:
    with pytest.raises(UnreadableMessageError, match=reason):
        to_record(message, "notifications.info")


def test_lone_surrogates_and_numbers_are_kept() -> None:
    notification = NOTIFICATION | {"payload": {"a": "\ud800", "b": 10**30}}
    message = sealed(json.dumps(notification))
    assert json.loads(to_record(message, "notifications.info")) == notification


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists, max_leaves=5
)


@given(
    st.dictionaries(st.sampled_from(["oslo.message", "oslo.version", *FIELDS]), VALUES)
    | st.builds(
        lambda content: {"oslo.version": "2.0", "oslo.message": json.dumps(content)},
        st.dictionaries(st.sampled_from(FIELDS), VALUES).map(
            lambda fields: fields | {"event_type": "a", "priority": "INFO"}
        )
        | VALUES,
    )
)
def test_any_content_is_converted_or_unreadable(content: object) -> None:
    with contextlib.suppress(UnreadableMessageError):
        assert to_record(json.dumps(content).encode(), "notifications.info")
