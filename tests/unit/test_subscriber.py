# SPDX-License-Identifier: Apache-2.0
"""What is known of those who read, where it can be looked at without a socket."""

from __future__ import annotations

import sys
from typing import cast

from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.subscriber import Stream, Subscriber
from notif_relayd.records.filters import EVERYTHING


def test_cost_of_current_set_ignores_past_size() -> None:
    stream = Stream(EVERYTHING, Store(1000))
    first, *others = cast("list[Subscriber]", [object() for _ in range(1000)])
    stream.current.update((first, *others))
    for number, each in enumerate(others, 1):
        stream.mark_behind(each)
        stream.mark_behind(each)
        assert len(stream.current) == 1000 - number
    assert stream.current == {first}
    assert sys.getsizeof(stream.current) == sys.getsizeof({first})
    stream.mark_behind(first)
    assert not stream.current
