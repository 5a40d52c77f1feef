# SPDX-License-Identifier: Apache-2.0
"""What each peer's protocol puts around a record, as plain bytes.

Each function makes the `Wire` for one record: what is said first on either side, what is in the
answer to that, and the record as it is sent and as it arrives. As they arrive all of them end in a
newline, which the load relies on: the record has one, or the protocol puts one after it.
"""

import struct
from dataclasses import dataclass

TOPIC = b"n"
"""The channel, subject or topic where a peer has such things: as short as can be."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How to speak to a peer."""

    sent: bytes
    """What a producer writes for the record."""
    arrives: bytes
    """What a subscriber reads for it."""
    producer_hello: bytes = b""
    producer_answer: bytes = b""
    """What is in the answer to that."""
    subscriber_hello: bytes = b""
    subscriber_answer: bytes = b""
    subscriber_request: bytes = b""
    """What it says after that, and what is not answered."""


def plain(record: bytes) -> Wire:
    """Nothing around it: a record is a line."""
    return Wire(record, record)


def redis(record: bytes) -> Wire:
    """RESP 2: PUBLISH and SUBSCRIBE as arrays of bulk strings."""
    return Wire(
        sent=_resp(b"PUBLISH", TOPIC, record),
        arrives=_resp(b"message", TOPIC, record),
        subscriber_hello=_resp(b"SUBSCRIBE", TOPIC),
        subscriber_answer=b":1\r\n",
    )


def _resp(*strings: bytes) -> bytes:
    bulk = b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in strings)
    return b"*%d\r\n%b" % (len(strings), bulk)


def nats(record: bytes) -> Wire:
    """NATS' client protocol: PUB and MSG; PONG tells that what was said before was understood."""
    connect = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
    return Wire(
        sent=b"PUB %b %d\r\n%b\r\n" % (TOPIC, len(record), record),
        arrives=b"MSG %b 1 %d\r\n%b\r\n" % (TOPIC, len(record), record),
        producer_hello=connect + b"PING\r\n",
        producer_answer=b"PONG\r\n",
        subscriber_hello=connect + b"SUB %b 1\r\nPING\r\n" % TOPIC,
        subscriber_answer=b"PONG\r\n",
    )


def mqtt(record: bytes) -> Wire:
    """MQTT 3.1.1, QoS 0: a clean session without a name, never a keep-alive."""
    connect = _mqtt_packet(0x10, _mqtt_string(b"MQTT") + b"\x04\x02\x00\x00" + _mqtt_string(b""))
    connack = b"\x20\x02\x00\x00"
    publish = _mqtt_packet(0x30, _mqtt_string(TOPIC) + record)
    return Wire(
        sent=publish,
        arrives=publish,
        producer_hello=connect,
        producer_answer=connack,
        subscriber_hello=connect + _mqtt_packet(0x82, b"\x00\x01" + _mqtt_string(TOPIC) + b"\x00"),
        subscriber_answer=b"\x90\x03\x00\x01\x00",
    )


def _mqtt_string(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def _mqtt_packet(kind: int, body: bytes) -> bytes:
    length = len(body)
    digits = bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | 0x80 if length else digit)
        if not length:
            return bytes([kind, *digits]) + body


def zeromq(record: bytes) -> Wire:
    """ZMTP 3.0 with the NULL mechanism: a PUB to the proxy's XSUB, a SUB to its XPUB.

    A subscription is a message of its own (``\\x01`` and a prefix; here the empty one), sent
    after the handshake, since libzmq hangs up on one that comes along with it. There
    is no answer to it.
    """
    message = _zmtp_frame(0x00, record)
    return Wire(
        sent=message,
        arrives=message,
        producer_hello=_zmtp_greeting() + _zmtp_ready(b"PUB"),
        producer_answer=_zmtp_property(b"Socket-Type", b"XSUB"),
        subscriber_hello=_zmtp_greeting() + _zmtp_ready(b"SUB"),
        subscriber_answer=_zmtp_property(b"Socket-Type", b"XPUB"),
        subscriber_request=_zmtp_frame(0x00, b"\x01"),
    )


def _zmtp_greeting() -> bytes:
    signature = b"\xff" + bytes(8) + b"\x7f"
    return signature + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


def _zmtp_ready(socket_type: bytes) -> bytes:
    return _zmtp_frame(0x04, b"\x05READY" + _zmtp_property(b"Socket-Type", socket_type))


def _zmtp_property(name: bytes, value: bytes) -> bytes:
    return struct.pack(">B", len(name)) + name + struct.pack(">I", len(value)) + value


def _zmtp_frame(flags: int, body: bytes) -> bytes:
    if len(body) > 255:
        return struct.pack(">BQ", flags | 0x02, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body
