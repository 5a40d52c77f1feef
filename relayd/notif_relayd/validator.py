# SPDX-License-Identifier: Apache-2.0
"""Decides which lines are records.

Runs of good records are the rule, so a run is first taken to be one, and only where something is
wrong in it is it asked of each line what. Both ways end in the same verdict for a line: the quick
one may only say "all good". Each line is decoded by itself, though msgspec could decode all at
once: it would take two objects on one line, and one on two, and the numbers could agree.

msgspec checks all of the JSON while it decodes three fields. What it leaves out is done here: it
does not look at the UTF-8 of what it skips, and it refuses a lone surrogate written as an escape,
which is JSON all the same (RFC 8259, section 8.2) and which Python's own json writes. So a line
that it calls malformed gets a second opinion.
"""

import enum
import json
from collections.abc import Callable
from operator import attrgetter
from typing import Any, NoReturn

import msgspec

from notif_relay.records import EVENT_TYPE_PREFIX, GAP
from notif_relayd.splitter import split


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


class Header(msgspec.Struct, gc=False):
    """The fields without which nobody could tell what a notification is."""

    event_type: str
    priority: str
    publisher_id: Any = None


class Verdict(msgspec.Struct):
    """What became of a run of lines."""

    records: bytes
    """The good ones, as they came."""
    headers: list[Header]
    """What was decoded of each."""
    rejected: list[Reason]
    """One entry for each of the others."""
    gaps: list[bytes]
    """Those of the good ones that are gap records."""


class Validator:
    """Tells records from other lines.

    Args:
        limit: bytes of the longest record, its newline included.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._decode = msgspec.json.Decoder(Header).decode

    @property
    def rules(self) -> tuple[Callable[[bytes], Header], str, int]:
        """For others who look for runs of good records: what raises unless a line is one, what
        gives its event_type a closer look, and the bytes that it may have."""
        return self._decode, EVENT_TYPE_PREFIX, self._limit

    def check(self, lines: bytes) -> Verdict:
        """Judge a run of whole lines, as the splitter gives it."""
        if len(lines) <= self._limit or max(map(len, split(lines))) <= self._limit:
            try:
                if not lines.isascii():
                    lines.decode()
                headers = list(map(self._decode, split(lines)))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
            else:
                # One search in all of them together: hardly ever is there anything to be found.
                if EVENT_TYPE_PREFIX not in "\n".join(map(_event_type, headers)):
                    return Verdict(lines, headers, [], [])
                if not any(map(_is_reserved, headers)):
                    pairs = zip(headers, split(lines), strict=True)
                    gaps = [line for header, line in pairs if header.event_type == GAP]
                    return Verdict(lines, headers, [], gaps)
        return self._check_each(lines)

    def _check_each(self, lines: bytes) -> Verdict:
        good = []
        headers = []
        rejected = []
        gaps = []
        for line in split(lines):
            header = self._examine(line)
            if not isinstance(header, Header):
                rejected.append(header)
            elif _is_reserved(header):
                rejected.append(Reason.RESERVED)
            else:
                good.append(line)
                headers.append(header)
                if header.event_type == GAP:
                    gaps.append(line)
        return Verdict(b"".join(good), headers, rejected, gaps)

    def _examine(self, line: bytes) -> Header | Reason:
        if not line.strip():
            return Reason.EMPTY
        if len(line) > self._limit:
            return Reason.TOO_LONG
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return Reason.NOT_UTF8
        try:
            return self._decode(line)
        except msgspec.ValidationError:
            return Reason.NOT_A_NOTIFICATION
        except (msgspec.DecodeError, RecursionError):
            # Only who has an escape can have been misjudged, and a flood of garbage is cheap.
            return _second_opinion(text) if "\\u" in text else Reason.NOT_JSON


_event_type = attrgetter("event_type")


def _is_reserved(header: Header) -> bool:
    """Whether a notification claims to be the relay's own; a producer's gap records are."""
    event_type = header.event_type
    return event_type.startswith(EVENT_TYPE_PREFIX) and event_type != GAP


def _second_opinion(text: str) -> Header | Reason:
    try:
        return msgspec.convert(json.loads(text, parse_constant=_refuse), Header)
    except msgspec.ValidationError:
        return Reason.NOT_A_NOTIFICATION
    except (ValueError, RecursionError):
        return Reason.NOT_JSON


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
