# SPDX-License-Identifier: Apache-2.0
"""Filters: shell globs on three fields of a notification.

Filters come from untrusted users, so three costs are bounded.

Matching. A glob that has only stars is matched by searching for its parts from left to right, each
as early as possible. Other globs need a regular expression; `fnmatch` has translated every star to
a group that is not tried again since Python 3.9, which rules out exponential backtracking
(bpo-40480). A field is compared with at most `MAX_COMPARED` characters.

Compiling. Python takes 2 to 7 µs to compile each character of a regular expression, a third of a
second for a whole request. So only globs with ``?`` or ``[`` are compiled, and a filter may have
`MAX_COMPILED` characters of these.

Memory. A filter keeps the text of its globs and nothing else of those with only stars: splitting a
glob takes a few hundred nanoseconds, and results are remembered (see `selector`). `Filter.cost`
is an upper bound of the memory, and is known before anything is built.

Filters are equal when they have the same patterns, in any order: subscribers with equal filters
share one stream, if they may see the same.
"""

from __future__ import annotations

import enum
import fnmatch
import re
import sys
from collections.abc import Mapping

from notif_relay.records import GAP
from notif_relay.request import MAX_COMPILED, MAX_PATTERN_SIZE, MAX_PATTERNS
from notif_relayd.records.validator import RoutingKey

KEYS = ("event_type", "priority", "publisher_id")
"""The keys of a filter, in the order of the fields in a kind."""

MAX_COMPARED = 2 * MAX_PATTERN_SIZE
"""Characters of a field that patterns are compared with.

Of a longer field these are the first and the last `MAX_PATTERN_SIZE`. So a pattern without a
wildcard, and one whose only wildcard is a star at its beginning or end, give the same result as
with the whole field. Without this limit one record could take seconds.
"""

FILTER_COST = 2048
"""Bytes of a filter beside its patterns, its stream and its place in the selector included."""

PATTERN_COST = 288
"""Bytes of a pattern beside its text: its entry in a dictionary that has just grown (120), its
place in the filter (8), and half of a bit set of 2048 filters (150), which only a pattern that
several filters have needs."""

SEARCH_COST = 2048
"""Bytes charged for a pattern that has to be tried on each new value, in place of `PATTERN_COST`.

It takes at most 700. The rest is for its time, about 0.5 µs for each new value: so a budget in
bytes for each user also bounds the time that the patterns of one user take.
"""

SEARCH_CHARACTER_COST = 512
"""Bytes charged for each character of such a pattern, in addition.

A value can be made for a pattern so that the search takes the product of both lengths. The patterns
of one user take at most 0.3 µs for each KiB charged then, which is 2.5 ms for 8 MiB.
"""

COMPILED_CHARACTER_COST = 2560
"""Likewise, of a pattern with ``?`` or ``[``. Of these, 250 are for the memory of the regular
expression."""

Patterns = tuple[tuple[str, tuple[str, ...]], ...]
"""For each key, in the order of the alphabet, its patterns, sorted and without duplicates."""


class FilterError(ValueError):
    """A filter is malformed or exceeds a limit; the message is one sentence for its author."""


class Shape(enum.Enum):
    """What it takes to find out whether a value matches a glob."""

    LITERAL = enum.auto()
    """There is no wildcard."""
    PREFIX = enum.auto()
    """One star, at the end."""
    SUFFIX = enum.auto()
    """One star, at the beginning."""
    SEARCH = enum.auto()
    """Only stars, and others than these."""
    COMPILED = enum.auto()
    """A regular expression."""


def shape(glob: str) -> Shape:
    """Return the shape of a glob; a lone star is a prefix."""
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
    """Return what patterns of `key` are compared with, for a field that has `value`."""
    value = shortened(value)
    return value.upper() if key == "priority" else value


def shortened(value: str) -> str:
    """Return what is compared of a field: see `MAX_COMPARED`."""
    if len(value) <= MAX_COMPARED:
        return value
    return value[:MAX_PATTERN_SIZE] + value[-MAX_PATTERN_SIZE:]


