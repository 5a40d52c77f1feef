# SPDX-License-Identifier: Apache-2.0
"""Filters: shell globs on three fields of a notification, and a pattern for its payload.

Filters come from untrusted users, so three costs are bounded:

Matching. A glob without ``?`` and ``[`` is matched by a search for its parts, from left to right.
Other globs need a regular expression. `fnmatch` translates a star to a group that does not
backtrack (since Python 3.9, bpo-40480), so the time is not exponential. At most `MAX_COMPARED`
characters of a field are compared.

Compiling. Python takes 2 to 7 µs per character of a regular expression, which is a third of a
second for a request of the maximum size. So only globs with ``?`` or ``[`` are compiled, and the
limit for these is `MAX_COMPILED` characters per filter.

Memory. A glob with only stars is kept as text; it takes a few hundred nanoseconds to split it, and
`selector` remembers the results. `Filter.cost` is an upper bound of the memory of a filter, and is
known before the regular expressions are used.
"""

from __future__ import annotations

import enum
import fnmatch
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from notif_relay.errors import BadFilter
from notif_relay.payload_pattern import Kind, PayloadPattern
from notif_relay.records import GAP
from notif_relay.request import MAX_COMPILED, MAX_PATTERN_SIZE, MAX_PATTERNS
from notif_relayd.records.validator import RoutingKey

KEYS = ("event_type", "priority", "publisher_id")
"""The keys of a filter with globs, in the order of the fields of a routing key."""

PAYLOAD = "payload"
"""The key of a filter with the pattern for the payload."""

ALL_KEYS = (*KEYS, PAYLOAD)
"""All keys of a filter."""

MAX_COMPARED = 2 * MAX_PATTERN_SIZE
"""Maximum number of characters of a field that patterns are compared with.

Of a longer field, the first and the last `MAX_PATTERN_SIZE` characters are compared. A pattern
without wildcards, or with a single star at its beginning or end, still gives the same result as
with the whole field. Without this limit, one record could take seconds.
"""

MAX_COMPARED_PAIRS = 256
"""Maximum number of pairs of patterns that are compared with access rules, for one key and rule.

A pair takes about 1 µs. Above the limit, an answer does not say that the rules leave nothing.
"""

FILTER_COST = 2048
"""Bytes charged for a filter, including its stream and its entry in the selector, but not its
patterns."""

PATTERN_COST = 288
"""Bytes charged for a pattern, in addition to its text: its entry in a dictionary that has just
grown (120), its reference in the filter (8), and half of a bit set of 2048 filters (150), because
only a pattern of at least two filters has a bit set of its own."""

SEARCH_COST = 2048
"""Bytes charged for a pattern that must be tried on each new value, instead of `PATTERN_COST`.

Its memory is at most 700 bytes. The remainder accounts for its processor time, about 0.5 µs per new
value: the limit on bytes of one user thereby limits the time for the patterns of one user.
"""

SEARCH_CHARACTER_COST = 512
"""Bytes charged for each character of such a pattern, in addition.

In the worst case, a search takes time proportional to the product of the lengths of value and
pattern. The patterns of one user then take at most 0.3 µs per KiB charged, which is 2.5 ms for
8 MiB.
"""

COMPILED_CHARACTER_COST = 2560
"""The same for a pattern with ``?`` or ``[``. Its regular expression takes 250 bytes per character;
the remainder accounts for processor time."""

PATH_PART_COST = 1536
"""Bytes charged for each part of a path of a payload: its place in the index, and its names."""

PAYLOAD_SEARCH_FACTOR = 4
"""A glob for a payload that must be tried one by one is charged so many times as much as one for
another key. Values of a payload are often new in each notification. The globs of one user take up
to 0.2 ms for a value."""

NUMBER_COST = 448
"""Bytes charged for a number, in addition to `PATTERN_COST`: its digits, at most 309."""

RANGE_COST = 1280
"""Bytes charged for a range: two limits (56 each), two bit sets of 2048 filters (300 each) for each
of them, and an entry in a dictionary."""

Patterns = tuple[tuple[str, tuple[str, ...]], ...]
"""Pairs of a key and its patterns. Both are sorted and without duplicates."""


