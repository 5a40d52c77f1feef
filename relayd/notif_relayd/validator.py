# SPDX-License-Identifier: Apache-2.0
"""Decides which lines are records.

Runs of good records are the rule, so a run is first taken to be one, and only where something is
wrong in it is it asked of each line what. All ways end in the same verdict for a line: a quick one
may only say "all good". The quickest is compiled, and takes half of the time of the next: there
simdjson looks at all of a line, and hardly an object is made of it. Each line is decoded by itself,
though msgspec could decode all at once: it would take two objects on one line, and one on two, and
the numbers could agree.

msgspec checks all of the JSON while it decodes three fields. What it leaves out is done here: it
does not look at the UTF-8 of what it skips, and it refuses a lone surrogate written as an escape,
which is JSON all the same (RFC 8259, section 8.2) and which Python's own json writes. So a line
that it calls malformed gets a second opinion.
"""

import enum
import json
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NoReturn

import msgspec

from notif_relay.records import EVENT_TYPE_PREFIX, GAP
from notif_relayd.splitter import split

Kind = tuple[str, str, str]
"""A notification's event_type, priority and publisher_id, the last empty where it is no string."""

try:
    from notif_relayd._shortcut import kinds_of
except ImportError:

    def kinds_of(_lines: bytes, _rules: tuple[bytes, int], /) -> list[Kind]:
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


class Header(msgspec.Struct, gc=False):
    """The fields without which nobody could tell what a notification is."""

    event_type: str
    priority: str
    publisher_id: Any = None


class Verdict(msgspec.Struct):
    """What became of a run of lines."""

    records: bytes
    """The good ones, as they came."""
    kinds: list[Kind]
    """The kind of each."""
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
        self.rules = (EVENT_TYPE_PREFIX.encode(), limit)
        """For the compiled part: how the event_type of a plain record does not begin, and the
        bytes that it may have."""

    def check(self, lines: bytes) -> Verdict:
        """Judge a run of whole lines, as the splitter gives it."""
        kinds = kinds_of(lines, self.rules)
        if kinds:
            return Verdict(lines, kinds, [], [])
        if len(lines) <= self._limit or max(map(len, split(lines))) <= self._limit:
            try:
                if not lines.isascii():
                    lines.decode()
                kinds = list(map(_kind, map(_decode, split(lines))))
            except (msgspec.MsgspecError, ValueError, RecursionError):
                pass
            else:
                # One search in all of them together: hardly ever is there anything to be found.
                if EVENT_TYPE_PREFIX not in "\n".join(map(_event_type, kinds)):
                    return Verdict(lines, kinds, [], [])
                if not any(map(_is_reserved, kinds)):
                    pairs = zip(kinds, split(lines), strict=True)
                    return Verdict(
                        lines, kinds, [], [line for kind, line in pairs if kind[0] == GAP]
                    )
        return self._check_each(lines)

    def _check_each(self, lines: bytes) -> Verdict:
        good = []
        kinds = []
        rejected = []
        gaps = []
        for line in split(lines):
            kind = self._examine(line)
            if isinstance(kind, Reason):
                rejected.append(kind)
            elif _is_reserved(kind):
                rejected.append(Reason.RESERVED)
            else:
                good.append(line)
                kinds.append(kind)
                if kind[0] == GAP:
                    gaps.append(line)
        return Verdict(b"".join(good), kinds, rejected, gaps)

    def _examine(self, line: bytes) -> Kind | Reason:
        if not line.strip():
            return Reason.EMPTY
        if len(line) > self._limit:
            return Reason.TOO_LONG
        try:
            text = line.decode()
        except UnicodeDecodeError:
            return Reason.NOT_UTF8
        try:
            return _kind(_decode(line))
        except msgspec.ValidationError:
            return Reason.NOT_A_NOTIFICATION
        except (msgspec.DecodeError, RecursionError):
            # Only who has an escape can have been misjudged, and a flood of garbage is cheap.
            return _second_opinion(text) if "\\u" in text else Reason.NOT_JSON


_decode = msgspec.json.Decoder(Header).decode
_event_type: Callable[[Kind], str] = itemgetter(0)


def _kind(header: Header) -> Kind:
    publisher_id = header.publisher_id
    return header.event_type, header.priority, publisher_id if type(publisher_id) is str else ""


def _is_reserved(kind: Kind) -> bool:
    """Whether a notification claims to be the relay's own; a producer's gap records are."""
    return kind[0].startswith(EVENT_TYPE_PREFIX) and kind[0] != GAP


def _second_opinion(text: str) -> Kind | Reason:
    try:
        return _kind(msgspec.convert(json.loads(text, parse_constant=_refuse), Header))
    except msgspec.ValidationError:
        return Reason.NOT_A_NOTIFICATION
    except (ValueError, RecursionError):
        return Reason.NOT_JSON


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