class Filter:
    """Patterns by key: a notification passes if each key has a pattern that matches.

    Gap records pass every filter, because it is not known which records are missing.
    """

    __slots__ = ("compiled", "patterns")

    def __init__(self, patterns: Patterns, compiled: Mapping[str, re.Pattern[str]]) -> None:
        self.patterns = patterns
        self.compiled = compiled
        """Regular expressions of those patterns that need one."""

    @classmethod
    def parse(cls, asked: object) -> Filter:
        """Return the filter that a request asks for.

        Raises:
            FilterError: `asked` is not a mapping of known keys to lists of patterns, or exceeds
                `MAX_PATTERNS`, `MAX_PATTERN_SIZE` or `MAX_COMPILED`, or has a pattern that this
                version of Python cannot compile.
        """
        if not isinstance(asked, Mapping):
            raise FilterError(f"The filter is no object with any of the keys {', '.join(KEYS)}.")
        patterns = tuple((key, _globs(key, asked[key])) for key in sorted(asked))
        globs = [glob for _, some in patterns for glob in some if shape(glob) is Shape.COMPILED]
        size = sum(map(len, globs))
        if size > MAX_COMPILED:
            raise FilterError(
                f"The patterns with ? or [ have {size} characters together; there may be "
                f"{MAX_COMPILED}."
            )
        return cls(patterns, {glob: _compile(glob) for glob in globs} if globs else _NOTHING)

    @property
    def request(self) -> dict[str, list[str]]:
        """What `parse` makes the same filter of."""
        return {key: list(globs) for key, globs in self.patterns}

    @property
    def cost(self) -> int:
        """Upper bound of the bytes that this filter takes in the relay.

        It counts the texts, the regular expressions, the entries in the selector and the stream,
        with up to 2048 different filters at once; what the stream keeps in the ring has a limit of
        its own. Patterns that take more time to match are charged with more than their memory: see
        `SEARCH_COST`. A filter of usual patterns costs its text and 0.4 KiB for each pattern.
        """
        return FILTER_COST + sum(_cost(glob) for _, globs in self.patterns for glob in globs)

    def allows(self, key: str, text: str) -> bool:
        """Return whether a field passes, given as `comparable` returns it."""
        return any(self._matches(glob, text) for glob in self.globs(key))

    def globs(self, key: str) -> tuple[str, ...]:
        """Return the patterns for a key; a star if every value passes."""
        return dict(self.patterns).get(key, _ANYTHING)

    def _matches(self, glob: str, text: str) -> bool:
        compiled = self.compiled.get(glob)
        return matches(glob, text) if compiled is None else compiled.match(text) is not None

    def __call__(self, kind: RoutingKey) -> bool:
        """Return whether a notification of this kind passes."""
        return kind[0] == GAP or all(
            self.allows(key, comparable(key, kind[KEYS.index(key)])) for key, _ in self.patterns
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self.patterns == other.patterns

    def __hash__(self) -> int:
        return hash(self.patterns)


class View:
    """What a subscriber gets: of what it may see, what it asked for.

    Args:
        asked: its filter; `None` for everything.
        allowed: any of these must let it through; `None` for everything.
    """

    __slots__ = ("_hash", "allowed", "asked")

    def __init__(
        self, asked: Filter | None = None, allowed: frozenset[Filter] | None = None
    ) -> None:
        self.asked = asked
        self.allowed = allowed
        self._hash = hash((asked, allowed))  # once: views are keys of dictionaries

    @property
    def is_unfiltered(self) -> bool:
        """Whether every notification is in this view."""
        return self.asked is None and self.allowed is None

    def __call__(self, kind: RoutingKey) -> bool:
        """Return whether a notification of this kind is in this view."""
        if self.allowed is not None and kind[0] != GAP and not any(f(kind) for f in self.allowed):
            return False
        return self.asked is None or self.asked(kind)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, View) and self.asked == other.asked and self.allowed == other.allowed
        )

    def __hash__(self) -> int:
        return self._hash


EVERYTHING = View()

_ANYTHING = ("*",)
_NOTHING: Mapping[str, re.Pattern[str]] = {}


def matches(glob: str, text: str) -> bool:
    """Return whether a glob that has only stars matches."""
    first, *parts = glob.split("*")
    if not parts:
        return glob == text
    last = parts.pop()
    at, end = len(first), len(text) - len(last)
    if at > end or not (text.startswith(first) and text.endswith(last)):
        return False
    # Each part as early as possible: that leaves the most to the parts behind it.
    for part in parts:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _globs(key: str, asked: object) -> tuple[str, ...]:
    if key not in KEYS:
        raise FilterError(f"There is no key {key!r} to filter by; there are {', '.join(KEYS)}.")
    if not isinstance(asked, list) or not asked or not all(isinstance(g, str) for g in asked):
        raise FilterError(f"{key} is no list of one or more patterns.")
    if len(asked) > MAX_PATTERNS:
        raise FilterError(f"{key} has {len(asked)} patterns; there may be {MAX_PATTERNS}.")
    # A few letters are longer in upper case, and what is saved must be within the limits too.
    globs = [glob.upper() for glob in asked] if key == "priority" else asked
    if max(map(len, globs)) > MAX_PATTERN_SIZE:
        raise FilterError(f"A pattern of {key} is longer than {MAX_PATTERN_SIZE} characters.")
    return tuple(sorted(set(globs)))


def _compile(glob: str) -> re.Pattern[str]:
    try:
        return re.compile(fnmatch.translate(glob))
    except re.error as error:
        # Python before 3.10.5 refuses a range that is the wrong way round, as in [b-a].
        raise FilterError(f"The pattern {glob!r} cannot be used: {error}.") from None


def _cost(glob: str) -> int:
    # CPython keeps the UTF-8 of a text beside it, once it was encoded for a state or an answer.
    text = sys.getsizeof(glob)
    if not glob.isascii():
        text += len(glob.encode(errors="surrogatepass")) + 1
    how = shape(glob)
    if how is Shape.COMPILED:
        return text + SEARCH_COST + COMPILED_CHARACTER_COST * len(glob)
    if how is Shape.SEARCH:
        return text + SEARCH_COST + SEARCH_CHARACTER_COST * len(glob)
    return text + PATTERN_COST
