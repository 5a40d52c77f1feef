# SPDX-License-Identifier: Apache-2.0
"""Assembles the frames of delivered messages, instead of py-amqp.

py-amqp collects the frames of a message of any size. Here, a message that is too large is skipped
without being stored, and a header that is invalid makes only its message unreadable. Otherwise, a
single message in the queue could prevent the bridge from ever reading those behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from amqp import spec
from amqp.serialization import loads

_METHOD, _HEADER, _BODY = 1, 2, 3
"""Types of frames."""

_DELIVER = struct.pack(">HH", *spec.Basic.Deliver)
_TAG = struct.Struct(">QB")
"""Number of the message, and whether it was delivered before."""
_PROPERTIES = struct.Struct(">HHQH")
"""Class, weight, size of the body, and which properties follow."""
_HAS_TYPE, _HAS_ENCODING, _HAS_HEADERS = 0x8000, 0x4000, 0x2000

_NO_HEADERS = b"\0\0\0\0"
"""An empty table."""


@dataclass(slots=True)
class Delivery:
    """A message of the broker."""

    number: int
    """Number of the message on its channel, from 1."""
    routing_key: str
    size: int = 0
    """Size of the body in bytes."""
    compression: str | None = None
    """Value of the header ``compression``."""
    body: bytes = b""
    problem: str = ""
    """Why there is no body."""


class Deliveries:
    """The messages on one channel.

    Args:
        receive: called with each message.
        max_size: size in bytes up to which messages are stored.
    """

    def __init__(self, receive: Callable[[Delivery], None], max_size: int) -> None:
        self.max_size = max_size
        self._receive = receive
        self._delivery: Delivery | None = None
        self._has_header = False
        self._left = 0
        """Bytes of the body that have not arrived."""
        self._parts: list[bytes] = []

    def take(self, kind: int, payload: bytes) -> bool:
        """Return whether a frame belongs to a delivered message.

        Raises:
            ValueError, struct.error, IndexError: the frame is invalid.
        """
        if kind == _METHOD:
            if not payload.startswith(_DELIVER):
                return False
            self._begin(payload)
        elif self._delivery is None:
            return False
        elif kind == _HEADER and not self._has_header:
            self._take_header(self._delivery, payload)
        elif kind == _BODY and self._has_header:
            self._take_body(self._delivery, payload)
        else:
            return False
        return True

    def _begin(self, payload: bytes) -> None:
        if self._delivery is not None:
            raise ValueError("a message within a message")
        position = len(_DELIVER)
        position += 1 + payload[position]  # tag of the consumer
        number, _ = _TAG.unpack_from(payload, position)
        position += _TAG.size
        position += 1 + payload[position]  # exchange
        key = payload[position + 1 : position + 1 + payload[position]]
        self._delivery = Delivery(number, key.decode(errors="replace"))
        self._has_header = False

    def _take_header(self, delivery: Delivery, payload: bytes) -> None:
        _, _, delivery.size, flags = _PROPERTIES.unpack_from(payload)
        self._has_header = True
        self._left = delivery.size
        if delivery.size > self.max_size:
            delivery.problem = f"it is larger than {self.max_size} bytes"
        elif flags & _HAS_HEADERS:
            self._read_headers(delivery, payload, flags)
        self._finish_if_complete(delivery)

    def _read_headers(self, delivery: Delivery, payload: bytes, flags: int) -> None:
        position = _PROPERTIES.size
        for flag in (_HAS_TYPE, _HAS_ENCODING):
            if flags & flag:
                position += 1 + payload[position]
        if payload[position : position + len(_NO_HEADERS)] == _NO_HEADERS:
            return
        try:
            (headers,), _ = loads("F", payload, position)
            compression = headers.get("compression")
        except Exception:  # noqa: BLE001 - of any type, as the sender chooses the content
            delivery.problem = "its headers cannot be decoded"
        else:
            delivery.compression = None if compression is None else str(compression)

    def _take_body(self, delivery: Delivery, payload: bytes) -> None:
        self._left -= len(payload)
        if self._left < 0:
            raise ValueError("the body of a message is longer than announced")
        if not delivery.problem:
            self._parts.append(payload)
        self._finish_if_complete(delivery)

    def _finish_if_complete(self, delivery: Delivery) -> None:
        if self._left:
            return
        delivery.body = b"".join(self._parts)
        self._parts.clear()
        self._delivery = None
        self._receive(delivery)
