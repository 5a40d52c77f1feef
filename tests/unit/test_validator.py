# SPDX-License-Identifier: Apache-2.0
"""The validator accepts exactly the well-formed records."""

import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relayd._native import routing_keys_of
from notif_relayd.records.validator import Reason, RoutingKey, ValidatedBatch, Validator

LIMIT = 4096


def check(lines: bytes, limit: int = LIMIT) -> ValidatedBatch:
    """Return the result, and check that it is the same without the compiled module."""
    validated = Validator(limit).validate(lines)
    with mock.patch("notif_relayd.records.validator.routing_keys_of", return_value=[]):
        assert Validator(limit).validate(lines) == validated
    return validated


def plain(lines: bytes, limit: int = LIMIT) -> list[RoutingKey]:
    """Return the routing keys that the compiled module finds; none if a record is not plain."""
    return routing_keys_of(lines, Validator(limit).rules)


def result(lines: bytes) -> tuple[bytes, int, list[Reason]]:
    """Return the accepted records, their number, and the reasons of the rejected ones."""
    validated = check(lines)
    return validated.records, len(validated.routing_keys), validated.rejected


GOOD = b'{"event_type": "a.b", "priority": "INFO"}'


@pytest.mark.parametrize(
    "line",
    [
        GOOD,
        b'{"event_type":"","priority":""}',
        b'  {"event_type":"a","priority":"b"}\t\r',
        b'{"priority":"b","payload":[1,2.5e9,null,true,{"x":[]}],"event_type":"a"}',
        '{"event_type":"ä","priority":"☃"}'.encode(),
        b'{"event_type":"\\u00e4","priority":"b","payload":"\\\\ \\" \\n"}',
        b'{"event\\u005ftype":"a","priority":"b"}',
        b'{"event_type":"a","priority":"b","payload":"a lone surrogate \\ud800"}',
        b'{"event_type":"a","priority":"b","payload":' + b"9" * 500 + b"}",
        b'{"event_type":"a","priority":"b","payload":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"event_type":"a","priority":"b","payload":"'.ljust(LIMIT - 3, b"x") + b'"}',
    ],
)
def test_valid_record_is_unchanged(line: bytes) -> None:
    assert result(line + b"\n") == (line + b"\n", 1, [])
    neighbours = GOOD + b"\n" + line + b"\n" + GOOD + b"\n"
    assert result(neighbours) == (neighbours, 3, [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", Reason.EMPTY),
        (b" \t\r", Reason.EMPTY),
        (b'{"event_type":"a","priority":"b","payload":"\xff"}', Reason.NOT_UTF8),
        (b'{"event_type":"a","priority":"b","\xc3":1}', Reason.NOT_UTF8),
        (b'{"event_type":"\xed\xa0\x80","priority":"b"}', Reason.NOT_UTF8),
        (b"\x00\x01\x02", Reason.NOT_JSON),
        (b"garbage", Reason.NOT_JSON),
        (GOOD + GOOD, Reason.NOT_JSON),
        (GOOD[:-1], Reason.NOT_JSON),
        (GOOD + b"\x00", Reason.NOT_JSON),
        (b"\xef\xbb\xbf" + GOOD, Reason.NOT_JSON),
        (b"{'event_type':'a','priority':'b'}", Reason.NOT_JSON),
        (b'{"event_type":"a","priority":"b",}', Reason.NOT_JSON),
        (b'{"event_type":"a","priority":"b","payload":NaN}', Reason.NOT_JSON),
        (b'{"event_type":"a","priority":"b","payload":-Infinity}', Reason.NOT_JSON),
        (b'{"event_type":"a","priority":"b","payload":"\t"}', Reason.NOT_JSON),
        (b'{"event_type":"a","priority":"b","payload":"\\q"}', Reason.NOT_JSON),
        (b'{"event_type":"a","priority":"b","payload":' + b"[" * 4000, Reason.NOT_JSON),
        (b"[]", Reason.NOT_A_NOTIFICATION),
        (b"null", Reason.NOT_A_NOTIFICATION),
        (b'"event_type"', Reason.NOT_A_NOTIFICATION),
        (b"{}", Reason.NOT_A_NOTIFICATION),
        (b'{"event_type":"a"}', Reason.NOT_A_NOTIFICATION),
        (b'{"event_type":"a","priority":1}', Reason.NOT_A_NOTIFICATION),
        (b'{"event_type":null,"priority":"b"}', Reason.NOT_A_NOTIFICATION),
        (b'{"event_type":["a"],"priority":"b","payload":"\\ud800"}', Reason.NOT_A_NOTIFICATION),
        (b'["\\ud800"]', Reason.NOT_A_NOTIFICATION),
        (
            b'{"event_type":5,"event_type":"a","priority":"b","x":"\\ud800"}',
            Reason.NOT_A_NOTIFICATION,
        ),
        (b"\xef\xbb\xbf" + GOOD[:-1] + b',"x":"\\u0061"}', Reason.NOT_JSON),
        (GOOD.decode().encode("utf-16-le"), Reason.NOT_JSON),
        (b'{"event_type":"a","priority":"b","x":NaN,"y":"\\ud800"}', Reason.NOT_JSON),
        (b'{"event_type":"a","priority":"b","x":"'.ljust(LIMIT - 2, b"x") + b'"}', Reason.TOO_LONG),
    ],
)
def test_bad_line_is_rejected_and_its_neighbours_are_kept(line: bytes, reason: Reason) -> None:
    good = GOOD + b"\n"
    assert result(line + b"\n") == (b"", 0, [reason])
    assert result(good + line + b"\n" + good) == (good * 2, 2, [reason])