class FilterError(ValueError):
    """A filter is malformed or exceeds a limit; the message is one sentence for its author."""


class Shape(enum.Enum):
    """How a glob is matched."""

    LITERAL = enum.auto()
    """Without wildcards: by comparison."""
    PREFIX = enum.auto()
    """One star, at the end: by comparison of the prefix."""
    SUFFIX = enum.auto()
    """One star, at the beginning: by comparison of the suffix."""
    SEARCH = enum.auto()
    """Stars only, at other positions: by a search for the parts."""
    COMPILED = enum.auto()
    """With ``?`` or ``[``: by a regular expression."""


def shape_of(glob: str) -> Shape:
    """Return the shape of a glob; a star alone is a prefix."""
    if "?" in glob or "[" in glob:
        return Shape.COMPILED
    stars = glob.count("*")
    if stars == 0:
        return Shape.LITERAL
    if stars == 1 and glob[-1] == "*":
        return Shape.PREFIX
    if stars == 1 and glob[0] == "*":
        return Shape.SUFFIX
    return Shape.SEARCH


def comparable(key: str, value: str) -> str:
    """Return the text that the patterns of `key` are compared with, for the value of a field."""
    value = shortened(value)
    return value.upper() if key == "priority" else value


def shortened(value: str) -> str:
    """Return the part of a value that is compared; see `MAX_COMPARED`."""
    if len(value) <= MAX_COMPARED:
        return value
    return value[:MAX_PATTERN_SIZE] + value[-MAX_PATTERN_SIZE:]


class Filter:
    """Patterns by key. A record passes if, for each key, at least one pattern matches, and its
    payload matches the pattern for payloads, if there is one.

    Gap records pass every filter, because it is not known which records are missing. Filters with
    the same patterns are equal, whatever the order: subscribers with equal filters share a stream.
    """

    __slots__ = ("_hash", "compiled", "patterns", "payload")

    def __init__(
        self,
        patterns: Patterns,
        compiled: Mapping[str, re.Pattern[str]],
        payload: PayloadPattern | None = None,
    ) -> None:
        self.patterns = patterns
        self.compiled = compiled
        """Regular expressions of the patterns with ``?`` or ``[``."""
        self.payload = payload
        # Of a text, because Python computes the hash of a number without a secret: otherwise a peer
        # could choose filters with the same hash, which a dictionary finds slowly.
        self._hash = hash((patterns, payload and json.dumps(payload.to_json())))

    @property
    def is_empty(self) -> bool:
        """Whether all records pass."""
        return not self.patterns and self.payload is None

    @classmethod
    def parse(cls, requested: object) -> Filter:
        """Return the filter for the decoded JSON of a request.

        Raises:
            FilterError: `requested` is not a mapping of known keys to lists of patterns; it exceeds
                `MAX_PATTERNS`, `MAX_PATTERN_SIZE` or `MAX_COMPILED`; or it has a pattern that this
                version of Python cannot compile.
        """
        if not isinstance(requested, Mapping):
            raise FilterError(
                f"The filter is not an object with any of the keys {', '.join(ALL_KEYS)}."
            )
        keys = sorted(requested.keys() - {PAYLOAD})
        patterns = tuple((key, _globs(key, requested[key])) for key in keys)
        globs = [glob for _, some in patterns for glob in some if shape_of(glob) is Shape.COMPILED]
        payload = _payload(requested[PAYLOAD]) if PAYLOAD in requested else None
        if payload is not None:
            globs += (glob for glob in payload.globs if shape_of(glob) is Shape.COMPILED)
        size = sum(map(len, globs))
        if size > MAX_COMPILED:
            raise FilterError(
                f"The patterns with ? or [ have {size} characters in total; the limit is "
                f"{MAX_COMPILED}."
            )
        compiled = {glob: _compile(glob) for glob in globs} if globs else _NOTHING
        return cls(patterns, compiled, payload)

    @property
    def request(self) -> dict[str, Any]:
        """The filter in the form that `parse` accepts."""
        request: dict[str, Any] = {key: list(globs) for key, globs in self.patterns}
        return request if self.payload is None else request | {PAYLOAD: self.payload.to_json()}

    @property
    def cost(self) -> int:
        """Upper bound of the memory of this filter in the relay, in bytes.

        It includes texts, regular expressions, entries in the selector and the stream, with up to
        2048 different filters at a time. The records that the stream keeps in the ring are not
        included. Patterns that take more time to match cost more than their memory: see
        `SEARCH_COST`. A typical filter costs its text and 0.4 KiB per pattern.
        """
        cost = FILTER_COST + sum(_cost(glob) for _, globs in self.patterns for glob in globs)
        return cost if self.payload is None else cost + _payload_cost(self.payload)

    def excludes(self, other: Filter) -> bool:
        """Return whether it is certain that no notification passes both filters.

        Only the beginnings and the ends of patterns are compared, and only keys for which there
        are at most `MAX_COMPARED_PAIRS` pairs of patterns.
        """
        for key in KEYS:
            mine, its = self.globs(key), other.globs(key)
            if len(mine) * len(its) <= MAX_COMPARED_PAIRS and all(
                _are_disjoint(one, another) for one in mine for another in its
            ):
                return True
        return False

    def allows(self, key: str, text: str) -> bool:
        """Return whether a field passes; `text` is its value as returned by `comparable`."""
        return any(self._matches(glob, text) for glob in self.globs(key))

    def globs(self, key: str) -> tuple[str, ...]:
        """Return the patterns of a key; a star if the filter does not have the key."""
        return dict(self.patterns).get(key, _ANYTHING)

    def _matches(self, glob: str, text: str) -> bool:
        compiled = self.compiled.get(glob)
        return matches(glob, text) if compiled is None else compiled.match(text) is not None

    def __call__(self, routing_key: RoutingKey, payload: object = None) -> bool:
        """Return whether a record passes; `payload` is decoded JSON."""
        return routing_key[0] == GAP or (
            all(
                self.allows(key, comparable(key, routing_key[KEYS.index(key)]))
                for key, _ in self.patterns
            )
            and (self.payload is None or self.payload.matches(payload))
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Filter)
            and self.patterns == other.patterns
            and self.payload == other.payload
        )

    def __hash__(self) -> int:
        return self._hash


