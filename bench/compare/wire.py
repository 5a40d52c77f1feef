# SPDX-License-Identifier: Apache-2.0
"""The protocol of each peer around a record, as plain bytes.

Each function returns the `Wire` for one record: the handshakes, and the record as it is sent and
as it arrives. The load generator requires that the arriving data ends with a newline. It belongs
to the record, or the protocol adds it.
"""

import struct
from dataclasses import dataclass

TOPIC = b"n"
"""Channel, subject or topic, for peers that have one."""


@dataclass(frozen=True, slots=True)
class Wire:
    """Protocol data for one record."""

    sent: bytes
    """Data that a producer writes for the record."""
    arrives: bytes
    """Data that a subscriber reads for the record."""
    producer_hello: bytes = b""
    producer_answer: bytes = b""
    """Text in the answer to the hello, which completes the handshake."""
    subscriber_hello: bytes = b""
    subscriber_answer: bytes = b""
    subscriber_request: bytes = b""
    """Sent after the handshake; not answered."""


def plain(record: bytes) -> Wire:
    """Lines without a protocol."""
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
    """Client protocol of NATS: PUB and MSG. PONG confirms the preceding commands."""
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
    """MQTT 3.1.1, QoS 0: a clean session without a client ID and without keep-alive."""
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

    A subscription is a message of ``\\x01`` and a prefix, which is empty here. It is sent after the
    handshake, because libzmq closes the connection if both arrive together. It is not answered.
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
