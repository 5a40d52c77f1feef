# SPDX-License-Identifier: Apache-2.0
"""A notification's fields are those of its JSON, however quickly they are found."""

from __future__ import annotations

import datetime as dt
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import Gap, Notification, records
from notif_relay.notification import any_from_relay, is_from_relay

NAMES = ("message_id", "publisher_id", "event_type", "priority", "payload", "timestamp")

# What could be taken for the field that is looked for, and what hides quotes and braces.
TRAPS = st.sampled_from(
    [
        '", "event_type": "trap',
        '"event_type": "trap", ',
        '", "publisher_id": "p", "event_type": "trap", "priority": "INFO", "payload": {',
        '{"event_type": "trap"}',
        '\\", "event_type": "trap',
        "\\",
        "\\u0022",
        "{",
        '"',
        "event_type",
        "é\u2028\ud800\x7f\x00",
    ]
)
TEXT = st.one_of(TRAPS, st.text(), st.lists(TRAPS).map("".join))
UUIDS = st.uuids(version=4).map(str)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), TEXT),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), TEXT), inner, max_size=4),
    ),
    max_leaves=12,
)


@st.composite
def notifications(draw: st.DrawFn) -> bytes:
    """Records near the shape of the log driver's: fields in any order, some more, some missing."""
    fields = {
        "message_id": draw(st.one_of(UUIDS, st.text(min_size=36, max_size=36), TEXT, VALUES)),
        "publisher_id": draw(TEXT),
        "event_type": draw(TEXT),
        "priority": draw(TEXT),
        "payload": draw(VALUES),
        "timestamp": draw(TEXT),
    }
    names = list(draw(st.one_of(st.just(NAMES), st.permutations(NAMES))))
    if draw(st.booleans()):
        more = draw(TEXT.filter(lambda name: name not in NAMES))
        fields[more] = draw(VALUES)
        names.insert(draw(st.integers(0, len(names))), more)
    if draw(st.booleans()):
        names.remove(draw(st.sampled_from([n for n in names if n not in {"event_type"}])))
    ascii_only = draw(st.booleans()) or any(0xD800 <= ord(c) < 0xE000 for c in str(fields))
    separators = draw(st.sampled_from([(", ", ": "), (",", ":"), (" , ", " :  ")]))
    text = json.dumps(
        {name: fields[name] for name in names}, ensure_ascii=ascii_only, separators=separators
    )
    return text.encode("utf-8", "surrogatepass") + b"\n"


@given(notifications())
def test_the_event_type_is_the_one_that_decoding_gives(record: bytes) -> None:
    assert Notification(record).event_type == json.loads(record)["event_type"]


@given(UUIDS, TEXT, TEXT, VALUES)
def test_the_event_type_of_the_log_driver_s_shape_is_the_one_that_decoding_gives(
    message_id: str, publisher: str, event_type: str, payload: object
) -> None:
    values = (message_id, publisher, event_type, "INFO", payload, "2026-01-31 12:00:00.5")
    record = json.dumps(dict(zip(NAMES, values, strict=True))).encode() + b"\n"
    assert Notification(record).event_type == event_type


@given(st.text(alphabet='{}[]":, \\aevntyp_', min_size=36, max_size=36))
def test_no_message_id_hides_where_the_event_type_is(message_id: str) -> None:
    """Written as it is: what is JSON all the same, among it a nested object, must not mislead."""
    record = (
        f'{{"message_id": "{message_id}", "publisher_id": "p", "event_type": "inner",'
        ' "priority": "INFO", "payload": {}}\n'
    ).encode()
    for text in (record, record.replace(b"}\n", b', "event_type": "outer"}}\n')):
        try:
            fields = json.loads(text)
        except ValueError:
            continue
        if text.count(b'"event_type"') == 1:
            assert Notification(text).event_type == fields["event_type"]


