# SPDX-License-Identifier: Apache-2.0
"""Decides which lines are records.

Runs of good records are the rule, so a run is first taken to be one, and only where something is
wrong in it is it asked of each line what. All ways end in the same verdict for a line: a quick one
may only say "all good". The quickest is compiled, and takes half of the time of the next: there
simdjson looks at all of a line, and hardly an object is made of it. Each line is decoded by itself,
though msgspec could decode all at once: it would take two objects on one line, and one on two, and
the numbers could agree.

msgspec checks all of the JSON while it decodes three fields. It does not look at the UTF-8 of what
it skips; that is done here. It refuses some of what is JSON all the same: a lone surrogate that is
written as an escape (RFC 8259, section 8.2), which Python's own json writes, and a huge number in a
field that it decodes. Where a key is given twice it tells only the last value. So a line that it
refuses, or whose event_type may be reserved, is examined closely, with the whole of it decoded.

If a key is given twice the last value counts, as for json.loads, but each value must be good. A
line is rejected if any of its event_types is reserved, because a reader may take another one than
the last. Only a well-formed gap record, with one event_type, may come from a producer.
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

RoutingKey = tuple[str, str, str]
"""A notification's event_type, priority and publisher_id, the last empty where it is no string."""

try:
    from notif_relayd._native import routing_keys_of
except ImportError:

    def routing_keys_of(_lines: bytes, _rules: tuple[bytes, int], /) -> list[RoutingKey]:
        """In place of the compiled part: there is nothing that it is sure of."""
        return []


class Reason(str, enum.Enum):
    """Why a line is no record, in the words of the log."""

    EMPTY = "an empty line"
    TOO_LONG = "longer than max_record_size"
    TORN = "torn: the connection ended within it"
    NOT_UTF8 = "not UTF-8"
    NOT_JSON = "not JSON"
    NO_ROOM = "too long for the room that unfinished records have"
    RESERVED = "an event_type that only the relay may use"
    NOT_A_NOTIFICATION = "not a JSON object with event_type and priority as strings"
    MALFORMED_GAP = "a malformed gap record"


class Required(msgspec.Struct, gc=False):
    """The fields that every notification has."""

    event_type: str
    priority: str


class Header(Required, gc=False):
    """The fields that filters look at."""

    publisher_id: Any = None


class Verdict(msgspec.Struct):
    """What became of a run of lines."""

    records: bytes
    """The good ones, as they came."""
    routing_keys: list[RoutingKey]
    """The kind of each."""
    rejected: list[Reason]
    """One entry for each of the others."""
    gaps: list[GapReport]
    """What the gap records among the good ones say."""


class Validator:
    """Tells records from other lines.

    Args:
        limit: bytes of the longest record, its newline included.
        thread_time: returns the processor time of the thread in seconds.
    """

    def __init__(self, limit: int, thread_time: Callable[[], float] = time.thread_time) -> None:
        self._thread_time = thread_time
        self._limit = limit
        self.seconds = 0.0
        """Processor time of lines that were decoded as a whole, which takes ten times as long."""
        self.rules = (EVENT_TYPE_PREFIX.encode(), limit)
        """For the compiled part: how the event_type of a plain record does not begin, and the
        bytes that it may have."""

    def check(self, lines: bytes) -> Verdict:
        """Judge a run of whole lines, as the splitter gives it."""
        routing_keys = routing_keys_of(lines, self.rules)
        if routing_keys:
            return Verdict(lines, routing_keys, [], [])
        if len(lines) <= self._limit or max(map(len, split(lines))) <= self._limit:
            try:
                if not lines.isascii():
                    lines.decode()
                routing_keys = list(map(_kind, map(_decode, split(lines))))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
            else:
                if not may_be_reserved(lines):
                    return Verdict(lines, routing_keys, [], [])
        return self._check_each(lines)

    def _check_each(self, lines: bytes) -> Verdict:
        good = []
        routing_keys = []
        rejected = []
        gaps: list[GapReport] = []
        for line in split(lines):
            kind = self._examine(line, gaps)
            if isinstance(kind, Reason):
                rejected.append(kind)
            else:
                good.append(line)
                routing_keys.append(kind)
        return Verdict(b"".join(good), routing_keys, rejected, gaps)

    def _examine(self, line: bytes, gaps: list[GapReport]) -> RoutingKey | Reason:
        """The kind of a line, or why it is rejected; `gaps` gets what a gap record says."""
        if not line.strip():
            return Reason.EMPTY
        if len(line) > self._limit:
            return Reason.TOO_LONG
        try:
            line.decode()
        except UnicodeDecodeError:
            return Reason.NOT_UTF8
        verdict = _judge(line)
        if verdict is None:
            before = self._thread_time()
            verdict = _examine_closely(line, gaps)
            self.seconds += self._thread_time() - before
        return verdict


_decode = msgspec.json.Decoder(Header).decode
_decode_required = msgspec.json.Decoder(Required).decode


def _kind(header: Header) -> RoutingKey:
    publisher_id = header.publisher_id
    return header.event_type, header.priority, publisher_id if type(publisher_id) is str else ""


def _judge(line: bytes) -> RoutingKey | Reason | None:
    """The kind of a line, or why it is rejected; None if that takes a closer look."""
    try:
        kind = _kind(_decode(line))
    except msgspec.ValidationError:
        return None if _has_required(line) else Reason.NOT_A_NOTIFICATION
    except (msgspec.DecodeError, RecursionError):
        # Only a line with an escape can have been misjudged, and a flood of garbage is cheap.
        return None if b"\\u" in line else Reason.NOT_JSON
    return None if may_be_reserved(line) else kind


def _has_required(line: bytes) -> bool:
    """Whether a line has the required fields, as far as msgspec can tell."""
    try:
        _decode_required(line)
    except msgspec.ValidationError:
        return False
    except (msgspec.DecodeError, RecursionError):
        pass  # It may still be JSON.
    return True


def _examine_closely(line: bytes, gaps: list[GapReport]) -> RoutingKey | Reason:
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
