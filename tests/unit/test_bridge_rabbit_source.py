# SPDX-License-Identifier: Apache-2.0
"""Messages of RabbitMQ: assembled from frames, and converted to records."""

from __future__ import annotations

import bz2
import json
import lzma
import struct
import zlib
from collections import deque
from typing import Any, cast

import pytest
from amqp.serialization import dumps
from hypothesis import given
from hypothesis import strategies as st

from notif_relay.messaging.envelope import unseal
from notif_relayd_bridge.brokers.envelope import UnreadableMessageError
from notif_relayd_bridge.brokers.rabbit.connection import (
    BrokerConnection,
    ClosingError,
    Waker,
)
from notif_relayd_bridge.brokers.rabbit.consumer import MAX_UNACKNOWLEDGED, Consumer
from notif_relayd_bridge.brokers.rabbit.deliveries import Deliveries, Delivery
from notif_relayd_bridge.brokers.rabbit.message import contents
from notif_relayd_bridge.brokers.rabbit.notification import to_record
from notif_relayd_bridge.brokers.source import MAX_MESSAGE_SIZE, MAX_UNACKNOWLEDGED_BYTES

MAX_SIZE = 1000

METHOD, HEADER, BODY = 1, 2, 3

BASIC = {
    "message_id": "1",
    "publisher_id": "p",
    "event_type": "e",
    "priority": "INFO",
    "payload": {"number": 1, "text": "ü\ud800"},
    "timestamp": "2026-01-31 12:00:00",
}


def deliver(number: int = 1, key: str = "notifications.info") -> tuple[int, bytes]:
    return METHOD, struct.pack(">HH", 60, 60) + dumps("sLbss", ("tag", number, 0, "nova", key))


def header(size: int, headers: dict[str, Any] | None = None) -> tuple[int, bytes]:
    properties = dumps("ssF", ("application/json", "utf-8", headers or {}))
    return HEADER, struct.pack(">HHQH", 60, 0, size, 0xE000) + properties


def read(*frames: tuple[int, bytes]) -> list[Delivery]:
    found: list[Delivery] = []
    deliveries = Deliveries(found.append, MAX_SIZE)
    assert all(deliveries.take(*each) for each in frames)
    return found


def test_message_is_assembled_from_frames() -> None:
    frames = [deliver(7, "a.info"), header(5, {"compression": "x"}), (BODY, b"ab"), (BODY, b"cde")]
    assert read(*frames) == [Delivery(7, "a.info", 5, "x", b"abcde")]
    assert read(*frames[:3]) == []
    assert read(deliver(), header(0)) == [Delivery(1, "notifications.info", 0)]


def test_message_without_properties_is_read() -> None:
    frames = [deliver(), (HEADER, struct.pack(">HHQH", 60, 0, 1, 0)), (BODY, b"x")]
    assert read(*frames) == [Delivery(1, "notifications.info", 1, None, b"x")]


def test_large_message_is_skipped() -> None:
    parts = [(BODY, b"x" * 600)] * 2
    (large, small) = read(deliver(1), header(1200), *parts, deliver(2), header(1), (BODY, b"y"))
    assert large.problem == f"it is larger than {MAX_SIZE} bytes"
    assert (large.size, large.body) == (1200, b"")
    assert (small.problem, small.body) == ("", b"y")


def nested(depth: int) -> bytes:
    """Return a table within a table, and so on."""
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


@pytest.mark.parametrize("table", [nested(20_000), b"\0\0\0\x03\x01a?", b"\xff\xff\xff\xff\0", b""])
def test_invalid_headers_make_the_message_unreadable(table: bytes) -> None:
    properties = struct.pack(">HHQH", 60, 0, 1, 0x2000) + table
    (found,) = read(deliver(), (HEADER, properties), (BODY, b"x"))
    assert found.problem == "its headers cannot be decoded"
    assert found.body == b""


@pytest.mark.parametrize(
    "frames",
    [
        [deliver(), deliver()],
        [deliver(), header(1), deliver()],
        [deliver(), header(1), (BODY, b"xy")],
        [deliver(), (HEADER, b"\0")],
        [(METHOD, struct.pack(">HH", 60, 60))],
        [(METHOD, struct.pack(">HH", 60, 60) + b"\xff")],
    ],
)
def test_invalid_frames_are_an_error(frames: list[tuple[int, bytes]]) -> None:
    with pytest.raises((ValueError, struct.error, IndexError)):
        read(*frames)


@given(st.lists(st.tuples(st.sampled_from([METHOD, HEADER, BODY]), st.binary(max_size=40))))
def test_any_frames_are_bounded(frames: list[tuple[int, bytes]]) -> None:
    found: list[Delivery] = []
    deliveries = Deliveries(found.append, MAX_SIZE)
    for kind, payload in (deliver(), *frames):
        try:
            deliveries.take(kind, payload)
        except (ValueError, struct.error, IndexError):
            return


def test_other_frames_are_left_to_the_client() -> None:
    deliveries = Deliveries(lambda _: None, MAX_SIZE)
    assert not deliveries.take(METHOD, struct.pack(">HH", 20, 40))
    assert not deliveries.take(HEADER, b"")
    assert not deliveries.take(BODY, b"x")


def envelope(message: dict[str, Any], version: Any = "2.0") -> bytes:
    return json.dumps({"oslo.version": version, "oslo.message": json.dumps(message)}).encode()


def record(body: bytes, key: str = "notifications.info", compression: str | None = None) -> Any:
    return json.loads(to_record(Delivery(1, key, len(body), compression, body)))


