# SPDX-License-Identifier: Apache-2.0
"""Finds, among the patterns of many filters for one key, those that a value matches.

Literals, prefixes and suffixes are found in a dictionary, with one look-up for each length that
there is. All others have to be tried one by one, but only where a few characters that each value
must have, the anchor of the pattern, occur in the value. A pattern that several filters have is
tried once, and not at all if they all have another one that matches.
"""

from __future__ import annotations

import re

from notif_relayd.records.filters import Filter, Shape, matches, shape

ANCHOR_SIZE = 3
"""Characters of an anchor."""


class PatternIndex:
    """The patterns of all filters for one key, each with the bits of the filters that have it."""

    def __init__(self) -> None:
        self._any = 0
        """Those that every value passes."""
        self._plain: dict[str, int] = {}
        """By literal, prefix or suffix, the latter with their star."""
        self._prefixes: dict[int, int] = {}
        """How many prefixes there are, by their length."""
        self._suffixes: dict[int, int] = {}
        self._searched: dict[str, int] = {}
        """By pattern."""
        self._compiled: dict[str, re.Pattern[str]] = {}
        self._by_anchor: dict[str, set[str]] = {}

    def add(self, key: str, wanted: Filter, bit: int) -> None:
        """Add the patterns that a filter has for this key."""
        for glob in wanted.globs(key):
            how = shape(glob)
            if glob == "*":
                self._any |= bit
            elif how in _PLAIN:
                self._add_plain(glob, how, bit)
            else:
                if glob not in self._searched:
                    self._by_anchor.setdefault(_anchor(glob), set()).add(glob)
                self._searched[glob] = self._searched.get(glob, 0) | bit
                if how is Shape.COMPILED:
                    self._compiled[glob] = wanted.compiled[glob]

    @property
    def searches(self) -> int:
        """Return how many patterns have to be tried for a value, at most."""
        return len(self._searched)

    def _add_plain(self, glob: str, how: Shape, bit: int) -> None:
        bits = self._plain.get(glob, 0)
        self._plain[glob] = bits | bit
        lengths = self._lengths(how)
        if not bits and lengths is not None:
            lengths[len(glob) - 1] = lengths.get(len(glob) - 1, 0) + 1

    def remove(self, key: str, wanted: Filter, bit: int) -> None:
        """Remove what `add` has added."""
        for glob in wanted.globs(key):
            how = shape(glob)
            if glob == "*":
                self._any &= ~bit
            elif how in _PLAIN:
                self._remove_plain(glob, how, bit)
            elif self._searched[glob] != bit:
                self._searched[glob] &= ~bit
            else:
                del self._searched[glob]
                self._compiled.pop(glob, None)
                anchor = _anchor(glob)
                self._by_anchor[anchor].remove(glob)
                if not self._by_anchor[anchor]:
                    del self._by_anchor[anchor]

    def _remove_plain(self, glob: str, how: Shape, bit: int) -> None:
        bits = self._plain[glob] = self._plain[glob] & ~bit
        if bits:
            return
        del self._plain[glob]
        lengths = self._lengths(how)
        if lengths is not None:
            lengths[len(glob) - 1] -= 1
            if not lengths[len(glob) - 1]:
                del lengths[len(glob) - 1]

    def _lengths(self, how: Shape) -> dict[int, int] | None:
        return {Shape.PREFIX: self._prefixes, Shape.SUFFIX: self._suffixes}.get(how)

    def passed(self, text: str, among: int = -1) -> int:
        """Return the filters among these that `text` passes; others may be in it too."""
        # A text with a star in it may itself be found as a pattern, but then it also matches it.
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
        """Return the anchors that are in the text, where there are more anchors than characters."""
        parts = {text[at : at + ANCHOR_SIZE] for at in range(len(text))}
        parts.add("")
        return parts & self._by_anchor.keys()

    def _matches(self, glob: str, text: str) -> bool:
        compiled = self._compiled.get(glob)
        return matches(glob, text) if compiled is None else compiled.match(text) is not None


_PLAIN = (Shape.LITERAL, Shape.PREFIX, Shape.SUFFIX)


def _anchor(glob: str) -> str:
    """Return a few characters, or none, that are in each value that the glob matches."""
    parts = glob.partition("[")[0].replace("?", "*").split("*")
    longest = max(parts, key=len)
    if len(longest) < ANCHOR_SIZE:
        return ""
    return min(longest[:ANCHOR_SIZE], longest[-ANCHOR_SIZE:], key=_letters)


def _letters(text: str) -> int:
    """Return the number of letters, of which there are more in values than of anything else."""
    return sum(map(str.isalpha, text))
