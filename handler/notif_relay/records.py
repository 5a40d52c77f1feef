# SPDX-License-Identifier: Apache-2.0
"""Records that the relay generates: gaps, errors, answers to requests and marks of redelivery.

They have the six fields of every notification, so that subscribers need no second parser. Their
``event_type`` starts with ``notif_relayd.``. The daemon and the handler both generate gap
records, and subscribers must not see a difference, so the format is defined only here.
"""

import datetime as dt
import json
import re
import socket
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, NoReturn, get_args

GapReason = Literal[
    "slow_subscriber",
    "undeliverable",
    "producer_congested",
    "relay_restarted",
    "permission_denied",
    "spool_full",
    "spool_expired",
    "spool_lost",
]

EVENT_TYPE_PREFIX = "notif_relayd."

GAP = EVENT_TYPE_PREFIX + "gap"
SUBSCRIBED = EVENT_TYPE_PREFIX + "subscribed"
ERROR = EVENT_TYPE_PREFIX + "error"
REDELIVERED = EVENT_TYPE_PREFIX + "redelivered"

PUBLISHER_ID_PREFIX = "notif-relayd."
"""Prefix of the ``publisher_id``; the host name follows."""

TOO_MANY_SUBSCRIBERS = "This relay takes no more subscribers"
"""Start of the error message when ``max_subscribers`` is reached.

Part of the wire format: it distinguishes this error from an invalid request.
"""

NOT_ADMITTED = "This relay does not admit this subscriber"
"""Start of the error message when the allow lists do not contain the user; part of the wire format.
"""

TOO_MANY_PRODUCERS = "This relay takes no more producers"
PRODUCER_NOT_ADMITTED = "This relay does not admit this producer"
"""The same for a producer."""

NOTICE = "notice"
"""Key in the answer to a request, if the access rules leave nothing to read; a sentence."""

GROUP_SINCE = "group_since"
"""Key in the answer to a member of a group: when the group began. Another time than before means
that the group has lost its place, so that records may be missing."""

MAX_RECORD_SIZE = 1024 * 1024
"""Default maximum size of a record in bytes, including its newline; for daemon and library."""

MAX_GAP_SIZE = 768
"""Maximum size of a gap record in bytes, including its newline.

The longest record that ``gap`` generates has about 650 bytes, with a host name of 64 characters
(the kernel's limit) that are all escaped. The limit makes gap records cheap to recognise. It also
guarantees that Python can decode them: neither a too deep nesting nor a too long integer fits in.
"""

MAX_DIGITS = 640
"""Maximum number of digits of an integer that is decoded exactly if Python refuses the record.

Python refuses integers with more than ``sys.get_int_max_str_digits()`` digits, a limit that
cannot be set below 640. In versions without this limit, decoding takes quadratic time.
"""

MAX_DROPPED = 2**53 - 1
"""Maximum number of records in one gap record: the largest integer that is exact in all JSON
readers."""

Pairs = tuple[tuple[str, Any], ...]
"""A JSON object as key/value pairs in their order, including nested objects."""

PRODUCER_REASONS: tuple[str, ...] = get_args(GapReason)
"""Reasons that producers may use in gap records: all, because a bridge also brings gap records of
other relays and bridges to this one."""

_find_escaped: Callable[[bytes], object] = re.compile(rb"\\u00(?:2[eE]|5[fF]|6|7)").search
"""Finds an escaped letter, underscore or full stop; JSON writers do not escape them."""

_prefix = EVENT_TYPE_PREFIX.encode()
_prefix_part = b"tif_r"
"""Part of the prefix to search first: CPython finds up to 5 bytes four times as fast."""

BACKSLASH = ord("\\")
"""An integer, because ``BACKSLASH in data`` is four times as fast as with a bytes object."""


class GapReport(NamedTuple):
    """The payload of a gap record."""

    dropped: int | None
    """Number of missing records; ``None`` if it is unknown."""
    reason: str


def has_escaped_letters(data: bytes) -> bool:
    """Return whether a name may be spelled with escape sequences in this JSON text."""
    return BACKSLASH in data and data.find(b"\\u00") >= 0 and _find_escaped(data) is not None


def may_be_reserved(data: bytes) -> bool:
    """Return whether an event type in this JSON text may start with ``EVENT_TYPE_PREFIX``.

    A fast check before the full one: it can return a false positive, but no false negative.
    """
    return (data.find(_prefix_part) >= 0 and data.find(_prefix) >= 0) or has_escaped_letters(data)


