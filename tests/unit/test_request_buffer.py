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
    assert buffer.remaining == 1
    buffer.feed(b"x")
    assert buffer.is_complete()
    with pytest.raises(RequestError, match="longer than 65536 bytes"):
        buffer.next_line()


def test_white_space_before_a_request_is_removed() -> None:
    buffer = RequestBuffer()
    buffer.feed(b"\r\n \n\n")
    assert buffer.next_line() is None
    assert len(buffer) == 0
    buffer.feed(b"\n\t" + b"x\n")
    assert buffer.next_line() == b"x"
    buffer.feed(b" " * MAX_REQUEST_SIZE)
    assert buffer.next_line() is None
    assert buffer.remaining == MAX_REQUEST_SIZE
