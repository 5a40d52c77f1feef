# SPDX-License-Identifier: Apache-2.0
"""The current subscribers of a stream."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import cast

from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.subscriber import Stream, Subscriber
from notif_relayd.records.filters import UNFILTERED


def test_cost_of_current_subscribers_ignores_past_number() -> None:
    stream = Stream(frozenset([UNFILTERED]), Store(1000))
    subscribers = [cast("Subscriber", SimpleNamespace(id=number)) for number in range(1000)]
    last = subscribers.pop()
    for each in (*subscribers, last):
        stream.mark_current(each)
    for number, each in enumerate(subscribers, 1):
        stream.mark_behind(each)
        stream.mark_behind(each)
        assert len(stream.current) == 1000 - number
    assert stream.current == {last.id: last}
    assert sys.getsizeof(stream.current) <= sys.getsizeof(dict.fromkeys(range(10)))
    stream.mark_behind(last)
    assert not stream.current


def test_current_subscribers_keep_their_order() -> None:
    stream = Stream(frozenset([UNFILTERED]), Store(1000))
    one, two, three = (cast("Subscriber", SimpleNamespace(id=number)) for number in (3, 1, 2))
    for each in (one, two, three):
        stream.mark_current(each)
    stream.mark_behind(one)
    stream.mark_current(one)
    assert list(stream.current.values()) == [two, three, one]