def parse_integer(digits: str) -> int | float:
    """Return a JSON integer; as a float if it has more than ``MAX_DIGITS`` digits."""
    return int(digits) if len(digits) <= MAX_DIGITS else float(digits)


def refuse_constant(constant: str) -> NoReturn:
    """Refuse NaN or infinity, which `json` would decode."""
    raise ValueError(f"{constant} is not JSON")


def _decoder(parse_int: Callable[[str], float] | None) -> Callable[[str], Any]:
    return json.JSONDecoder(
        object_pairs_hook=tuple, parse_int=parse_int, parse_constant=refuse_constant
    ).decode


_decode_any_integer = _decoder(parse_integer)
_decode = _decoder(None) if hasattr(sys, "get_int_max_str_digits") else _decode_any_integer


def decode_pairs(record: bytes) -> Pairs:
    """Decode a record and keep the order of its fields and duplicate keys.

    Returns:
        The fields; an empty tuple if the record is JSON but not an object.

    Raises:
        ValueError, RecursionError: the record cannot be decoded.
    """
    text = record.decode()  # json.loads would also accept UTF-16 and a byte order mark
    try:
        pairs = _decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # most likely an integer with too many digits
        pairs = _decode_any_integer(text)
    return pairs if type(pairs) is tuple else ()


def read_gap(size: int, record: Pairs) -> GapReport | None:
    """Return the content of a well-formed gap record, or ``None`` for any other record.

    The relay and the library both use this function, so that the numbers which the relay counts
    are those which subscribers read. The origin and the spelling of the record are irrelevant.
    Records with duplicate keys are refused, because JSON readers differ in the value they use.

    Args:
        size: size of the record in bytes.
        record: its fields, as returned by ``decode_pairs``.
    """
    fields = _unique_fields(record if size <= MAX_GAP_SIZE else ())
    payload = _unique_fields(fields.get("payload"))
    dropped, reason = payload.get("dropped", ""), payload.get("reason")
    counted = type(dropped) is int and 0 <= dropped <= MAX_DROPPED
    if fields.get("event_type") != GAP or type(reason) is not str:
        return None
    return GapReport(dropped, reason) if counted or dropped is None else None


def gap_report(record: bytes) -> GapReport | None:
    """Return the content of a well-formed gap record, or ``None`` for any other record."""
    if len(record) > MAX_GAP_SIZE or not may_be_reserved(record):
        return None
    try:
        return read_gap(len(record), decode_pairs(record))
    except (ValueError, RecursionError):
        return None


def own_event_type(record: bytes) -> str:
    """Return the event type of a record generated by the relay, or an empty string.

    These are well-formed gap records, from the relay or a producer, and the records of the other
    types that this module generates. The relay rejects all other records of producers with a
    reserved event type.
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
            or (event_type in {SUBSCRIBED, REDELIVERED} and from_relay and type(payload) is tuple)
        ):
            return event_type
    return ""


def gap(dropped: int | None, reason: GapReason, message_id: str | None = None) -> bytes:
    """Return a gap record.

    Args:
        dropped: number of missing records; ``None`` if it is unknown.
        reason: why they are missing.
        message_id: that of an earlier gap record which announced the same; ``None`` without one.
    """
    return _record(GAP, "WARN", {"dropped": dropped, "reason": reason}, message_id)


def error(message: str) -> bytes:
    """Return the error record for a request that is refused; the connection is closed after it."""
    return _record(ERROR, "ERROR", message)


def subscribed(patterns: Mapping[str, object]) -> bytes:
    """Return the answer to a filter request: all records after it match the filter."""
    return _record(SUBSCRIBED, "INFO", patterns)


def redelivered(count: int) -> bytes:
    """Return the record that precedes ``count`` records which were handed out before."""
    return _record(REDELIVERED, "INFO", {"records": count})


def _record(
    event_type: str,
    priority: str,
    payload: Mapping[str, object] | str,
    message_id: str | None = None,
) -> bytes:
    notification = {
        "message_id": message_id or str(uuid.uuid4()),
        "publisher_id": PUBLISHER_ID_PREFIX + socket.gethostname(),
        "event_type": event_type,
        "priority": priority,
        "payload": payload,
        # oslo.messaging writes naive UTC in this form.
        "timestamp": str(dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)),
    }
    # Without escapes, so that the answer to a request is not larger than the request.
    return json.dumps(notification, ensure_ascii=False).encode() + b"\n"


def _unique_fields(pairs: object) -> dict[str, Any]:
    """Return an object as a dictionary; empty if it is no object or has duplicate keys."""
    if type(pairs) is not tuple:
        return {}
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else {}
