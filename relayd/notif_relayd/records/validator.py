# SPDX-License-Identifier: Apache-2.0
"""Decides which lines of a batch are records.

A line is validated as often as necessary, from fast to slow; each step accepts only what all
slower steps accept, so that the result never depends on the step:

1. The compiled module reads the batch with simdjson. It accepts only plain records, in half of the
   time of step 2.
2. msgspec decodes three fields of each line and checks the grammar of the others. The batch is
   accepted as a whole if every line is good.
3. Otherwise, each line is decoded on its own to find the reason for its rejection.
4. A line is decoded completely if msgspec rejects it but it may be valid, or if its event_type may
   be reserved. This takes ten times as long as step 2.

Rules for keys that occur twice: the last value counts, as in `json.loads`, but every value must
have the right type. A line is rejected if any of its event_types is reserved, because a reader may
use another one than the last. The only reserved records that a producer may send are well-formed
gap records with one event_type.
"""

import enum
import time
from collections.abc import Callable
from typing import Any

import msgspec

from notif_relay.records import (
    EVENT_TYPE_PREFIX,
    GAP,
    PRODUCER_REASONS,
    GapReport,
    decode_pairs,
    may_be_reserved,
    read_gap,
)
from notif_relayd.records.framing import split

MIN_SIZE = len('{"event_type":"","priority":""}\n')
"""Minimum size of a valid record in bytes."""

RoutingKey = tuple[str, str, str]
"""event_type, priority and publisher_id of a record; the last is empty if it is not a string."""

try:
    from notif_relayd._native import routing_keys_of
except ImportError:

    def routing_keys_of(_lines: bytes, _rules: tuple[bytes, int], /) -> list[RoutingKey]:
        """Replace the compiled function: accept nothing, so that the next step decides."""
        return []


class Reason(str, enum.Enum):
    """Why a line is rejected; the value is part of a log message."""

    EMPTY = "an empty line"
    TOO_LONG = "longer than max_record_size"
    TORN = "torn: the connection ended within the record"
    NOT_UTF8 = "not UTF-8"
    NOT_JSON = "not JSON"
    NO_ROOM = "the limit for unfinished records is reached"
    RESERVED = "an event_type that only the relay may use"
    NOT_A_NOTIFICATION = "not a JSON object with event_type and priority as strings"
    MALFORMED_GAP = "a malformed gap record"


class Required(msgspec.Struct, gc=False):
    """The fields that every notification has."""

    event_type: str
    priority: str


class Header(Required, gc=False):
    """The fields that filters compare."""

    publisher_id: Any = None


class ValidatedBatch(msgspec.Struct):
    """The result for a batch of lines."""

    records: bytes
    """The valid lines, unchanged and in order."""
    routing_keys: list[RoutingKey]
    """One entry for each valid line."""
    rejected: list[Reason]
    """One entry for each rejected line."""
    gaps: list[GapReport]
    """Contents of the gap records among the valid lines."""


class Validator:
    """Validates lines from producers.

    Args:
        limit: maximum size of a record in bytes, including its newline.
        thread_time: returns the processor time of the thread in seconds.
    """

    def __init__(self, limit: int, thread_time: Callable[[], float] = time.thread_time) -> None:
        self._thread_time = thread_time
        self._limit = limit
        self.seconds = 0.0
        """Processor time, in seconds, of the lines that were decoded completely."""
        self.rules = (EVENT_TYPE_PREFIX.encode(), limit)
        """Arguments for the compiled module: the reserved prefix of event_type, and `limit`."""

    def validate(self, lines: bytes) -> ValidatedBatch:
        """Validate a batch of whole lines, as the framer returns it."""
        routing_keys = routing_keys_of(lines, self.rules)
        if routing_keys:
            return ValidatedBatch(lines, routing_keys, [], [])
        if len(lines) <= self._limit or max(map(len, split(lines))) <= self._limit:
            try:
                # msgspec does not check the UTF-8 of fields that it skips.
                if not lines.isascii():
                    lines.decode()
                # Line by line: msgspec could decode the whole batch at once, but would accept two
                # objects on one line, and one object on two.
                routing_keys = list(map(_routing_key, map(_decode, split(lines))))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
            else:
                if not may_be_reserved(lines):
                    return ValidatedBatch(lines, routing_keys, [], [])
        return self._validate_each(lines)

    def _validate_each(self, lines: bytes) -> ValidatedBatch:
        good = []
        routing_keys = []
        rejected = []
        gaps: list[GapReport] = []
        for line in split(lines):
            result = self._validate_line(line, gaps)
            if isinstance(result, Reason):
                rejected.append(result)
            else:
                good.append(line)
                routing_keys.append(result)
        return ValidatedBatch(b"".join(good), routing_keys, rejected, gaps)

    def _validate_line(self, line: bytes, gaps: list[GapReport]) -> RoutingKey | Reason:
        """Return the routing key of a line, or why it is rejected; append gap reports to `gaps`."""
        if not line.strip():
            return Reason.EMPTY
        if len(line) > self._limit:
            return Reason.TOO_LONG
        try:
            line.decode()
        except UnicodeDecodeError:
            return Reason.NOT_UTF8
        result = _validate_quickly(line)
        if result is None:
            before = self._thread_time()
            result = _validate_completely(line, gaps)
            self.seconds += self._thread_time() - before
        return result


_decode = msgspec.json.Decoder(Header).decode
_decode_required = msgspec.json.Decoder(Required).decode


def _routing_key(header: Header) -> RoutingKey:
    publisher_id = header.publisher_id
    return header.event_type, header.priority, publisher_id if type(publisher_id) is str else ""


def _validate_quickly(line: bytes) -> RoutingKey | Reason | None:
    """Return the routing key of a line or why it is rejected; `None` if msgspec cannot decide.

    msgspec rejects some valid JSON: an escaped lone surrogate (RFC 8259, section 8.2), which
    `json.dumps` writes, and a huge number in a field that it decodes. For a key that occurs twice
    it returns only the last value.
    """
    try:
        routing_key = _routing_key(_decode(line))
    except msgspec.ValidationError:
        return None if _has_required(line) else Reason.NOT_A_NOTIFICATION
    except (msgspec.DecodeError, RecursionError):
        # Only a line with an escape can be valid, so a flood of garbage is rejected quickly.
        return None if b"\\u" in line else Reason.NOT_JSON
    return None if may_be_reserved(line) else routing_key


def _has_required(line: bytes) -> bool:
    """Return whether a line has the required fields, or may have them."""
    try:
        _decode_required(line)
    except msgspec.ValidationError:
        return False
    except (msgspec.DecodeError, RecursionError):
        pass  # It may still be JSON.
    return True


def _validate_completely(line: bytes, gaps: list[GapReport]) -> RoutingKey | Reason:
    try:
        fields = decode_pairs(line)
    except (ValueError, RecursionError):
        return Reason.NOT_JSON
    event_types = [value for key, value in fields if key == "event_type"]
    priorities = [value for key, value in fields if key == "priority"]
    if not (event_types and priorities and {*map(type, event_types + priorities)} == {str}):
        return Reason.NOT_A_NOTIFICATION
    if any(each.startswith(EVENT_TYPE_PREFIX) for each in event_types):
        if event_types != [GAP]:
            return Reason.RESERVED
        report = read_gap(len(line), fields)
        if report is None or report.reason not in PRODUCER_REASONS:
            return Reason.MALFORMED_GAP
        gaps.append(report)
    publisher_id = dict(fields).get("publisher_id")
    return event_types[-1], priorities[-1], publisher_id if type(publisher_id) is str else ""
