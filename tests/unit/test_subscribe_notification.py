# SPDX-License-Identifier: Apache-2.0
"""The fields of a notification are those of its JSON, also when they are read without decoding."""

from __future__ import annotations

import datetime as dt
import json
import socket
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import Gap, Notification, UnreadableRecord, records
from notif_relay.records import GapReport, decode_pairs, own_event_type, read_gap

NAMES = ("message_id", "publisher_id", "event_type", "priority", "payload", "timestamp")

# Texts that look like the wanted field, or that hide quotes and braces.
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
    """Generate records like the log driver's, with fields reordered, added or missing."""
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
        extra = draw(TEXT.filter(lambda name: name not in NAMES))
        fields[extra] = draw(VALUES)
        names.insert(draw(st.integers(0, len(names))), extra)
    if draw(st.booleans()):
        names.remove(draw(st.sampled_from([n for n in names if n not in {"event_type"}])))
    ascii_only = draw(st.booleans()) or any(0xD800 <= ord(c) < 0xE000 for c in str(fields))
    separators = draw(st.sampled_from([(", ", ": "), (",", ":"), (" , ", " :  ")]))
    text = json.dumps(
        {name: fields[name] for name in names}, ensure_ascii=ascii_only, separators=separators
    )
    return text.encode("utf-8", "surrogatepass") + b"\n"


@given(notifications())
def test_event_type_equals_that_of_decoding(record: bytes) -> None:
    assert Notification(record).event_type == json.loads(record)["event_type"]


@given(UUIDS, TEXT, TEXT, VALUES)
def test_fast_event_type_equals_that_of_decoding(
    message_id: str, publisher: str, event_type: str, payload: object
) -> None:
    values = (message_id, publisher, event_type, "INFO", payload, "2026-01-31 12:00:00.5")
    record = json.dumps(dict(zip(NAMES, values, strict=True))).encode() + b"\n"
    assert Notification(record).event_type == event_type


@given(st.text(alphabet='{}[]":, \\aevntyp_', min_size=36, max_size=36))
def test_message_id_cannot_hide_the_event_type(message_id: str) -> None:
    """The text is inserted unescaped; some texts give valid JSON, also with a nested object."""
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


def test_event_type_in_the_payload_is_ignored() -> None:
    """The payload looks like the log driver's first fields, at the same offset."""
    before = '{"message_id": "", "payload": {"x": "'
    record = (
        before.ljust(len('{"message_id": "') + 36, "x") + '", "publisher_id": "p",'
        ' "event_type": "inner", "priority": "INFO", "payload": {}},'
        ' "event_type": "outer", "priority": "INFO"}\n'
    ).encode()
    assert json.loads(record)["event_type"] == "outer"
    assert Notification(record).event_type == "outer"


def test_log_driver_record_is_not_decoded_for_event_type() -> None:
    whole = json.dumps(
        {
            "message_id": str(uuid.uuid4()),
            "publisher_id": "compute.host-1",
            "event_type": "compute.instance.update",
            "priority": "INFO",
            "payload": {"a": 1},
        }
    ).encode()
    assert Notification(whole[:-8]).event_type == "compute.instance.update"  # no longer valid JSON


def test_all_six_fields_are_present() -> None:
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


@pytest.mark.parametrize("event_type", ["\ud800", "a\nb\u2028", "\x1b[31m", "x" * 100_000])
def test_repr_is_short_and_printable(event_type: str) -> None:
    notification = Notification(json.dumps({"event_type": event_type}).encode() + b"\n")
    assert notification.event_type == event_type
    assert repr(notification).isprintable()
    assert len(repr(notification)) < 150


def test_missing_field_is_empty() -> None:
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
def test_timestamp_is_utc_or_none(text: object, expected: str | None) -> None:
    record = json.dumps({"event_type": "a", "priority": "INFO", "timestamp": text}).encode()
    moment = Notification(record + b"\n").timestamp
    assert (moment and moment.isoformat()) == expected
    assert moment is None or moment.tzinfo is dt.timezone.utc


@pytest.mark.parametrize("dropped", [12, None])
def test_gap_is_a_notification_with_a_count(dropped: int | None) -> None:
    gap = Gap(records.gap(dropped, "slow_subscriber"))
    assert isinstance(gap, Notification)
    assert (gap.dropped, gap.reason) == (dropped, "slow_subscriber")
    assert (gap.event_type, gap.priority) == ("notif_relayd.gap", "WARN")
    assert gap.timestamp is not None
    assert repr(gap) == f"<Gap dropped={dropped} reason=slow_subscriber>"


OWN = [
    records.gap(1, "slow_subscriber"),
    records.subscribed({"event_type": ["a"]}),
    records.error("No."),
]


