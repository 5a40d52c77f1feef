# SPDX-License-Identifier: Apache-2.0
"""What the benchmark puts around a record, read back as each protocol's specification has it."""

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
    made = record(size)
    assert len(made) == size
    assert made.endswith(b"}\n")
    assert made.count(b"\n") == 1
    assert list(json.loads(made)) == [
        "message_id",
        "publisher_id",
        "event_type",
        "priority",
        "payload",
        "timestamp",
    ]
    assert made.count(STAMP.encode()) == 1


def test_too_small_record_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has at least \d+ bytes"):
        record(300)


@pytest.mark.parametrize("protocol", [wire.plain, wire.redis, wire.nats, wire.mqtt, wire.zeromq])
@pytest.mark.parametrize("carried", [RECORD, LONG])
def test_delivery_has_the_record_once_and_a_newline(
    protocol: Callable[[bytes], wire.Wire], carried: bytes
) -> None:
    spoken = protocol(carried)
    assert spoken.arrives.endswith(b"\n")
    assert spoken.arrives.count(carried) == 1
    assert spoken.sent.count(carried) == 1


def resp(data: bytes) -> list[bytes]:
    """One array of bulk strings, and nothing after it."""
    head, _, rest = data.partition(b"\r\n")
    assert head[:1] == b"*"
    found = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        assert size[:1] == b"$"
        length = int(size[1:])
        found.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
    assert rest == b""
    return found


def test_redis_commands_are_arrays_of_bulk_strings() -> None:
    spoken = wire.redis(RECORD)
    assert resp(spoken.sent) == [b"PUBLISH", b"n", RECORD]
    assert resp(spoken.arrives) == [b"message", b"n", RECORD]
    assert resp(spoken.subscriber_hello) == [b"SUBSCRIBE", b"n"]
    answer = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nn\r\n:1\r\n"
    assert spoken.subscriber_answer in answer


def test_nats_publish_has_length_and_final_newline() -> None:
    spoken = wire.nats(RECORD)
    assert spoken.sent == b"PUB n 1024\r\n" + RECORD + b"\r\n"
    assert spoken.arrives == b"MSG n 1 1024\r\n" + RECORD + b"\r\n"
    for hello in (spoken.producer_hello, spoken.subscriber_hello):
        lines = hello.split(b"\r\n")
        assert lines[0].startswith(b"CONNECT ")
        assert json.loads(lines[0].removeprefix(b"CONNECT ")) == {
            "verbose": False,
            "pedantic": False,
        }
        assert lines[-2:] == [b"PING", b""]


def mqtt(data: bytes) -> tuple[int, bytes, bytes]:
    """The first packet's type and flags, what it holds, and what comes after it."""
    length = shift = 0
    for at in range(1, 5):
        length |= (data[at] & 0x7F) << shift
        shift += 7
        if not data[at] & 0x80:
            break
    return data[0], data[at + 1 : at + 1 + length], data[at + 1 + length :]


@pytest.mark.parametrize("carried", [RECORD, LONG, record(20_000)])
def test_mqtt_publishes_with_qos_0(carried: bytes) -> None:
    kind, body, rest = mqtt(wire.mqtt(carried).sent)
    assert (kind, rest) == (0x30, b"")
    assert body == b"\x00\x01n" + carried


def test_mqtt_connects_then_subscribes() -> None:
    spoken = wire.mqtt(RECORD)
    kind, body, rest = mqtt(spoken.subscriber_hello)
    assert kind == 0x10
    assert body == b"\x00\x04MQTT" + b"\x04" + b"\x02" + b"\x00\x00" + b"\x00\x00"
    kind, body, rest = mqtt(rest)
    assert (kind, body, rest) == (0x82, b"\x00\x01" + b"\x00\x01n" + b"\x00", b"")
    kind, body, rest = mqtt(spoken.subscriber_answer)
    assert (kind, body) == (0x90, b"\x00\x01\x00")


def zmtp(data: bytes) -> tuple[int, bytes, bytes]:
    """The first frame's flags, what it holds, and what comes after it."""
    long = data[0] & 0x02
    size = struct.unpack(">Q", data[1:9])[0] if long else data[1]
    begin = 9 if long else 2
    return data[0] & ~0x02, data[begin : begin + size], data[begin + size :]


@pytest.mark.parametrize("carried", [RECORD, LONG])
def test_zeromq_record_is_one_message_with_long_size(carried: bytes) -> None:
    spoken = wire.zeromq(carried)
    assert zmtp(spoken.sent) == (0, carried, b"")
    assert spoken.sent[0] == 0x02
    assert spoken.arrives == spoken.sent


@pytest.mark.parametrize(("side", "socket_type"), [("producer", b"PUB"), ("subscriber", b"SUB")])
def test_zeromq_greeting_uses_null_security(side: str, socket_type: bytes) -> None:
    hello: bytes = getattr(wire.zeromq(RECORD), f"{side}_hello")
    greeting, command = hello[:64], hello[64:]
    assert (greeting[0], greeting[9]) == (0xFF, 0x7F)
    assert greeting[10:12] == b"\x03\x00"
    assert greeting[12:32] == b"NULL" + bytes(16)
    assert greeting[32:] == bytes(32)
    flags, body, rest = zmtp(command)
    assert (flags, rest) == (0x04, b"")
    assert body == b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + socket_type


def test_zeromq_subscription_is_a_message_of_its_own() -> None:
    assert zmtp(wire.zeromq(RECORD).subscriber_request) == (0, b"\x01", b"")