class View:
    """The records that a subscriber receives: those that it both requested and may read.

    Args:
        requested: the filter of the subscriber's request; `None` for all records.
        allowed: filters of the access rules, of which a record must pass at least one; `None` for
            all records.
    """

    __slots__ = ("_hash", "allowed", "requested")

    def __init__(
        self, requested: Filter | None = None, allowed: frozenset[Filter] | None = None
    ) -> None:
        self.requested = requested
        self.allowed = allowed
        self._hash = hash((requested, allowed))  # computed once: views are keys of dictionaries

    @property
    def is_unfiltered(self) -> bool:
        """Whether this view contains every record."""
        return self.requested is None and self.allowed is None

    @property
    def notice(self) -> str:
        """A sentence for the subscriber if the access rules leave nothing to read, else empty."""
        if self.allowed is None:
            return ""
        if not self.allowed:
            return "No access rule of this relay lets this user read notifications."
        requested = self.requested
        if requested is not None and all(each.excludes(requested) for each in self.allowed):
            return "The access rules of this relay let this user read none of these notifications."
        return ""

    def __call__(self, routing_key: RoutingKey, payload: object = None) -> bool:
        """Return whether this view contains a record; `payload` is decoded JSON."""
        if (
            self.allowed is not None
            and routing_key[0] != GAP
            and not any(each(routing_key, payload) for each in self.allowed)
        ):
            return False
        return self.requested is None or self.requested(routing_key, payload)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, View)
            and self.requested == other.requested
            and self.allowed == other.allowed
        )

    def __hash__(self) -> int:
        return self._hash


UNFILTERED = View()

_ANYTHING = ("*",)
_NOTHING: Mapping[str, re.Pattern[str]] = {}
_WILDCARD = re.compile(r"[*?[]")