def test_an_event_type_within_the_payload_is_not_the_record_s() -> None:
    """A payload may look like the end of the log driver's head, at the very place of it."""
    before = '{"message_id": "", "payload": {"x": "'
    record = (
        before.ljust(len('{"message_id": "') + 36, "x") + '", "publisher_id": "p",'
        ' "event_type": "inner", "priority": "INFO", "payload": {}},'
        ' "event_type": "outer", "priority": "INFO"}\n'
    ).encode()
    assert json.loads(record)["event_type"] == "outer"
    assert Notification(record).event_type == "outer"


def test_the_log_driver_s_shape_is_not_decoded_for_its_event_type() -> None:
    whole = json.dumps(
        {
            "message_id": str(uuid.uuid4()),
            "publisher_id": "compute.host-1",
            "event_type": "compute.instance.update",
            "priority": "INFO",
            "payload": {"a": 1},
        }
    ).encode()
    assert Notification(whole[:-8]).event_type == "compute.instance.update"  # no JSON any more


def test_all_six_fields_are_there() -> None:
    raw = (
        b'{"message_id": "8b5c1f0e-6a0f-4d6e-9d53-1f5a3f0d2c11", "publisher_id": "nova:h",'
        b' "event_type": "a.b", "priority": "ERROR", "payload": {"n": [1]},'
        b' "timestamp": "2026-01-31 12:00:00.123456"}\n'
    )
    notification = Notification(raw)
    assert notification.raw is raw
    assert notification.message_id == "8b5c1f0e-6a0f-4d6e-9d53-1f5a3f0d2c11"
    assert notification.publisher_id == "nova:h"
    assert notification.event_type == "a.b"
    assert notification.priority == "ERROR"
    assert notification.payload == {"n": [1]}
    assert notification.timestamp == dt.datetime(
        2026, 1, 31, 12, 0, 0, 123456, tzinfo=dt.timezone.utc
    )
    assert repr(notification) == f"<Notification a.b, {len(raw)} bytes>"


def test_what_a_service_left_out_is_empty() -> None:
    notification = Notification(b'{"event_type": "a", "priority": "INFO", "publisher_id": 7}\n')
    assert (notification.message_id, notification.publisher_id) == ("", "")
    assert notification.payload is None
    assert notification.timestamp is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31 12:00:00", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00:00.123456", "2026-01-31T12:00:00.123456+00:00"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31 14:00:00+02:00", "2026-01-31T12:00:00+00:00"),
        ("yesterday", None),
        ("0001-01-01 00:00:00+14:00", None),
        (None, None),
        (1738324800, None),
    ],
)
def test_a_timestamp_is_utc_or_none(text: object, expected: str | None) -> None:
    record = json.dumps({"event_type": "a", "priority": "INFO", "timestamp": text}).encode()
    moment = Notification(record + b"\n").timestamp
    assert (moment and moment.isoformat()) == expected
    assert moment is None or moment.tzinfo is dt.timezone.utc


@pytest.mark.parametrize("dropped", [12, None])
def test_a_gap_is_a_notification_that_says_how_much_is_missing(dropped: int | None) -> None:
    gap = Gap(records.gap(dropped, "slow_subscriber"))
    assert isinstance(gap, Notification)
    assert (gap.dropped, gap.reason) == (dropped, "slow_subscriber")
    assert (gap.event_type, gap.priority) == ("notif_relayd.gap", "WARN")
    assert gap.timestamp is not None
    assert repr(gap) == f"<Gap dropped={dropped} reason=slow_subscriber>"


def test_every_record_of_the_relay_s_own_is_recognised() -> None:
    own = [
        records.gap(1, "slow_subscriber"),
        records.subscribed({"event_type": ["a"]}),
        records.error("No."),
    ]
    other = b'{"message_id": "x", "payload": {"publisher_id": "notif-relayd.host"}}\n'
    assert all(map(is_from_relay, own))
    assert not is_from_relay(other)
    assert any_from_relay([other, own[0]])
    assert not any_from_relay([other, other])
