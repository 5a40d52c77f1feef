# SPDX-License-Identifier: Apache-2.0
"""Index of the patterns of many filters for one key: finds the filters that a value passes.

Literals, prefixes and suffixes are looked up in a dictionary, once per length that occurs. Other
patterns are tried one by one, but only if the value contains the anchor of the pattern: a few
characters that every matching value contains. A pattern is tried once, even if several filters have
it, and is not tried if another pattern has already decided for all these filters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from notif_relayd.records.filters import Shape, matches, shape_of

ANCHOR_SIZE = 3
"""Number of characters of an anchor."""


class PatternIndex:
    """The globs of all filters for one key. Sets of filters are integers with a bit for each."""

    def __init__(self) -> None:
        self._any = 0
        """Filters that every value passes."""
        self._plain: dict[str, int] = {}
        """Filters by literal, prefix or suffix; the last two include their star."""
        self._prefixes: dict[int, int] = {}
        """Number of prefixes by length."""
        self._suffixes: dict[int, int] = {}
        """Number of suffixes by length."""
        self._searched: dict[str, int] = {}
        """Filters by pattern, for the patterns that are tried one by one."""
        self._compiled: dict[str, re.Pattern[str]] = {}
        self._by_anchor: dict[str, set[str]] = {}

    def add(self, globs: Iterable[str], compiled: Mapping[str, re.Pattern[str]], bit: int) -> None:
        """Add a filter.

        Args:
            globs: its patterns for this key.
            compiled: regular expressions of those with ``?`` or ``[``.
            bit: its bit.
        """
        for glob in globs:
            shape = shape_of(glob)
            if glob == "*":
                self._any |= bit
            elif shape in _PLAIN:
                self._add_plain(glob, shape, bit)
            else:
                if glob not in self._searched:
                    self._by_anchor.setdefault(_anchor(glob), set()).add(glob)
                self._searched[glob] = self._searched.get(glob, 0) | bit
                if shape is Shape.COMPILED:
                    self._compiled[glob] = compiled[glob]

    @property
    def searches(self) -> int:
        """Maximum number of patterns that are tried for a value."""
        return len(self._searched)

    def _add_plain(self, glob: str, shape: Shape, bit: int) -> None:
        bits = self._plain.get(glob, 0)
        self._plain[glob] = bits | bit
        lengths = self._lengths(shape)
        if not bits and lengths is not None:
            lengths[len(glob) - 1] = lengths.get(len(glob) - 1, 0) + 1

    def remove(self, globs: Iterable[str], bit: int) -> None:
        """Remove a filter that `add` has added."""
        for glob in globs:
            shape = shape_of(glob)
            if glob == "*":
                self._any &= ~bit
            elif shape in _PLAIN:
                self._remove_plain(glob, shape, bit)
            elif self._searched[glob] != bit:
                self._searched[glob] &= ~bit
            else:
                del self._searched[glob]
                self._compiled.pop(glob, None)
                anchor = _anchor(glob)
                self._by_anchor[anchor].remove(glob)
                if not self._by_anchor[anchor]:
                    del self._by_anchor[anchor]

    def _remove_plain(self, glob: str, shape: Shape, bit: int) -> None:
        bits = self._plain[glob] = self._plain[glob] & ~bit
        if bits:
            return
        del self._plain[glob]
        lengths = self._lengths(shape)
        if lengths is not None:
            lengths[len(glob) - 1] -= 1
            if not lengths[len(glob) - 1]:
                del lengths[len(glob) - 1]

    def _lengths(self, shape: Shape) -> dict[int, int] | None:
        return {Shape.PREFIX: self._prefixes, Shape.SUFFIX: self._suffixes}.get(shape)

    def passed(self, text: str, among: int = -1) -> int:
        """Return the filters that `text` passes.

        Args:
            text: a value, as `filters.comparable` returns it.
            among: the filters of interest; the result is right only for these.
        """
        # A value that contains a star may be found as a prefix or suffix, which it then matches.
        find = self._plain.get
        passed = self._any | find(text, 0)
        size = len(text)
        for length in self._prefixes:
            if length <= size:
                passed |= find(text[:length] + "*", 0)
        for length in self._suffixes:
            if length <= size:
                passed |= find("*" + text[-length:], 0)
        by_anchor = self._by_anchor
        for anchor in by_anchor if len(by_anchor) <= len(text) else self._anchors(text):
            if anchor in text:
                for glob in by_anchor[anchor]:
                    bits = self._searched[glob]
                    if bits & among & ~passed and self._matches(glob, text):
                        passed |= bits
        return passed

    def _anchors(self, text: str) -> set[str]:
        """Return the anchors that may occur in the text; faster if there are many anchors."""
        parts = {text[at : at + ANCHOR_SIZE] for at in range(len(text))}
        parts.add("")
        return parts & self._by_anchor.keys()

    def _matches(self, glob: str, text: str) -> bool:
        compiled = self._compiled.get(glob)
        return matches(glob, text) if compiled is None else compiled.match(text) is not None


_PLAIN = (Shape.LITERAL, Shape.PREFIX, Shape.SUFFIX)


def _anchor(glob: str) -> str:
    """Return characters that occur in each value that the glob matches; empty if there are none."""
    parts = glob.partition("[")[0].replace("?", "*").split("*")
    longest = max(parts, key=len)
    if len(longest) < ANCHOR_SIZE:
        return ""
    # Letters are more frequent in values than other characters, so they exclude fewer values.
    return min(longest[:ANCHOR_SIZE], longest[-ANCHOR_SIZE:], key=_letters)


def _letters(text: str) -> int:
    """Return the number of letters."""
    return sum(map(str.isalpha, text))