def test_split_and_joined_objects_are_both_rejected() -> None:
    lines = GOOD + GOOD + b"\n" + GOOD.replace(b", ", b",\n") + b"\n"
    validated = check(lines)
    assert (validated.records, validated.routing_keys) == (b"", [])
    assert len(validated.rejected) == 3


@pytest.mark.parametrize("more", [b"", b',"x":"\\ud800"'])
def test_filterable_fields_are_decoded(more: bytes) -> None:
    line = b'{"priority":"INFO","publisher_id":"p.\\u00e4","event_type":"e"%s}\n' % more
    assert check(line).routing_keys == [("e", "INFO", "p.ä")]


@pytest.mark.parametrize("publisher_id", ["null", "5", '["nova"]', '{"a":1}', "true"])
def test_publisher_that_is_not_a_string_is_empty(publisher_id: str) -> None:
    line = f'{{"event_type":"e","publisher_id":{publisher_id},"priority":"INFO"}}\n'
    assert check(line.encode()).routing_keys == [("e", "INFO", "")]


def test_deep_nesting_does_not_crash() -> None:
    deep = b'{"event_type":"a","priority":"b","payload":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"
    assert check(deep, 10**6).rejected == [Reason.NOT_JSON]


def is_well_formed(line: bytes) -> bool:
    """Return whether a line is a well-formed record; an independent implementation."""
    try:
        value = json.loads(line.decode("utf-8", "strict"))
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return (
        isinstance(value, dict)
        and isinstance(value.get("event_type"), str)
        and isinstance(value.get("priority"), str)
    )


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
record_fields = st.fixed_dictionaries(
    {}, optional={"event_type": st.text() | values, "priority": st.text(), "payload": values}
)
encodings = st.builds(json.JSONEncoder, ensure_ascii=st.booleans())
lines = (
    st.builds(lambda v, e: e.encode(v).encode("utf-8", "surrogatepass"), record_fields, encodings)
    | values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=40).map(lambda line: line.replace(b"\n", b""))
)


@given(st.lists(lines, max_size=6))
def test_batch_verdict_equals_that_of_each_line(batch: list[bytes]) -> None:
    good = [line for line in batch if is_well_formed(line)]
    validated = check(b"".join(line + b"\n" for line in batch), 10**6)
    assert validated.records == b"".join(line + b"\n" for line in good)
    assert [event_type for event_type, *_ in validated.routing_keys] == [
        json.loads(line)["event_type"] for line in good
    ]
    assert len(validated.rejected) == len(batch) - len(good)


GAP = b'{"event_type":"notif_relayd.gap","priority":"W","payload":{"dropped":%s,"reason":"%s"}}\n'


@pytest.mark.parametrize(
    "beside", [b"", b"garbage\n", b'{"event_type":"x","priority":"\\ud800"}\n']
)
def test_gap_records_are_reported(beside: bytes) -> None:
    first, second = GAP % (b"1", b"relay_restarted"), GAP % (b"null", b"producer_congested")
    validated = check(GOOD + b"\n" + first + beside + second + GOOD + b"\n")
    assert validated.gaps == [(1, "relay_restarted"), (None, "producer_congested")]
    assert validated.records.count(b"notif_relayd.gap") == 2
    assert check(GOOD + b"\n").gaps == []


