# SPDX-License-Identifier: Apache-2.0
"""The stream of a subscriber, which parses received bytes without a socket."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import (
    BadFilter,
    Gap,
    Notification,
    RelayUnavailable,
    SubscriptionRefused,
    records,
)
from notif_relay.group import GROUPS_LIMIT, HOLD_LIMIT, MEMORY_LIMITS
from notif_relay.stream import OnGap, Stream
from support.records import record

ANSWER = records.subscribed({})
FULL = "This relay takes no more subscribers: there are max_subscribers = 1 already."


def subscribed(on_gap: OnGap | None = None) -> Stream:
    """Return a stream that has received the answer to its request."""
    stream = Stream("/the/socket", on_gap)
    assert list(stream.receive(ANSWER)) == []
    return stream


def raws(stream: Stream, data: bytes) -> list[bytes]:
    return [notification.raw for notification in stream.receive(data)]


def numbers(stream: Stream, data: bytes) -> list[object]:
    """Return the number of each record; "gap" for a gap."""
    return [
        "gap" if isinstance(each, Gap) else json.loads(each.raw)["number"]
        for each in stream.receive(data)
    ]


@given(
    st.lists(
        st.one_of(
            st.integers().map(lambda number: record(number=number)),
            st.text().map(lambda text: record(payload=text + "\r\v\x85\u2028")),
            st.sampled_from([records.gap(3, "slow_subscriber"), b"{}\r\n"]),
        )
    ),
    st.lists(st.integers(1, 400)),
)
def test_records_do_not_depend_on_read_sizes(lines: list[bytes], sizes: list[int]) -> None:
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


def test_record_in_many_pieces_is_joined() -> None:
    stream = subscribed()
    long = record(payload="x" * 1_000_000)
    for start in range(0, len(long) - 1, 1000):
        assert raws(stream, long[start : min(start + 1000, len(long) - 1)]) == []
    assert raws(stream, long[-1:]) == [long]


def test_records_before_the_answer_are_not_shown() -> None:
    stream = Stream("/the/socket", None)
    early = record(number=1) + records.gap(5, "slow_subscriber")
    assert numbers(stream, early + ANSWER + record(number=2)) == [2]
    assert numbers(stream, record(number=3)) == [3]


def test_reconnect_starts_with_one_gap_and_filtered_records() -> None:
    stream = subscribed()
    assert numbers(stream, record(number=1) + record(number=2)[:9]) == [1]
    stream.end()
    assert numbers(stream, record(number=3)) == []
    data = ANSWER + record(number=4)
    assert numbers(stream, data[:20]) == []
    assert numbers(stream, data[20:]) == ["gap", 4]
    assert numbers(stream, record(number=5)) == [5]


def test_failed_reconnects_cause_one_gap() -> None:
    stream = subscribed()
    stream.end()
    stream.end()
    with pytest.raises(RelayUnavailable):
        stream.receive(records.error(FULL))
    stream.end()
    [gap] = stream.receive(ANSWER)
    assert isinstance(gap, Gap)
    assert (gap.dropped, gap.reason) == (None, "relay_restarted")


def test_connection_without_records_causes_no_gap() -> None:
    stream = Stream("/the/socket", None)
    assert raws(stream, record()) == []
    stream.end()
    assert raws(stream, ANSWER) == []


def test_error_answer_is_a_filter_error() -> None:
    with pytest.raises(BadFilter, match=r"^A sentence\.$"):
        Stream("/the/socket", None).receive(record() + records.error("A sentence."))


@pytest.mark.parametrize("limit", [GROUPS_LIMIT, HOLD_LIMIT, *MEMORY_LIMITS])
def test_limit_that_may_be_raised_is_no_filter_error(limit: str) -> None:
    with pytest.raises(SubscriptionRefused, match=limit) as raised:
        Stream("/the/socket", None).receive(records.error(f"uid 1 {limit} 5 bytes."))
    assert not raised.value.is_permanent


def test_full_relay_is_unavailable() -> None:
    with pytest.raises(RelayUnavailable, match="/the/socket: This relay takes no more"):
        Stream("/the/socket", None).receive(records.error(FULL))


def test_partial_record_of_a_killed_relay_is_not_shown() -> None:
    stream = subscribed()
    gap = records.gap(None, "relay_restarted")
    assert numbers(stream, record(number=1) + record(number=2)[:-9] + b"\n" + gap) == [1, "gap"]
    assert numbers(stream, record(number=3) + b"\n" + gap) == [3, "gap"]
    assert numbers(stream, record(number=4) + gap) == [4, "gap"]


def test_callback_gets_gaps_in_stream_order() -> None:
    seen: list[object] = []
    stream = subscribed(lambda gap: seen.append(gap.dropped))
    data = record(number=1) + records.gap(7, "slow_subscriber") + record(number=2)
    for notification in stream.receive(data):
        seen.append(json.loads(notification.raw)["number"])
    assert seen == [1, 7, 2]


def test_raising_callback_loses_no_later_record() -> None:
    def refuse(gap: Gap) -> None:
        raise LookupError(gap.dropped)

    data = record(number=1) + records.gap(7, "slow_subscriber") + record(number=2)
    ready = subscribed(refuse).receive(data)
    first: Notification = next(ready)
    with pytest.raises(LookupError):
        next(ready)
    assert [json.loads(each.raw)["number"] for each in (first, *ready)] == [1, 2]


UNREADABLE = [
    b'{"event_type":"big","priority":"I","payload":%s}\n' % (b"1" * 5000),
    b'{"event_type":"deep","priority":"I","payload":%s}\n' % (b"[" * 99_999 + b"]" * 99_999),
    b'{"event_type":"notif_relayd.gap","priority":"I","payload":{}}\n',
    b'{"event_type":"notif_relayd.gap","priority":"I","payload":{"dropped":"x","reason":5}}\n',
    b'{"event_type":"x","priority":"I","event_type":"notif_relayd.error","payload":"no"}\n',
]


@pytest.mark.parametrize("odd", UNREADABLE, ids=["big", "deep", "empty", "wrong", "forged"])
@pytest.mark.parametrize("reason", ["relay_restarted", "slow_subscriber"])
def test_odd_record_does_not_affect_its_neighbours(odd: bytes, reason: records.GapReason) -> None:
    stream = subscribed()
    gap = records.gap(3, reason)
    before, after = record(number=1), record(number=2)
    received = list(stream.receive(before + odd + gap + odd + after))
    assert [each.raw for each in received] == [before, odd, gap, odd, after]
    assert [type(each) for each in received] == [
        Notification,
        Notification,
        Gap,
        *[Notification] * 2,
    ]


@pytest.mark.parametrize("odd", UNREADABLE, ids=["big", "deep", "empty", "wrong", "forged"])
def test_odd_record_is_not_taken_for_the_answer(odd: bytes) -> None:
    assert raws(Stream("/the/socket", None), odd + ANSWER + odd) == [odd]


def test_record_torn_in_a_character_is_not_shown() -> None:
    torn = record(name="h\xf8st").replace(b"\\u00f8", b"\xc3\xb8")
    torn = torn[: torn.index(b"\xc3") + 1] + b"\n"
    gap = records.gap(None, "relay_restarted")
    assert numbers(subscribed(), record(number=1) + torn + gap) == [1, "gap"]


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_gap_is_found_in_any_spelling_and_pieces(size: int) -> None:
    stream = subscribed()
    gap = b'{"payload":{"reason":"relay_restarted","dropped":7},"priority":"w","event_type":"%s"}\n'
    spellings = (b"notif_relayd.gap", rb"\u006eotif_relayd.gap", rb"notif_relayd\u002Egap")
    data = b"".join(
        record(number=number, payload="x" * 900) + gap % spelling
        for number, spelling in enumerate(spellings)
    )
    found: list[object] = []
    for start in range(0, len(data), size):
        found += numbers(stream, data[start : start + size])
    assert found == [0, "gap", 1, "gap", 2, "gap"]


def after_crash(filter_size: int) -> bytes:
    """Return what a relay sends first on a connection of a relay that was killed."""
    answer = records.subscribed({"event_type": ["x" * filter_size]})
    return b"\n" + records.gap(None, "relay_restarted") + answer


@pytest.mark.parametrize("size", [1, 100, 10**6])
@pytest.mark.parametrize("filter_size", [1, 5000])
@pytest.mark.parametrize("torn", [b"", record(number=2, nested={"a": 1})[:-3]])
def test_stream_after_a_crash_has_only_gap_and_records(
    torn: bytes, filter_size: int, size: int
) -> None:
    stream = subscribed()
    data = record(number=1) + torn + after_crash(filter_size) + record(number=3) * 2
    data += torn + after_crash(filter_size) + record(number=4)
    found: list[object] = []
    for start in range(0, len(data), size):
        found += numbers(stream, data[start : start + size])
    assert found == [1, "gap", 3, 3, "gap", 4]


@pytest.mark.parametrize("rest", [b"", record(number=3), records.error("The request is not JSON.")])
@pytest.mark.parametrize("torn", [b"", record(number=1), record(number=2)[:-3]])
def test_request_that_was_lost_in_a_crash_is_noticed(torn: bytes, rest: bytes) -> None:
    data = torn + b"\n" + records.gap(None, "relay_restarted") + rest
    with pytest.raises(RelayUnavailable, match="killed before it answered"):
        Stream("/the/socket", None).receive(data)


def test_gap_of_a_producer_before_the_answer_is_no_crash() -> None:
    stream = Stream("/the/socket", None)
    gap = records.gap(None, "relay_restarted")
    assert numbers(stream, gap + record(number=1) + gap + record(number=2)) == []
    assert numbers(stream, ANSWER + record(number=3)) == [3]


def test_large_answer_is_found_in_a_read_of_its_own() -> None:
    stream = subscribed()
    newline, gap, answer, _ = after_crash(5000).split(b"\n")
    assert numbers(stream, newline + b"\n") == []
    assert numbers(stream, gap + b"\n") == ["gap"]
    assert numbers(stream, answer[:2000]) == []
    assert numbers(stream, answer[2000:] + b"\n" + record(number=1)) == [1]


def test_error_of_the_relay_is_kept_for_the_end_of_the_connection() -> None:
    stream = subscribed()
    data = record(number=1) + records.error("A sentence.")
    assert numbers(stream, data) == [1]
    assert stream.error == "A sentence."


def test_torn_record_at_the_end_of_a_connection_is_not_shown() -> None:
    stream = subscribed()
    assert numbers(stream, record(number=1)[:-5] + b"\n") == []
    stream.end()
    assert numbers(stream, ANSWER + record(number=2)) == ["gap", 2]


def test_notice_in_the_answer_is_kept() -> None:
    stream = Stream("/the/socket", None)
    stream.receive(records.subscribed({"event_type": ["a"], records.NOTICE: "Nothing."}))
    assert stream.notice == "Nothing."
