# SPDX-License-Identifier: Apache-2.0
"""The relay and the library read every record in the same way, whatever its JSON spelling."""

from __future__ import annotations

import json
from collections.abc import Sequence
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notif_relay import Gap, Notification, records
from notif_relay.records import PRODUCER_REASONS, own_event_type
from notif_relay.stream import Stream
from notif_relayd._native import routing_keys_of
from notif_relayd.records.validator import Reason, ValidatedBatch, Validator

LIMIT = 1024 * 1024
MESSAGE_ID = '"message_id": "00000000-0000-0000-0000-000000000000"'
LOG_DRIVER = (
    '{%s, "publisher_id": "p", "event_type": "%s", "priority": "INFO", "payload": {"a": 1}%s}\n'
)
"""A record in the shape whose event_type the library finds without decoding it."""


def check(line: bytes) -> ValidatedBatch:
    """Return the result, and check that it is the same without the compiled module."""
    validator = Validator(LIMIT)
    validated = validator.validate(line)
    with mock.patch("notif_relayd.records.validator.routing_keys_of", return_value=[]):
        assert validator.validate(line) == validated
    return validated


def received(line: bytes) -> Notification:
    """Return the notification that the library gives to a subscriber."""
    stream = Stream("/the/socket", None)
    assert list(stream.receive(records.subscribed({}))) == []
    [notification] = stream.receive(line)
    assert notification.raw == line
    return notification


def assert_agreement(line: bytes) -> None:
    validated = check(line)
    compiled = routing_keys_of(line, Validator(LIMIT).rules)
    assert compiled in ([], validated.routing_keys)
    if validated.rejected:
        return
    notification = received(line)
    assert validated.routing_keys == [
        (notification.event_type, notification.priority, notification.publisher_id)
    ]
    if isinstance(notification, Gap):
        assert validated.gaps == [(notification.dropped, notification.reason)]
        assert own_event_type(line) == records.GAP
    else:
        assert validated.gaps == []
        assert own_event_type(line) == ""
        assert not notification.event_type.startswith("notif_relayd.")


def escaped(text: str, selected: Sequence[bool]) -> str:
    """Return a JSON string in which the selected characters are escaped."""
    pairs = zip(text, selected, strict=True)
    characters = (f"\\u{ord(char):04x}" if escape else char for char, escape in pairs)
    return f'"{"".join(characters)}"'


@st.composite
def strings(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    text = draw(texts)
    if draw(st.booleans()) and text.isalnum() | ("_" in text):
        return escaped(text, draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text))))
    return json.dumps(text, ensure_ascii=draw(st.booleans()) or "\ud800" in text)


EVENT_TYPES = st.sampled_from(
    [
        *("a.b", "", "notif_relayd", "x.notif_relayd.gap", "\ud800"),
        *("notif_relayd.gap", "notif_relayd.error", "notif_relayd.subscribed", "notif_relayd.x"),
    ]
)
KEYS = st.sampled_from(
    ["event_type", "priority", "publisher_id", "payload", "dropped", "reason", "message_id", "x"]
)
REASONS = st.sampled_from([*PRODUCER_REASONS, "x"])
NUMBERS = st.sampled_from(
    ["0", "3", "-1", "3.0", "1e999", str(2**53 - 1), str(2**53), str(2**64), "1" * 5000]
)
VALUES = st.recursive(
    strings(EVENT_TYPES)
    | strings(REASONS)
    | NUMBERS
    | st.sampled_from(["null", "true", "{}", "[]"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]")
        | st.lists(st.tuples(strings(KEYS), inner), max_size=3).map(
            lambda pairs: f"{{{', '.join(f'{key}: {value}' for key, value in pairs)}}}"
        )
    ),
    max_leaves=6,
)
GAP_PAYLOADS = st.tuples(NUMBERS | st.just("null"), strings(REASONS)).map(
    lambda gap: f'{{"dropped": {gap[0]}, "reason": {gap[1]}}}'
)
RECORD_FIELDS = st.fixed_dictionaries(
    {"event_type": strings(EVENT_TYPES), "priority": strings(st.just("INFO"))},
    optional={
        "payload": GAP_PAYLOADS | VALUES,
        "publisher_id": VALUES,
        "message_id": st.just(MESSAGE_ID.split()[1]),
    },
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Generate records in many spellings: fields in any order, and some of them twice."""
    fields = [(f'"{key}"', value) for key, value in draw(RECORD_FIELDS).items()]
    fields += draw(st.lists(st.tuples(strings(KEYS), strings(EVENT_TYPES) | VALUES), max_size=2))
    fields = draw(st.permutations(fields))
    comma, colon = draw(st.sampled_from([", ", ","])), draw(st.sampled_from([": ", ":"]))
    text = comma.join(f"{key}{colon}{value}" for key, value in fields)
    return f"{{{text}}}\n".encode("utf-8", "surrogatepass")


@given(lines())
@example(f'{{"publisher_id":{"1" * 5000},"event_type":"a","priority":"b"}}\n'.encode())
@example(b'{"event_type":"a","priority":"b","x":"\\ud800","event_type":"c"}\n')
def test_relay_and_library_agree_on_every_record(line: bytes) -> None:
    assert_agreement(line)


@given(strings(KEYS), strings(EVENT_TYPES), st.booleans())
def test_key_after_the_payload_is_read_by_both(key: str, value: str, nested: bool) -> None:
    more = f', "more": {{{key}: {value}}}' if nested else f", {key}: {value}"
    line = (LOG_DRIVER % (MESSAGE_ID, "a.b", more)).encode("utf-8", "surrogatepass")
    assert_agreement(line)


@pytest.mark.parametrize("other", ["x", "notif_relayd.gap", "notif_relayd.error"])
@pytest.mark.parametrize("own", ["gap", "error", "subscribed", "", "x"])
@pytest.mark.parametrize("key", ["event_type", r"event\u005ftype", r"\u0065vent_type"])
@pytest.mark.parametrize(
    "spelling", ["notif_relayd.", r"\u006eotif_relayd.", r"notif_relayd\u002E"]
)
@pytest.mark.parametrize("more", ["", r', "x": "\ud800"', ', "x": ' + "1" * 5000])
def test_forged_event_type_is_rejected_in_any_place(
    other: str, own: str, key: str, spelling: str, more: str
) -> None:
    payload = '"payload": {"dropped": 1, "reason": "relay_restarted"}'
    forged, decoy = f'"{key}": "{spelling}{own}"', f'"event_type": "{other}"'
    for first, last in ((forged, decoy), (decoy, forged)):
        line = f'{{{MESSAGE_ID}, {first}, "priority": "WARN", {payload}, {last}{more}}}\n'.encode()
        assert check(line) == ValidatedBatch(b"", [], [Reason.RESERVED], [])
        assert own_event_type(line) == ""


@pytest.mark.parametrize("end", ['"event_type": "last"', r'"event\u005ftype": "last"'])
def test_last_duplicate_event_type_is_used(end: str) -> None:
    line = (LOG_DRIVER % (MESSAGE_ID, "first", f", {end}")).encode()
    assert check(line).routing_keys == [("last", "INFO", "p")]
    assert Notification(line).event_type == "last"
