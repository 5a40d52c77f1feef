# SPDX-License-Identifier: Apache-2.0
"""What a subscriber wants to see: shell globs on three fields of a notification.

A host has few kinds of notifications and many of each. So for all filters together the answer is
remembered by the three fields, and a record costs one look-up however many filters there are.

Globs come from outside, and nobody's record may wait for them. To match one must not cost more than
its length times that of the value: `fnmatch` has translated every star to a group that is not tried
again since Python 3.9, which rules out the exponential case (bpo-40480). And to have one ready must
not cost much either, but Python takes 2 to 7 µs to compile each character of a regular expression,
a third of a second for all that a request has room for. So globs that have only stars, which nearly
all are, do without one, and of the others there may be `MAX_COMPILED` characters.

Filters are equal when they let the same patterns through, whatever their order: all subscribers
with equal filters share one stream, as far as they may see the same.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from notif_relay.records import GAP
from notif_relayd.validator import Kind

KEYS = ("event_type", "priority", "publisher_id")
"""In the order that they have in a kind."""

MAX_PATTERNS = 64
"""Patterns for one key."""

MAX_PATTERN_SIZE = 256
"""Characters of one pattern."""

MAX_COMPILED = 128
"""Characters of all patterns of a filter together that have a ``?`` or a ``[``: 1 ms, or 2."""

REMEMBERED = 4096
"""Kinds of notifications that are remembered: more than a host has."""

Patterns = tuple[tuple[str, frozenset[str]], ...]


class FilterError(ValueError):
    """One sentence for whoever wrote the filter."""


class Filter:
    """Patterns by key: any of a key's patterns may match, and all keys must.

    Gap records pass whatever the filter is, for nobody knows what is missing.
    """

    __slots__ = ("_tests", "patterns")

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self._tests = [_test(key, globs) for key, globs in patterns]

    @classmethod
    def parse(cls, asked: object) -> Filter:
        """The filter that a request asks for.

        Raises:
            FilterError: it is no object with lists of patterns under known keys, within limits.
        """
        if not isinstance(asked, Mapping):
            raise FilterError(f"The filter is no object with any of the keys {', '.join(KEYS)}.")
        globs = {key: _globs(key, asked[key]) for key in sorted(asked)}
        size = sum(len(glob) for some in globs.values() for glob in some if _is_compiled(glob))
        if size > MAX_COMPILED:
            raise FilterError(
                f"The patterns with ? or [ have {size} characters together; there may be "
                f"{MAX_COMPILED}."
            )
        return cls(tuple((key, frozenset(some)) for key, some in globs.items()))

    @property
    def request(self) -> dict[str, list[str]]:
        """What `parse` makes the same filter of."""
        return {key: sorted(globs) for key, globs in self.patterns}

    @property
    def cost(self) -> int:
        return sum(100 + 4 * len(glob) for _, globs in self.patterns for glob in globs)

    def __call__(self, kind: Kind) -> bool:
        """Whether such a notification passes."""
        return kind[0] == GAP or all(test(kind) for test in self._tests)

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
        self._hash = hash((asked, allowed))  # once: every record is looked up by it

    @property
    def is_everything(self) -> bool:
        """Whether nobody has to be asked what passes."""
        return self.asked is None and self.allowed is None

    def __call__(self, kind: Kind) -> bool:
        """Whether such a notification passes."""
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


def _globs(key: str, asked: object) -> list[str]:
    if key not in KEYS:
        raise FilterError(f"There is no key {key!r} to filter by; there are {', '.join(KEYS)}.")
    if not isinstance(asked, list) or not asked or not all(isinstance(g, str) for g in asked):
        raise FilterError(f"{key} is no list of one or more patterns.")
    if len(asked) > MAX_PATTERNS:
        raise FilterError(f"{key} has {len(asked)} patterns; there may be {MAX_PATTERNS}.")
    # A few letters are longer in upper case, and what is left to the next relay is within limits.
    globs = [glob.upper() for glob in asked] if key == "priority" else asked
    if max(map(len, globs)) > MAX_PATTERN_SIZE:
        raise FilterError(f"A pattern of {key} is longer than {MAX_PATTERN_SIZE} characters.")
    return globs


def _test(key: str, globs: frozenset[str]) -> Callable[[Kind], bool]:
    matchers = [_matcher(glob) for glob in sorted(globs)]
    field = KEYS.index(key)
    if key == "priority":
        return lambda kind: _any_matches(matchers, kind[field].upper())
    return lambda kind: _any_matches(matchers, kind[field])


def _any_matches(matchers: Iterable[Callable[[str], object]], value: str) -> bool:
    return any(matches(value) for matches in matchers)


def _matcher(glob: str) -> Callable[[str], object]:
    """What is true of the values that a glob matches."""
    if _is_compiled(glob):
        return re.compile(fnmatch.translate(glob)).match
    first, *parts = glob.split("*")
    if not parts:
        return partial(operator.eq, glob)
    last = parts.pop()

    def matches(value: str) -> bool:
        at, end = len(first), len(value) - len(last)
        if at > end or not (value.startswith(first) and value.endswith(last)):
            return False
        # Each as early as it can be: that leaves the most to those behind it.
        for part in parts:
            found = value.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True

    return matches


def _is_compiled(glob: str) -> bool:
    """Whether it takes a regular expression."""
    return "?" in glob or "[" in glob


class Selector:
    """Tells for each notification which of many views it is in."""

    def __init__(self) -> None:
        self.views: tuple[View, ...] = ()
        """Those that hold something back."""
        self._remembered: dict[Kind, tuple[View, ...]] = {}

    def use(self, views: Iterable[View]) -> None:
        """Ask these from now on, as far as there is anything to ask."""
        self.views = tuple(each for each in views if not each.is_everything)
        self._remembered.clear()

    def select(self, kinds: Sequence[Kind]) -> dict[View, list[int]]:
        """The places of the notifications that are in a view, where there are any."""
        asked_for = {kind: passing for kind in set(kinds) if (passing := self._passing(kind))}
        chosen: dict[View, list[int]] = {}
        if asked_for:
            for place, kind in enumerate(kinds):
                for each in asked_for.get(kind, ()):
                    chosen.setdefault(each, []).append(place)
        return chosen

    def _passing(self, kind: Kind) -> tuple[View, ...]:
        passing = self._remembered.get(kind)
        if passing is None:
            passing = tuple(each for each in self.views if each(kind))
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[kind] = passing
        return passing