def matches(glob: str, text: str) -> bool:
    """Return whether a glob without ``?`` and ``[`` matches."""
    first, *parts = glob.split("*")
    if not parts:
        return glob == text
    last = parts.pop()
    at, end = len(first), len(text) - len(last)
    if at > end or not (text.startswith(first) and text.endswith(last)):
        return False
    # The first occurrence of each part is the right one: it leaves the most for the next parts.
    for part in parts:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _are_disjoint(one: str, another: str) -> bool:
    """Return whether it is certain that no text matches both globs."""
    if shape_of(one) is Shape.LITERAL and shape_of(another) is not Shape.COMPILED:
        return not matches(another, one)
    if shape_of(another) is Shape.LITERAL and shape_of(one) is not Shape.COMPILED:
        return not matches(one, another)
    head, other_head = (_WILDCARD.split(glob, maxsplit=1)[0] for glob in (one, another))
    if not (head.startswith(other_head) or other_head.startswith(head)):
        return True
    if "[" in one or "[" in another:
        return False
    tail, other_tail = (_WILDCARD.split(glob)[-1] for glob in (one, another))
    return not (tail.endswith(other_tail) or other_tail.endswith(tail))


def _globs(key: str, requested: object) -> tuple[str, ...]:
    if key not in KEYS:
        raise FilterError(f"Unknown key {key!r} in the filter; the keys are {', '.join(ALL_KEYS)}.")
    if (
        not isinstance(requested, list)
        or not requested
        or not all(isinstance(glob, str) for glob in requested)
    ):
        raise FilterError(f"{key} is not a list of one or more patterns.")
    if len(requested) > MAX_PATTERNS:
        raise FilterError(f"{key} has {len(requested)} patterns; the limit is {MAX_PATTERNS}.")
    # Before the check of the size, because the upper case of some letters has two characters, and a
    # saved filter must be within the limits, too.
    globs = [glob.upper() for glob in requested] if key == "priority" else requested
    if max(map(len, globs)) > MAX_PATTERN_SIZE:
        raise FilterError(f"A pattern of {key} is longer than {MAX_PATTERN_SIZE} characters.")
    return tuple(sorted(set(globs)))


def _payload(requested: object) -> PayloadPattern:
    try:
        return PayloadPattern.parse(requested)
    except BadFilter as error:
        raise FilterError(f"In the filter, {error}.") from None


def _compile(glob: str) -> re.Pattern[str]:
    try:
        return re.compile(fnmatch.translate(glob))
    except re.error as error:
        # Python before 3.10.5 rejects a reversed range such as [b-a].
        raise FilterError(f"The pattern {glob!r} cannot be compiled: {error}.") from None


def _cost(glob: str) -> int:
    # CPython keeps the UTF-8 of a string once it has been encoded, for a saved state or an answer.
    text = sys.getsizeof(glob)
    if not glob.isascii():
        text += len(glob.encode(errors="surrogatepass")) + 1
    shape = shape_of(glob)
    if shape is Shape.COMPILED:
        return text + SEARCH_COST + COMPILED_CHARACTER_COST * len(glob)
    if shape is Shape.SEARCH:
        return text + SEARCH_COST + SEARCH_CHARACTER_COST * len(glob)
    return text + PATTERN_COST


def _payload_cost(payload: PayloadPattern) -> int:
    cost = 0
    for path, alternatives in payload.paths:
        cost += (path.count(".") + 1) * PATH_PART_COST
        for kind, operands in alternatives:
            if kind is Kind.GLOB:
                glob = str(operands[0])
                is_searched = shape_of(glob) in (Shape.SEARCH, Shape.COMPILED)
                cost += _cost(glob) * (PAYLOAD_SEARCH_FACTOR if is_searched else 1)
            elif kind is Kind.RANGE:
                cost += RANGE_COST
            else:
                cost += sum(_cost_of(each) for each in operands)
    return cost


def _cost_of(operand: object) -> int:
    """Return the bytes charged for a value that is looked up in a dictionary."""
    if not isinstance(operand, str):
        return PATTERN_COST + NUMBER_COST
    return PATTERN_COST + sys.getsizeof(operand) + len(operand.encode(errors="surrogatepass")) + 1
