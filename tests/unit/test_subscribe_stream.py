# SPDX-License-Identifier: Apache-2.0
"""What a stream shows of the bytes that it gets, without any socket."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import BadFilter, Gap, Notification, RelayUnavailable, records
from notif_relay.stream import OnGap, Stream
from running import record

ANSWER = records.subscribed({})
FULL = "This relay takes no more subscribers: there are max_subscribers = 1 already."


def flowing(on_gap: OnGap | None = None) -> Stream:
    stream = Stream("/the/socket", on_gap)
    assert list(stream.receive(ANSWER)) == []
    return stream


def raws(stream: Stream, data: bytes) -> list[bytes]:
    return [notification.raw for notification in stream.receive(data)]


def numbers(stream: Stream, data: bytes) -> list[object]:
    """The number of each record, "gap" for gaps."""
    return [
        "gap" if isinstance(each, Gap) else json.loads(each.raw)["number"]
        for each in stream.receive(data)
    ]


@given(
    st.lists(
        st.one_of(
            st.integers().map(lambda number: record(number=number)),
            st.text().map(lambda text: record(payload=text + "\r\v\x85\u2028")),
            st.sampled_from([records.gap(3, "slow_subscriber"), b"{}\r\n", b"\n"]),
        )
    ),
    st.lists(st.integers(1, 400)),
)
def test_however_the_bytes_come_the_records_are_the_same(
    lines: list[bytes], sizes: list[int]
) -> None:
    data = ANSWER + b"".join(lines)
    stream = Stream("/the/socket", None)
    read: list[bytes] = []
    for size in sizes:
        if data[:size]:
            read += raws(stream, data[:size])
        data = data[size:]
    if data:
        read += raws(stream, data)
    assert read == lines


def test_a_record_in_many_pieces_is_put_together() -> None:
    stream = flowing()
    long = record(payload="x" * 1_000_000)
    for start in range(0, len(long) - 1, 1000):
        assert raws(stream, long[start : min(start + 1000, len(long) - 1)]) == []
    assert raws(stream, long[-1:]) == [long]


def test_what_comes_before_the_answer_is_not_shown() -> None:
    stream = Stream("/the/socket", None)
    early = record(number=1) + records.gap(5, "slow_subscriber")
    assert numbers(stream, early + ANSWER + record(number=2)) == [2]
    assert numbers(stream, record(number=3)) == [3]


def test_a_new_connection_begins_with_one_gap_and_nothing_that_was_not_asked_for() -> None:
    stream = flowing()
    assert numbers(stream, record(number=1) + record(number=2)[:9]) == [1]
    stream.end()
    assert numbers(stream, record(number=3)) == []
    data = ANSWER + record(number=4)
    assert numbers(stream, data[:20]) == []
    assert numbers(stream, data[20:]) == ["gap", 4]
    assert numbers(stream, record(number=5)) == [5]


def test_a_gap_is_told_once_however_many_connections_came_to_nothing() -> None:
    stream = flowing()
    stream.end()
    stream.end()
    with pytest.raises(RelayUnavailable):
        stream.receive(records.error(FULL))
    stream.end()
    [gap] = stream.receive(ANSWER)
    assert isinstance(gap, Gap)
    assert (gap.dropped, gap.reason) == (None, "relay_restarted")


def test_a_connection_that_never_flowed_owes_no_gap() -> None:
    stream = Stream("/the/socket", None)
    assert raws(stream, record()) == []
    stream.end()
    assert raws(stream, ANSWER) == []


def test_an_error_instead_of_the_answer_is_about_the_filter() -> None:
    with pytest.raises(BadFilter, match=r"^A sentence\.$"):
        Stream("/the/socket", None).receive(record() + records.error("A sentence."))


def test_a_full_relay_is_not_available() -> None:
    with pytest.raises(RelayUnavailable, match="/the/socket: This relay takes no more"):
        Stream("/the/socket", None).receive(records.error(FULL))


def test_what_a_killed_relay_left_of_a_record_is_not_shown() -> None:
    stream = flowing()
    gap = records.gap(None, "relay_restarted")
    assert numbers(stream, record(number=1) + record(number=2)[:-9] + b"\n" + gap) == [1, "gap"]
    assert numbers(stream, record(number=3) + b"\n" + gap) == [3, "gap"]
    assert numbers(stream, record(number=4) + gap) == [4, "gap"]


def test_gaps_go_to_the_callback_at_their_place_in_the_stream() -> None:
    seen: list[object] = []
    stream = flowing(lambda gap: seen.append(gap.dropped))
    data = record(number=1) + records.gap(7, "slow_subscriber") + record(number=2)
    for notification in stream.receive(data):
        seen.append(json.loads(notification.raw)["number"])
    assert seen == [1, 7, 2]


def test_a_callback_that_raises_loses_nothing_of_the_rest() -> None:
    def refuse(gap: Gap) -> None:
        raise LookupError(gap.dropped)

    data = record(number=1) + records.gap(7, "slow_subscriber") + record(number=2)
    ready = flowing(refuse).receive(data)
    first: Notification = next(ready)
    with pytest.raises(LookupError):
        next(ready)
    assert [json.loads(each.raw)["number"] for each in (first, *ready)] == [1, 2]
