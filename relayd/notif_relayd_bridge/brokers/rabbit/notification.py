# SPDX-License-Identifier: Apache-2.0
"""Converts a message of the bus to the record that the service would have sent to the relay.

This is the inverse of ``message``. The record is that of oslo.messaging's transport ``unix``: with
the topic and the request context in fields of their own, and with secrets masked. Each client
that may publish chooses the content of its messages, so the work on one is bounded by its size.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from notif_relay.errors import UnreadableRecord
from notif_relay.notification import decode
from notif_relayd_bridge.brokers.envelope import (
    MESSAGE,
    VERSION,
    UnreadableMessageError,
    content,
    to_json,
)
from notif_relayd_bridge.brokers.rabbit.deliveries import Delivery
from notif_relayd_bridge.brokers.source import MAX_MESSAGE_SIZE

_MAX_LZMA_MEMORY = 64 * 1024 * 1024
"""Maximum memory for the dictionary of LZMA in bytes; kombu's compression needs 9 MiB."""

_CONTEXT_PREFIX = "_context_"


def to_record(delivery: Delivery) -> bytes:
    """Return the record for a message.

    Raises:
        UnreadableMessageError: the message is no notification.
    """
    if delivery.problem:
        raise UnreadableMessageError(delivery.problem)
    message = _decode(_decompressed(delivery))
    if VERSION in message and MESSAGE in message:  # The driver ``messaging`` writes no envelope.
        message = content(message)
    context = {
        name.removeprefix(_CONTEXT_PREFIX): value
        for name, value in message.items()
        if name.startswith(_CONTEXT_PREFIX)
    }
    return to_json(message, context, delivery.routing_key)


def _decode(data: bytes) -> dict[str, Any]:
    try:
        return decode(data)
    except UnreadableRecord as error:
        raise UnreadableMessageError("it is not a JSON object") from error


def _decompressed(delivery: Delivery) -> bytes:
    if delivery.compression is None:
        return delivery.body
    method = _METHODS.get(delivery.compression)
    if method is None:
        raise UnreadableMessageError(f"unknown compression {delivery.compression[:100]}")
    try:
        data, is_complete = method(delivery.body)
    except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
        raise UnreadableMessageError("it cannot be decompressed") from error
    if len(data) > MAX_MESSAGE_SIZE:
        raise UnreadableMessageError(f"it is larger than {MAX_MESSAGE_SIZE} bytes")
    if not is_complete:
        raise UnreadableMessageError("its compressed data is incomplete")
    return data


def _gzip(data: bytes) -> tuple[bytes, bool]:
    decompressor = zlib.decompressobj()
    return decompressor.decompress(data, MAX_MESSAGE_SIZE + 1), decompressor.eof


def _bzip2(data: bytes) -> tuple[bytes, bool]:
    decompressor = bz2.BZ2Decompressor()
    return decompressor.decompress(data, MAX_MESSAGE_SIZE + 1), decompressor.eof


def _lzma(data: bytes) -> tuple[bytes, bool]:
    decompressor = lzma.LZMADecompressor(memlimit=_MAX_LZMA_MEMORY)
    return decompressor.decompress(data, MAX_MESSAGE_SIZE + 1), decompressor.eof


_METHODS: dict[str, Callable[[bytes], tuple[bytes, bool]]] = {
    "application/x-gzip": _gzip,
    "application/x-bz2": _bzip2,
    "application/x-lzma": _lzma,
}
"""By the names that kombu writes. Its own functions decompress to any size."""
