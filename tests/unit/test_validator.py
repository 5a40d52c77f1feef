# SPDX-License-Identifier: Apache-2.0
"""The validator takes exactly the well-formed records."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relayd.validator import Reason, Validator, Verdict

LIMIT = 4096


def judged(lines: bytes) -> tuple[bytes, int, list[Reason]]:
    """The records taken, how many, and what is wrong with the others."""
    verdict = Validator(LIMIT).check(lines)
    return verdict.records, len(verdict.headers), verdict.rejected


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
def test_a_well_formed_record_is_taken_as_it_is(line: bytes) -> None:
    assert judged(line + b"\n") == (line + b"\n", 1, [])
    neighbours = GOOD + b"\n" + line + b"\n" + GOOD + b"\n"
    assert judged(neighbours) == (neighbours, 3, [])


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
        (b'{"event_type":"a","priority":"b","x":"'.ljust(LIMIT - 2, b"x") + b'"}', Reason.TOO_LONG),
    ],
)
def test_a_bad_line_is_rejected_and_its_neighbours_are_not(line: bytes, reason: Reason) -> None:
    good = GOOD + b"\n"
    assert judged(line + b"\n") == (b"", 0, [reason])
    assert judged(good + line + b"\n" + good) == (good * 2, 2, [reason])


def test_an_object_on_two_lines_and_two_on_one_do_not_make_up_for_each_other() -> None:
    lines = GOOD + GOOD + b"\n" + GOOD.replace(b", ", b",\n") + b"\n"
    verdict = Validator(LIMIT).check(lines)
    assert (verdict.records, verdict.headers) == (b"", [])
    assert len(verdict.rejected) == 3


@pytest.mark.parametrize("more", [b"", b',"x":"\\ud800"'])
def test_the_fields_that_a_filter_asks_for_are_decoded(more: bytes) -> None:
    line = b'{"priority":"INFO","publisher_id":"p.\\u00e4","event_type":"e"%s}\n' % more
    [header] = Validator(LIMIT).check(line).headers
    assert (header.event_type, header.priority, header.publisher_id) == ("e", "INFO", "p.ä")


def test_deep_nesting_is_no_crash() -> None:
    deep = b'{"event_type":"a","priority":"b","payload":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"
    assert Validator(10**6).check(deep).rejected == [Reason.NOT_JSON]


def is_well_formed(line: bytes) -> bool:
    """The design's definition, said once more with other means."""
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
nearly = st.fixed_dictionaries(
    {}, optional={"event_type": st.text() | values, "priority": st.text(), "payload": values}
)
encodings = st.builds(json.JSONEncoder, ensure_ascii=st.booleans())
lines = (
    st.builds(lambda v, e: e.encode(v).encode("utf-8", "surrogatepass"), nearly, encodings)
    | values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=40).map(lambda line: line.replace(b"\n", b""))
)


@given(st.lists(lines, max_size=6))
def test_the_verdict_on_a_run_is_the_verdict_on_each_of_its_lines(run: list[bytes]) -> None:
    good = [line for line in run if is_well_formed(line)]
    verdict = Validator(10**6).check(b"".join(line + b"\n" for line in run))
    assert verdict.records == b"".join(line + b"\n" for line in good)
    assert [header.event_type for header in verdict.headers] == [
        json.loads(line)["event_type"] for line in good
    ]
    assert len(verdict.rejected) == len(run) - len(good)


@pytest.mark.parametrize(
    "beside", [b"", b"garbage\n", b'{"event_type":"x","priority":"\\ud800"}\n']
)
def test_gap_records_are_pointed_out_among_the_others(beside: bytes) -> None:
    gap = b'{"event_type": "notif_relayd.gap", "priority": "WARN", "payload": %d}\n'
    verdict = Validator(LIMIT).check(GOOD + b"\n" + gap % 1 + beside + gap % 2 + GOOD + b"\n")
    assert verdict.gaps == [gap % 1, gap % 2]
    assert verdict.records.count(b"notif_relayd.gap") == 2
    assert Validator(LIMIT).check(GOOD + b"\n").gaps == []


@pytest.mark.parametrize("own", ["notif_relayd.error", "notif_relayd.gaps", "notif_relayd."])
def test_no_gap_is_pointed_out_where_somebody_poses_as_the_relay(own: str) -> None:
    line = GOOD.replace(b"a.b", own.encode()) + b"\n"
    assert Validator(LIMIT).check(line) == Verdict(b"", [], [Reason.RESERVED], [])


def test_a_name_that_has_the_relays_in_it_is_somebody_elses() -> None:
    line = GOOD.replace(b"a.b", b"x.notif_relayd.error") + b"\n"
    assert judged(line + GOOD + b"\n") == (line + GOOD + b"\n", 2, [])
