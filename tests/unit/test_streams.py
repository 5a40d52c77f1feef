# SPDX-License-Identifier: Apache-2.0
"""A stream exists as long as it has members, and gets the records that its view lets through."""

from __future__ import annotations

import pytest

from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.streams import Streams
from notif_relayd.fanout.subscriber import Subscription
from notif_relayd.records.filters import UNFILTERED, Filter, View

ROUTING_KEYS = [("a.x", "INFO", ""), ("b", "INFO", ""), ("a.y", "INFO", "")]


def view(pattern: str) -> View:
    return View(Filter.parse({"event_type": [pattern]}))


@pytest.fixture
def streams() -> Streams:
    return Streams(Store(1000))


def test_equal_views_share_a_stream_until_it_is_empty(streams: Streams) -> None:
    stream = streams.of(view("a.*"))
    assert streams.of(view("a.*")) is stream
    other = streams.of(view("b"))
    assert list(streams) == [stream, other]
    for _ in range(2):
        Subscription(stream, 1)
    streams.leave(stream)
    assert list(streams) == [stream, other]
    streams.leave(stream)
    assert list(streams) == [other]
    assert streams.of(view("a.*")) is not stream


def test_empty_streams_are_removed_on_request(streams: Streams) -> None:
    stream, unfiltered = streams.of(view("a.*")), streams.of(UNFILTERED)
    streams.of(view("b"))
    Subscription(stream, 1)
    assert streams.unfiltered is unfiltered
    streams.end_unused()
    assert list(streams) == [stream]
    assert streams.unfiltered is None
    assert list(streams.select(ROUTING_KEYS, b"")) == [(stream, [0, 2])]


def test_filtered_streams_get_matching_records(streams: Streams) -> None:
    assert list(streams.select(ROUTING_KEYS, b"")) == []
    streams.of(UNFILTERED)
    assert list(streams.select(ROUTING_KEYS, b"")) == []
    some, one = streams.of(view("a.*")), streams.of(view("b"))
    streams.of(view("never"))
    assert dict(streams.select(ROUTING_KEYS, b"")) == {some: [0, 2], one: [1]}


def test_stream_that_ends_during_selection_is_skipped(streams: Streams) -> None:
    for pattern in ("a.*", "b"):
        Subscription(streams.of(view(pattern)), 1)
    selected = streams.select(ROUTING_KEYS, b"")
    first, _ = next(selected)
    for each in list(streams):
        if each is not first:
            streams.leave(each)
    assert list(selected) == []