@pytest.mark.parametrize("record", OWN, ids=lambda record: Notification(record).event_type)
def test_record_of_the_relay_is_recognised(record: bytes) -> None:
    event_type = Notification(record).event_type
    assert own_event_type(record) == event_type
    respelled = json.dumps(dict(reversed(json.loads(record).items())), separators=(",", ":"))
    assert own_event_type(respelled.encode()) == event_type
    assert own_event_type(record.replace(b"notif_relayd", rb"notif\u005frelayd")) == event_type


@pytest.mark.parametrize(
    "record",
    [
        b'{"message_id": "x", "payload": {"publisher_id": "notif-relayd.host"}}\n',
        OWN[2].replace(b'"No."', b'["No."]'),
        OWN[2].replace(b'"notif-relayd.', b'"notif-relay.'),
        OWN[1].replace(b'"payload": {', b'"payload": [], "x": {'),
        OWN[1].replace(b'"publisher_id"', b'"publisher"'),
        OWN[0].replace(b"}\n", b', "event_type": "notif_relayd.gap"}\n'),
        OWN[2].replace(b"notif_relayd.error", b"notif_relayd.other"),
        OWN[2].replace(b'"No."', b"NaN"),
        OWN[2][:-9],
        b'[["event_type", "notif_relayd.error"]]\n',
        b'"notif_relayd.error"\n',
        b'{"event_type": "notif_relayd.gap", "payload": ' + b"[" * 100_000,
    ],
    ids=range(12),
)
def test_lookalike_of_a_relay_record_is_not_one(record: bytes) -> None:
    assert own_event_type(record) == ""


GAP = '{"event_type":"notif_relayd.gap","priority":"WARN","payload":%s}\n'


def read(line: str) -> GapReport | None:
    return read_gap(len(line), decode_pairs(line.encode()))


@pytest.mark.parametrize("dropped", [0, 3, records.MAX_DROPPED, None])
def test_gap_is_recognised_by_its_content(dropped: int | None) -> None:
    payload: dict[str, object] = {"more": [{}], "reason": "any", "dropped": dropped}
    assert read(GAP % json.dumps(payload)) == (dropped, "any")


@pytest.mark.parametrize(
    "payload",
    [
        *("null", '"text"', "[]", "{}", "3", '[["dropped", 1], ["reason", "x"]]'),
        *('{"dropped": 1}', '{"reason": "x"}', '{"dropped": 1, "reason": null}'),
        *(
            f'{{"dropped": {dropped}, "reason": "x"}}'
            for dropped in ("-1", "1.0", "1e0", "true", '"1"', "[1]", str(2**53), "9" * 650)
        ),
        '{"dropped": 1, "dropped": 1, "reason": "x"}',
        '{"dropped": 1, "reason": "x"}, "payload": {"dropped": 1, "reason": "x"}',
        json.dumps({"dropped": 1, "reason": "x" * records.MAX_GAP_SIZE}),
    ],
)
def test_malformed_gap_record_is_a_plain_notification(payload: str) -> None:
    assert read(GAP % payload) is None
    assert own_event_type((GAP % payload).encode()) == ""


@pytest.mark.parametrize("host", ["h", "\x80" * 64], ids=["short", "longest"])
def test_every_gap_of_the_library_is_short_enough(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)  # only root can rename the host
    gap = records.gap(records.MAX_DROPPED, "producer_congested")
    assert read_gap(len(gap), decode_pairs(gap)) == (records.MAX_DROPPED, "producer_congested")


def test_huge_integer_is_a_float_and_others_are_unchanged() -> None:
    record = b'{"event_type":"e","priority":"p","publisher_id":%s,"payload":[%s,7]}\n'
    huge = b"1" * 5000
    notification = Notification(record % (huge, huge))
    assert (notification.event_type, notification.publisher_id) == ("e", "")
    assert notification.payload == [float("inf"), 7]


@pytest.mark.parametrize(
    "record",
    [
        b'{"event_type":"e","priority":"p","payload":%s}\n' % (b"[" * 99_999 + b"]" * 99_999),
        b'{"event_type":"e","priority":"p","payl\n',
        b'{"event_type":"e","priority":"p","payload":"\xc3\n',
        b"[]\n",
    ],
    ids=["deep", "torn", "torn within a character", "no object"],
)
def test_undecodable_record_has_no_fields(record: bytes) -> None:
    notification = Notification(record)
    with pytest.raises(UnreadableRecord, match=f"cannot decode a record of {len(record)} bytes"):
        notification.payload  # noqa: B018
    assert notification.event_type == notification.priority == notification.publisher_id == ""
    assert notification.message_id == ""
    assert notification.timestamp is None
    assert repr(notification) == f"<Notification , {len(record)} bytes>"
