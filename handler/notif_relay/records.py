# SPDX-License-Identifier: Apache-2.0
"""The records that the relay itself makes: gaps, errors, answers to a filter request.

They have the six fields of every notification, so that a consumer needs no second parser for
them; their ``event_type`` starts with ``notif_relayd.``. The daemon and the handler both make
gap records, and a subscriber must not be able to tell which: this is the only place that knows
their shape.
"""

import datetime as dt
import json
import re
import socket
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn

GapReason = Literal["slow_subscriber", "producer_congested", "relay_restarted"]

EVENT_TYPE_PREFIX = "notif_relayd."

GAP = EVENT_TYPE_PREFIX + "gap"
SUBSCRIBED = EVENT_TYPE_PREFIX + "subscribed"
ERROR = EVENT_TYPE_PREFIX + "error"

PUBLISHER_ID_PREFIX = "notif-relayd."
"""What the ``publisher_id`` begins with; the name of the host follows."""

FULL = "This relay takes no more subscribers"
"""How the error begins that a subscriber gets who is one too many: no fault of its request."""

MAX_RECORD_SIZE = 1024 * 1024
"""Bytes of the longest record that is carried, its newline included (both ends' default)."""

MAX_GAP_SIZE = 768
"""Bytes of the longest gap record, its newline included.

The longest that ``gap`` makes has about 650: the host name has 64 characters, the kernel's limit,
and each of them is escaped. The limit makes gap records cheap to recognise, and keeps them within
what Python can decode: neither too deep a nesting nor an integer with too many digits fits in.
"""

MAX_DIGITS = 640
"""Digits of the longest integer that is decoded exactly in a record that Python refuses otherwise.

Python converts at most ``sys.get_int_max_str_digits()``, which cannot be set lower than this. Where
it has no such limit, the time grows with the square of the number of digits.
"""

MAX_DROPPED = 2**53 - 1
"""Records that one gap record may announce: integers up to here are exact in every JSON reader."""

Pairs = tuple[tuple[str, Any], ...]
"""The keys of a JSON object with their values, in order; objects in it likewise."""

PRODUCER_REASONS: tuple[str, ...] = ("producer_congested", "relay_restarted")
"""The reasons that a producer may give in a gap record."""

_escaped: Callable[[bytes], object] = re.compile(rb"\\u00(?:2[eE]|5[fF]|6|7)").search
"""Finds a letter, an underscore or a full stop that is escaped, which no JSON writer does."""

_prefix = EVENT_TYPE_PREFIX.encode()
_piece = b"tif_r"
"""A part that is found in a quarter of the time: up to 5 bytes CPython searches in another way."""

BACKSLASH = ord("\\")
"""As a number it is found in a quarter of the time: ``in`` tries first whether it was given one."""


class GapReport(NamedTuple):
    """What a gap record says."""

    dropped: int | None
    """How many records are missing, ``None`` if that is not known."""
    reason: str


def has_escaped_letters(data: bytes) -> bool:
    """Whether a name may stand in this JSON in another spelling than its letters."""
    return BACKSLASH in data and data.find(b"\\u00") >= 0 and _escaped(data) is not None


def may_be_reserved(data: bytes) -> bool:
    """Whether an event type in this JSON may begin with ``EVENT_TYPE_PREFIX``.

    It is a quick look before a full one: it may be wrong if it says yes, and never if it says no.
    """
    return (data.find(_piece) >= 0 and data.find(_prefix) >= 0) or has_escaped_letters(data)


def number(digits: str) -> int | float:
    """Convert a JSON integer; to a float if it has more digits than ``MAX_DIGITS``."""
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _decoder(parse_int: Callable[[str], float] | None) -> Callable[[str], Any]:
    return json.JSONDecoder(
        object_pairs_hook=tuple, parse_int=parse_int, parse_constant=_refuse_constant
    ).decode


_decode_any_number = _decoder(number)
_decode = _decoder(None) if hasattr(sys, "get_int_max_str_digits") else _decode_any_number


def decode_pairs(record: bytes) -> Pairs:
    """The fields of a record, in order and with the keys that are given twice.

    They are empty if the record is JSON but not an object.

    Raises:
        ValueError, RecursionError: it cannot be decoded.
    """
    text = record.decode()  # json would take UTF-16 and a byte order mark as well
    try:
        pairs = _decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # most likely an integer of too many digits
        pairs = _decode_any_number(text)
    return pairs if type(pairs) is tuple else ()


def read_gap(size: int, record: Pairs) -> GapReport | None:
    """What a record of ``size`` bytes says as a gap record; ``None`` if it is no well-formed one.

    The relay and the library both judge by this function, so that what the relay counts is what
    subscribers are told. It does not matter who made the record, or how it is spelled. A key that
    is given twice is an error here, because not every reader takes the same value.
    """
    fields = _unambiguous(record if size <= MAX_GAP_SIZE else ())
    payload = _unambiguous(fields.get("payload"))
    dropped, reason = payload.get("dropped", ""), payload.get("reason")
    counted = type(dropped) is int and 0 <= dropped <= MAX_DROPPED
    if fields.get("event_type") != GAP or type(reason) is not str:
        return None
    return GapReport(dropped, reason) if counted or dropped is None else None


def own_event_type(record: bytes) -> str:
    """The event type of a gap record, or of an error or answer of the relay; empty for any other.

    A producer can send none of them but well-formed gap records: the relay rejects the others.
    """
    if not may_be_reserved(record):
        return ""
    try:
        pairs = decode_pairs(record)
    except (ValueError, RecursionError):
        return ""
    fields = dict(pairs)
    payload, publisher_id = fields.get("payload"), fields.get("publisher_id")
    from_relay = type(publisher_id) is str and publisher_id.startswith(PUBLISHER_ID_PREFIX)
    match [value for key, value in pairs if key == "event_type"]:
        case [str(event_type)] if (
            (event_type == GAP and read_gap(len(record), pairs) is not None)
            or (event_type == ERROR and from_relay and type(payload) is str)
            or (event_type == SUBSCRIBED and from_relay and type(payload) is tuple)
        ):
            return event_type
    return ""


def gap(dropped: int | None, reason: GapReason) -> bytes:
    """The record that stands for ``dropped`` missing ones, ``None`` where nobody knows."""
    return _record(GAP, "WARN", {"dropped": dropped, "reason": reason})


def error(sentence: str) -> bytes:
    """The answer to a request that cannot be met; the connection is closed after it."""
    return _record(ERROR, "ERROR", sentence)


def subscribed(patterns: Mapping[str, object]) -> bytes:
    """The answer to a filter request: from here on only what the filter lets through."""
    return _record(SUBSCRIBED, "INFO", patterns)


def _record(event_type: str, priority: str, payload: Mapping[str, object] | str) -> bytes:
    notification = {
        "message_id": str(uuid.uuid4()),
        "publisher_id": PUBLISHER_ID_PREFIX + socket.gethostname(),
        "event_type": event_type,
        "priority": priority,
        "payload": payload,
        # oslo.messaging writes naive UTC in this form.
        "timestamp": str(dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)),
    }
    # Not escaped: the answer to a request must not be larger than the request.
    return json.dumps(notification, ensure_ascii=False).encode() + b"\n"


def _unambiguous(pairs: object) -> dict[str, Any]:
    """The object of these pairs; empty if it is not an object, or has the same key twice."""
    if type(pairs) is not tuple:
        return {}
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else {}
