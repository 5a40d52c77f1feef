# SPDX-License-Identifier: Apache-2.0
"""The buffer that splits the bytes of a subscriber into requests."""

import pytest

from notif_relay.request import MAX_REQUEST_SIZE
from notif_relayd.records.subscription_request import RequestBuffer, RequestError


def test_each_byte_is_searched_once() -> None:
    buffer = RequestBuffer()
    for _ in range(100):
        buffer.feed(b"x")
        assert not buffer.is_complete()
    buffer.feed(b"yz\nnext")
    assert buffer.next_line() == b"x" * 100 + b"yz"
    assert buffer.next_line() is None
    buffer.feed(b"\n")
    assert buffer.next_line() == b"next"
    assert len(buffer) == 0


def test_endless_request_is_an_error_at_the_limit() -> None:
    buffer = RequestBuffer()
    buffer.feed(b"x" * (MAX_REQUEST_SIZE - 1))
    assert not buffer.is_complete()
    assert buffer.room == 1
    buffer.feed(b"x")
    assert buffer.is_complete()
    with pytest.raises(RequestError, match="longer than 65536 bytes"):
        buffer.next_line()
