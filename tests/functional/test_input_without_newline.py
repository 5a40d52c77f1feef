# SPDX-License-Identifier: Apache-2.0
"""Requests whose last line ends with the input instead of a newline."""

from __future__ import annotations

import json
import socket

import pytest

from support.records import record
from support.relay import RunningRelay, Subscriber, connect

REQUEST = b'{"filter": {"event_type": ["wanted"]}}'


def shut_down(subscriber: Subscriber) -> None:
    subscriber.socket.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("pieces", [[REQUEST], [REQUEST[:9], REQUEST[9:]], [REQUEST + b" \t"]])
def test_request_may_end_with_the_input(relay: RunningRelay, pieces: list[bytes]) -> None:
    with Subscriber(relay.public) as subscriber, relay.produce() as producer:
        for piece in pieces:
            subscriber.socket.sendall(piece)
        shut_down(subscriber)
        assert subscriber.notification()["event_type"] == "notif_relayd.subscribed"
        producer.sendall(record("other") + record("wanted"))
        assert subscriber.line() == record("wanted")


def test_last_of_two_requests_may_end_with_the_input(relay: RunningRelay) -> None:
    with Subscriber(relay.public) as subscriber, relay.produce() as producer:
        subscriber.socket.sendall(b'{"filter": {}}\n' + REQUEST)
        shut_down(subscriber)
        assert subscriber.notification()["payload"] == {}
        assert subscriber.notification()["payload"] == {"event_type": ["wanted"]}
        producer.sendall(record("other") + record("wanted"))
        assert subscriber.line() == record("wanted")


@pytest.mark.parametrize("request_", [b"{}", b"nonsense", REQUEST[:-1], b"{" * 65535])
def test_invalid_request_at_the_end_is_refused(relay: RunningRelay, request_: bytes) -> None:
    with Subscriber(relay.public) as subscriber:
        subscriber.socket.sendall(request_)
        shut_down(subscriber)
        assert subscriber.notification()["event_type"] == "notif_relayd.error"
        assert subscriber.read_to_end() == b""


@pytest.mark.parametrize("rest", [b"", b" ", b"\t \r", b"\n", b"\r\n \n\n"])
def test_white_space_at_the_end_is_no_request(relay: RunningRelay, rest: bytes) -> None:
    with Subscriber(relay.public) as subscriber, relay.produce() as producer:
        subscriber.socket.sendall(rest + REQUEST + b"\n" + rest)
        shut_down(subscriber)
        assert subscriber.notification()["event_type"] == "notif_relayd.subscribed"
        producer.sendall(record("wanted"))
        assert subscriber.line() == record("wanted")


@pytest.mark.parametrize("request_", [b'{"method": "status"}', b'{"method": "status"} '])
def test_control_request_may_end_with_the_input(relay: RunningRelay, request_: bytes) -> None:
    with connect(relay.control) as control, control.makefile("rb") as answers:
        control.sendall(b'{"method": "nothing"}\n' + request_)
        control.shutdown(socket.SHUT_WR)
        first, second = (json.loads(line) for line in answers)
    assert "error" in first
    assert second["result"]["subscribers"] == 0