@pytest.mark.parametrize(
    "line",
    [
        GAP % (b"1", b"a reason of its own"),
        GAP % (b"-1", b"relay_restarted"),
        GAP % (b"1.0", b"relay_restarted"),
        GAP % (b"true", b"relay_restarted"),
        GAP % (b"9007199254740992", b"relay_restarted"),
        GAP % (b"1" * 600, b"relay_restarted"),
        GAP % (b"1", b"relay_restarted\\ud800"),
        GAP.replace(b"{", b'{"payload":{},', 1) % (b"1", b"relay_restarted"),
        GAP.replace(b"dropped", b"drop") % (b"1", b"relay_restarted"),
        GAP.replace(b'"W"', b'"W","x":"' + b"x" * 768 + b'"') % (b"1", b"relay_restarted"),
        b'{"event_type":"notif_relayd.gap","priority":"b"}\n',
        b'{"event_type":"\\u006eotif_relayd.gap","priority":"b","payload":{"dropped":1}}\n',
    ],
)
def test_malformed_gap_record_is_rejected(line: bytes) -> None:
    assert check(line) == ValidatedBatch(b"", [], [Reason.MALFORMED_GAP], [])
    assert result(GOOD + b"\n" + line)[1:] == (1, [Reason.MALFORMED_GAP])


@pytest.mark.parametrize(
    ("publisher", "routing_key"),
    [
        (b"9" * 500, ("a", "b", "")),
        (b"-1e999", ("a", "b", "")),
        (b'1e999,"x":"\\ud800"', ("a", "b", "")),
        (b'1e999,"publisher_id":"p"', ("a", "b", "p")),
    ],
)
def test_huge_number_as_publisher_is_relayed(publisher: bytes, routing_key: RoutingKey) -> None:
    line = b'{"event_type":"a","priority":"b","publisher_id":%s}\n' % publisher
    assert check(line).routing_keys == [routing_key]
    assert result(line.replace(b"}\n", b"\n")) == (b"", 0, [Reason.NOT_JSON])


@pytest.mark.parametrize("field", ["event_type", "priority"])
def test_huge_number_as_required_field_is_rejected(field: str) -> None:
    fields = f'"event_type":"a","priority":"b","{field}":{"9" * 500}'
    assert result(f"{{{fields}}}\n".encode()) == (b"", 0, [Reason.NOT_A_NOTIFICATION])


@pytest.mark.parametrize("own", ["notif_relayd.error", "notif_relayd.gaps", "notif_relayd."])
def test_forged_gap_of_the_relay_is_not_reported(own: str) -> None:
    line = GOOD.replace(b"a.b", own.encode()) + b"\n"
    assert check(line) == ValidatedBatch(b"", [], [Reason.RESERVED], [])


def test_event_type_with_reserved_infix_is_accepted() -> None:
    line = GOOD.replace(b"a.b", b"x.notif_relayd.error") + b"\n"
    assert result(line + GOOD + b"\n") == (line + GOOD + b"\n", 2, [])


RECORD = (
    '{"message_id": "1", "publisher_id": "nova-compute:h\u00f6st", "event_type": "a.b", '
    '"priority": "INFO", "payload": {"a": [1, -2.5e3, null, true, false, {}, []], '
    '"b": 18446744073709551615, "c": "\\\\ \\" \\u00e4 \u2603"}, '
    '"timestamp": "2026-01-31 12:00:00.123456"}\n'
).encode()


@pytest.mark.parametrize("times", [1, 2, 100])
def test_records_of_services_are_plain(times: int) -> None:
    routing_keys = plain(RECORD * times)
    assert routing_keys == [("a.b", "INFO", "nova-compute:h\u00f6st")] * times
    assert len(set(map(id, routing_keys))) == 1
    assert routing_keys == check(RECORD * times).routing_keys


def test_many_routing_keys_are_distinguished() -> None:
    numbers = [*range(20), *range(20), 5, 5, 6, 5]
    fields = [(f"a{n % 3}", f"b{n // 3 % 3}", f"c{n // 9}") for n in numbers]
    line = '{"event_type":"%s","priority":"%s","publisher_id":"%s"}\n'
    lines = "".join(line % each for each in fields).encode()
    assert plain(lines) == fields
    assert check(lines).routing_keys == fields