def test_record_has_the_fields_of_the_service() -> None:
    message = {
        **BASIC,
        "_unique_id": "u",
        "_context_user_id": "me",
        "_reply_q": "q",
        "_msg_id": "m",
    }
    expected = {**BASIC, "_context": {"user_id": "me"}}
    assert record(envelope(message)) == expected
    assert list(record(envelope(message))) == list(expected)
    assert record(json.dumps(message).encode()) == expected  # driver messaging


def test_topic_is_that_of_the_routing_key() -> None:
    assert record(envelope(BASIC), "versioned.info")["_topic"] == "versioned"
    assert record(envelope(BASIC), "a.b.info")["_topic"] == "a.b"
    assert "_topic" not in record(envelope({**BASIC, "_topic": "x"}))


def test_secrets_are_masked() -> None:
    found = record(envelope({**BASIC, "payload": {"password": "x"}, "_context_auth_token": "y"}))
    assert found["payload"] == {"password": "***"}
    assert found["_context"] == {"auth_token": "***"}


def test_record_and_message_are_inverse() -> None:
    sent = {**BASIC, "priority": "ERROR", "_context": {"a": [1]}, "_topic": "t"}
    body = contents(json.dumps(sent).encode(), "notifications").body("gzip")
    delivery = Delivery(1, "t.error", len(body.data), body.headers["compression"], body.data)
    found = to_record(delivery)
    assert json.loads(found) == sent
    assert unseal(found).topics == {"t"}


@pytest.mark.parametrize(
    ("method", "compress"),
    [
        ("application/x-gzip", zlib.compress),
        ("application/x-bz2", bz2.compress),
        ("application/x-lzma", lzma.compress),
    ],
)
def test_compressed_messages_are_bounded(method: str, compress: Any) -> None:
    assert record(compress(envelope(BASIC)), compression=method) == BASIC
    bomb = compress(b" " * (MAX_MESSAGE_SIZE + 1))
    for body, reason in [
        (bomb, "it is larger than"),
        (compress(envelope(BASIC))[:-5], "incomplete"),
        (b"x" * 50, "cannot be decompressed"),
        (b"", "incomplete"),
    ]:
        with pytest.raises(UnreadableMessageError, match=reason):
            record(body, compression=method)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        envelope({}),
        envelope({"method": "ping", "args": {}, "_reply_q": "q"}),  # a remote procedure call
        envelope(BASIC, "3.0"),
        envelope(BASIC, None),
        envelope(BASIC, ["2.0"]),
        b'{"oslo.version": "2.0", "oslo.message": {}}',
        b'{"oslo.version": "2.0", "oslo.message": "["}',
        b'{"oslo.version": "2.0", "oslo.message": "[]"}',
        envelope({**BASIC, "priority": 1}),
        envelope({**BASIC, "event_type": None}),
    ],
    ids=range(17),
)
def test_other_messages_are_unreadable(body: bytes) -> None:
    with pytest.raises(UnreadableMessageError):
        record(body)


def test_unknown_compression_is_unreadable() -> None:
    with pytest.raises(UnreadableMessageError, match="unknown compression"):
        record(envelope(BASIC), compression="application/zstd")


class Channel:
    """The channel and the connection of a consumer, which send nothing."""

    channel_id = 1

    def __init__(self) -> None:
        self.is_paused = False
        self.prefetch = 0
        self.deliveries: tuple[int, Deliveries] | None = None

    def channel(self) -> Channel:
        return self

    def basic_qos(self, _: int, count: int, __: bool) -> None:
        self.prefetch = count

    def basic_consume(self, queue: str, arguments: object) -> None: ...

    def basic_ack(self, number: int, multiple: bool) -> None: ...

    def process_input(self) -> None: ...

    def keep_alive(self) -> None: ...

    def wait_for_event(self) -> None:
        raise ClosingError


def test_full_connection_is_followed_by_a_smaller_prefetch() -> None:
    channel = Channel()
    consumer = Consumer(cast(BrokerConnection, channel), deque(), 50)
    consumer.start("pool", {})
    assert channel.prefetch == 50
    assert channel.deliveries is not None
    size = MAX_UNACKNOWLEDGED_BYTES // 4
    for number in (1, 2, 3, 4):
        assert consumer.next_prefetch == MAX_UNACKNOWLEDGED
        for frame in (deliver(number), header(size), (BODY, bytes(size))):
            channel.deliveries[1].take(*frame)
    assert channel.is_paused
    assert consumer.next_prefetch == 4


class Events:
    """Takes the messages of a consumer, and ends it when it waits for an acknowledgement."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def connected(self) -> None: ...

    def received(self, record: bytes) -> None:
        self.sizes.append(len(record))

    def unreadable(self, _: str) -> None: ...

    def failed(self, _: str) -> None: ...


def test_records_of_compressed_messages_are_bounded() -> None:
    channel, events, acknowledgements, waker = Channel(), Events(), deque[int](), Waker()
    consumer = Consumer(cast(BrokerConnection, channel), acknowledgements, 50)
    consumer.start("pool", {})
    assert channel.deliveries is not None
    message = json.dumps({**BASIC, "payload": "x" * (MAX_UNACKNOWLEDGED_BYTES // 5)})
    data = zlib.compress(message.encode())
    for number in range(1, 21):
        channel.deliveries[1].take(*deliver(number))
        channel.deliveries[1].take(*header(len(data), {"compression": "application/x-gzip"}))
        channel.deliveries[1].take(BODY, data)
    for count in (5, 7, 12):
        with pytest.raises(ClosingError):  # The consumer waits.
            consumer.run(events, waker)
        assert len(events.sizes) == count
        assert channel.is_paused
        acknowledgements.append(2 if count == 5 else 5)
    waker.close()
