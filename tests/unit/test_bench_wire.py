# SPDX-License-Identifier: Apache-2.0
"""The protocol data that the benchmark adds to a record, decoded by each specification."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

import pytest

from compare import wire
from compare.notification import STAMP, record

RECORD = record(1024)
LONG = record(8192)


@pytest.mark.parametrize("size", [700, 1024, 8192])
def test_record_has_requested_size_and_notification_fields(size: int) -> None:
    data = record(size)
    assert len(data) == size
    assert data.endswith(b"}\n")
    assert data.count(b"\n") == 1
    assert list(json.loads(data)) == [
        "message_id",
        "publisher_id",
        "event_type",
        "priority",
        "payload",
        "timestamp",
    ]
    assert data.count(STAMP.encode()) == 1


def test_too_small_record_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has at least \d+ bytes"):
        record(300)


@pytest.mark.parametrize("protocol", [wire.plain, wire.redis, wire.nats, wire.mqtt, wire.zeromq])
@pytest.mark.parametrize("payload", [RECORD, LONG])
def test_delivery_has_the_record_once_and_a_newline(
    protocol: Callable[[bytes], wire.Wire], payload: bytes
) -> None:
    messages = protocol(payload)
    assert messages.arrives.endswith(b"\n")
    assert messages.arrives.count(payload) == 1
    assert messages.sent.count(payload) == 1


def resp(data: bytes) -> list[bytes]:
    """Decode a RESP array of bulk strings, and check that no data follows it."""
    head, _, remainder = data.partition(b"\r\n")
    assert head[:1] == b"*"
    found = []
    for _ in range(int(head[1:])):
        size, _, remainder = remainder.partition(b"\r\n")
        assert size[:1] == b"$"
        length = int(size[1:])
        found.append(remainder[:length])
        assert remainder[length : length + 2] == b"\r\n"
        remainder = remainder[length + 2 :]
    assert remainder == b""
    return found


def test_redis_commands_are_arrays_of_bulk_strings() -> None:
    messages = wire.redis(RECORD)
    assert resp(messages.sent) == [b"PUBLISH", b"n", RECORD]
    assert resp(messages.arrives) == [b"message", b"n", RECORD]
    assert resp(messages.subscriber_hello) == [b"SUBSCRIBE", b"n"]
    answer = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nn\r\n:1\r\n"
    assert messages.subscriber_answer in answer


def test_nats_publish_has_length_and_final_newline() -> None:
    messages = wire.nats(RECORD)
    assert messages.sent == b"PUB n 1024\r\n" + RECORD + b"\r\n"
    assert messages.arrives == b"MSG n 1 1024\r\n" + RECORD + b"\r\n"
    for hello in (messages.producer_hello, messages.subscriber_hello):
        lines = hello.split(b"\r\n")
        assert lines[0].startswith(b"CONNECT ")
        assert json.loads(lines[0].removeprefix(b"CONNECT ")) == {
            "verbose": False,
            "pedantic": False,
        }
        assert lines[-2:] == [b"PING", b""]


def mqtt(data: bytes) -> tuple[int, bytes, bytes]:
    """Return the first packet's type and flags, its content, and the remaining data."""
    length = shift = 0
    for index in range(1, 5):
        length |= (data[index] & 0x7F) << shift
        shift += 7
        if not data[index] & 0x80:
            break
    return data[0], data[index + 1 : index + 1 + length], data[index + 1 + length :]


@pytest.mark.parametrize("payload", [RECORD, LONG, record(20_000)])
def test_mqtt_publishes_with_qos_0(payload: bytes) -> None:
    kind, body, remainder = mqtt(wire.mqtt(payload).sent)
    assert (kind, remainder) == (0x30, b"")
    assert body == b"\x00\x01n" + payload


def test_mqtt_connects_then_subscribes() -> None:
    messages = wire.mqtt(RECORD)
    kind, body, remainder = mqtt(messages.subscriber_hello)
    assert kind == 0x10
    assert body == b"\x00\x04MQTT" + b"\x04" + b"\x02" + b"\x00\x00" + b"\x00\x00"
    kind, body, remainder = mqtt(remainder)
    assert (kind, body, remainder) == (0x82, b"\x00\x01" + b"\x00\x01n" + b"\x00", b"")
    kind, body, remainder = mqtt(messages.subscriber_answer)
    assert (kind, body) == (0x90, b"\x00\x01\x00")


def zmtp(data: bytes) -> tuple[int, bytes, bytes]:
    """Return the first frame's flags, its content, and the remaining data."""
    long = data[0] & 0x02
    size = struct.unpack(">Q", data[1:9])[0] if long else data[1]
    begin = 9 if long else 2
    return data[0] & ~0x02, data[begin : begin + size], data[begin + size :]


@pytest.mark.parametrize("payload", [RECORD, LONG])
def test_zeromq_record_is_one_message_with_long_size(payload: bytes) -> None:
    messages = wire.zeromq(payload)
    assert zmtp(messages.sent) == (0, payload, b"")
    assert messages.sent[0] == 0x02
    assert messages.arrives == messages.sent


@pytest.mark.parametrize(("side", "socket_type"), [("producer", b"PUB"), ("subscriber", b"SUB")])
def test_zeromq_greeting_uses_null_security(side: str, socket_type: bytes) -> None:
    hello: bytes = getattr(wire.zeromq(RECORD), f"{side}_hello")
    greeting, command = hello[:64], hello[64:]
    assert (greeting[0], greeting[9]) == (0xFF, 0x7F)
    assert greeting[10:12] == b"\x03\x00"
    assert greeting[12:32] == b"NULL" + bytes(16)
    assert greeting[32:] == bytes(32)
    flags, body, remainder = zmtp(command)
    assert (flags, remainder) == (0x04, b"")
    assert body == b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + socket_type


def test_zeromq_subscription_is_a_message_of_its_own() -> None:
    assert zmtp(wire.zeromq(RECORD).subscriber_request) == (0, b"\x01", b"")