def nested(depth: int) -> bytes:
    inner = b"[" * (depth - 1) + b"1" + b"]" * (depth - 1)
    return b'{"event_type":"a","priority":"b","x":%s}\n' % inner


@pytest.mark.parametrize(
    "line",
    [
        b" " + RECORD,
        GAP % (b"1", b"relay_restarted"),
        GAP.replace(b"notif", b"\\u006eotif") % (b"1", b"relay_restarted"),
        b'{"event_type":"a","priority":"b","x":18446744073709551616}\n',
        b'{"event_type":"a","priority":"b","x":1e999}\n',
        b'{"event_type":"a","priority":"b\\ud800"}\n',
        b'{"event_type":"a","priority":"b\\udc00"}\n',
        nested(64),
        b'{"event_type":"a","priority":"b","x":"'.ljust(128 * 1024 - 2, b"x") + b'"}\n',
    ],
    ids=lambda line: line[:60],
)
def test_valid_record_need_not_be_plain(line: bytes) -> None:
    for batch in (line, RECORD + line, line + RECORD):
        assert plain(batch, 10**6) == []
        assert len(check(batch, 10**6).routing_keys) == batch.count(b"\n")


def test_plain_record_at_the_depth_and_size_limits() -> None:
    long = b'{"event_type":"a","priority":"b","x":"'.ljust(128 * 1024 - 3, b"x") + b'"}\n'
    for line in (nested(63), long):
        assert len(plain(line * 2, 10**6)) == 2
        assert len(check(line * 2, 10**6).routing_keys) == 2


@pytest.mark.parametrize(
    ("first", "last", "routing_key"),
    [
        ('"event_type":"x"', '"event_type":"a"', ("a", "b", "p")),
        ('"publisher_id":"x"', '"publisher_id":5', ("a", "b", "")),
        ('"priority":5', '"priority":"b"', None),
        ('"priority":"b"', '"priority":5', None),
        ('"event_type":null', '"event_type":"a"', None),
        ('"event_type":"a"', '"event_type":[]', None),
    ],
)
def test_duplicate_key_uses_the_last_and_checks_each(
    first: str, last: str, routing_key: RoutingKey | None
) -> None:
    fields = '"event_type":"a","priority":"b","publisher_id":"p"'
    line = f"{{{first},{fields},{last}}}\n".encode()
    assert check(line).routing_keys == ([] if routing_key is None else [routing_key])
    assert plain(line) == check(line).routing_keys


def test_bytes_after_the_last_line_are_not_used() -> None:
    """At any distance from the end of the buffer, and for any bytes there."""
    for size in range(45, 200):
        line = b'{"event_type": "a.b", "priority": "INFO"'.ljust(size) + b"}\n"
        assert len(plain(line)) == 1
        assert plain(line[:-2] + b"\n") == []
        assert len(plain(GOOD + b"\n" + line)) == 2
        assert plain(line[:-2] + b"\n" + b"}" * 70 + b"\n") == []


@pytest.mark.parametrize(
    ("lines", "rules"),
    [
        ("text", (b"x", 1)),
        (bytearray(b"x\n"), (b"x", 1)),
        (None, (b"x", 1)),
        (b"x\n", ()),
        (b"x\n", (b"x",)),
        (b"x\n", (None, 1)),
        (b"x\n", (b"x", "1")),
        (b"x\n", [b"x", 1.5]),
    ],
)
def test_compiled_module_refuses_unreadable_input(lines: Any, rules: Any) -> None:
    with pytest.raises(TypeError):
        routing_keys_of(lines, rules)


@pytest.mark.parametrize("lines", [b"", b"\n", b"{", b"{\n{", b"{}", b"x", GOOD, b"\n" + GOOD])
def test_partial_lines_have_no_plain_records(lines: bytes) -> None:
    assert plain(lines) == []


@pytest.mark.parametrize(("limit", "count"), [(-1, 0), (0, 0), (len(GOOD), 0), (len(GOOD) + 1, 1)])
def test_plain_record_keeps_to_the_size_limit(limit: int, count: int) -> None:
    assert len(plain(GOOD + b"\n", limit)) == count
