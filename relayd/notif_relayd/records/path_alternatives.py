# SPDX-License-Identifier: Apache-2.0
"""The alternatives of all filters for one path of a payload: finds the filters that a value passes.

Equal values and prefixes are looked up in dictionaries, and ranges by bisection, however many there
are. Globs that must be tried one by one take time for each of them; `Filter.cost` limits their
number. The
filters that a string passes are remembered, because a glob may take long. Numbers are not: Python
computes their hash without a secret, so a producer could choose numbers that a dictionary finds
slowly.
"""

from __future__ import annotations

import bisect
import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from notif_relay.payload_pattern import FALSE, Alternative, Kind, Value
from notif_relayd.records.pattern_index import PatternIndex

MAX_FAST_LENGTHS = 8
"""Number of different lengths of prefixes up to which results are not remembered.

A length takes 0.1 µs. To remember a value takes 2 µs, and many occur in one record only.
"""


class Steps(NamedTuple):
    """The filters that numbers pass: they change only at the limits of ranges."""

    limits: Sequence[float]
    """Sorted, without duplicates."""
    at: Sequence[int]
    """The filters that each limit passes."""
    below: Sequence[int]
    """The filters that the numbers between each limit and the one before pass; the last item is for
    the numbers above all limits."""

    @classmethod
    def of(cls, ranges: Iterable[tuple[float, float, int]]) -> Steps:
        """Return the steps of ranges, each with its filters."""
        starting: defaultdict[float, list[int]] = defaultdict(list)
        ending: defaultdict[float, list[int]] = defaultdict(list)
        for low, high, bits in ranges:
            starting[low] += each_bit(bits)
            ending[high] += each_bit(bits)
        limits = sorted(starting.keys() | ending.keys())
        at, below = [], [0]
        counts: Counter[int] = Counter()  # of the ranges of a filter that contain the number
        passed = 0
        for limit in limits:
            for bit in starting.get(limit, ()):
                counts[bit] += 1
                passed |= bit
            at.append(passed)
            for bit in ending.get(limit, ()):
                counts[bit] -= 1
                if not counts[bit]:
                    passed &= ~bit
            below.append(passed)
        return cls(limits, at, below)

    def passed(self, number: float) -> int:
        """Return the filters that a number passes."""
        index = bisect.bisect_left(self.limits, number)
        if index < len(self.limits) and self.limits[index] == number:
            return self.at[index]
        return self.below[index]


NO_STEPS = Steps((), (), (0,))


def each_bit(bits: int) -> Iterator[int]:
    """Yield the single bits of a set of filters."""
    while bits:
        lowest = bits & -bits
        yield lowest
        bits ^= lowest


class PathAlternatives:
    """The filters with one path. Sets of filters are integers with a bit for each."""

    __slots__ = (
        "_equal",
        "_excluded",
        "_glob_filters",
        "_globs",
        "_is_stale",
        "_lengths",
        "_negated",
        "_prefixes",
        "_ranges",
        "_steps",
        "absent",
        "bits",
        "present",
        "remembered",
    )

    def __init__(self) -> None:
        self.bits = 0
        """All filters with this path."""
        self.absent = 0
        """The filters that a payload without the path passes."""
        self.present = 0
        """The filters that every payload with the path passes."""
        self.remembered: dict[str, int] = {}
        """The results of `passed` for strings, as long as no filter is added."""
        self._equal: dict[Hashable, int] = {}
        self._negated = 0
        """The filters that every value passes but those in `_excluded`."""
        self._excluded: dict[Hashable, int] = {}
        self._globs = PatternIndex()
        self._glob_filters = 0
        """The filters with a glob."""
        self._prefixes: dict[Hashable, int] = {}
        self._lengths: dict[int, int] = {}
        """Number of prefixes by length."""
        self._ranges: dict[tuple[str, str], tuple[float, float, int]] = {}
        """The limits of each range, and its filters."""
        self._steps = NO_STEPS
        """The same in the order of numbers."""
        self._is_stale = False
        """Whether ranges have changed since `_steps` was made."""

    def add(
        self, alternatives: Iterable[Alternative], compiled: Mapping[str, re.Pattern[str]], bit: int
    ) -> None:
        """Add a filter.

        Args:
            alternatives: its alternatives for this path.
            compiled: regular expressions of the globs with ``?`` or ``[``.
            bit: its bit.
        """
        self.bits |= bit
        self.remembered.clear()
        globs = _globs(alternatives)
        if globs:
            self._globs.add(globs, compiled, bit)
            self._glob_filters |= bit
        excluded: list[set[Hashable]] = []
        for kind, operands in alternatives:
            if kind is Kind.EQUAL:
                _set(self._equal, _key(operands[0]), bit)
            elif kind is Kind.EXISTS:
                self.absent |= bit if operands[0] is FALSE else 0
                self.present |= 0 if operands[0] is FALSE else bit
            elif kind is Kind.PREFIX:
                self._add_prefix(str(operands[0]), bit)
            elif kind is Kind.RANGE:
                low, high, bits = self._ranges.get(_key_of_range(operands), _limits(operands))
                self._ranges[_key_of_range(operands)] = low, high, bits | bit
                self._is_stale = True
            elif kind is Kind.NOT:
                excluded.append(set(map(_key, operands)))
        if excluded:
            # Two alternatives exclude only what both of them exclude.
            self._negated |= bit
            for key in set.intersection(*excluded):
                _set(self._excluded, key, bit)
        if self._is_stale:
            self._is_stale = False
            self._steps = Steps.of(self._ranges.values())

    def remove(self, alternatives: Iterable[Alternative], bit: int) -> None:
        """Remove a filter that `add` has added.

        What is remembered stays, and so do the steps: the bit means nothing until it is added.
        """
        self.bits &= ~bit
        self.absent &= ~bit
        self.present &= ~bit
        self._negated &= ~bit
        self._globs.remove(_globs(alternatives), bit)
        self._glob_filters &= ~bit
        for kind, operands in alternatives:
            if kind is Kind.EQUAL:
                _unset(self._equal, _key(operands[0]), bit)
            elif kind is Kind.PREFIX:
                self._remove_prefix(str(operands[0]), bit)
            elif kind is Kind.RANGE:
                low, high, bits = self._ranges.pop(_key_of_range(operands))
                if bits != bit:
                    self._ranges[_key_of_range(operands)] = low, high, bits & ~bit
                self._is_stale = True
            elif kind is Kind.NOT:
                for each in operands:
                    _unset(self._excluded, _key(each), bit)

    @property
    def is_slow(self) -> bool:
        """Whether results for strings should be remembered, because they take long."""
        return self._globs.searches > 0 or len(self._lengths) > MAX_FAST_LENGTHS

    def passed(self, value: Value) -> int:
        """Return the filters that a payload with this value at the path passes."""
        key = _key(value)
        passed = self._equal.get(key, 0) | self._negated & ~self._excluded.get(key, 0)
        if isinstance(value, str):
            if self._glob_filters:
                passed |= self._globs.passed(value)
            size = len(value)
            for length in self._lengths:
                if length <= size:
                    passed |= self._prefixes.get(value[:length], 0)
        elif isinstance(value, int | float):
            passed |= self._steps.passed(value)
        return passed

    def _add_prefix(self, prefix: str, bit: int) -> None:
        if prefix not in self._prefixes:
            self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        _set(self._prefixes, prefix, bit)

    def _remove_prefix(self, prefix: str, bit: int) -> None:
        _unset(self._prefixes, prefix, bit)
        if prefix not in self._prefixes:
            self._lengths[len(prefix)] -= 1
            if not self._lengths[len(prefix)]:
                del self._lengths[len(prefix)]


def _globs(alternatives: Iterable[Alternative]) -> list[str]:
    return [str(operands[0]) for kind, operands in alternatives if kind is Kind.GLOB]


def _set(filters: dict[Hashable, int], key: Hashable, bit: int) -> None:
    filters[key] = filters.get(key, 0) | bit


def _unset(filters: dict[Hashable, int], key: Hashable, bit: int) -> None:
    bits = filters.get(key, 0) & ~bit
    if bits:
        filters[key] = bits
    else:
        filters.pop(key, None)


def _key(value: Value) -> Hashable:
    """Return what equal values have in common; the hash of a number is made secret."""
    return (_digits(value),) if isinstance(value, int | float) else value


def _digits(value: float) -> str:
    if abs(value) > sys.float_info.max:
        return ""  # equal to no number of a pattern; the digits of an integer could be many
    return str(int(value)) if value == int(value) else repr(value)


def _key_of_range(operands: tuple[Value, ...]) -> tuple[str, str]:
    low, high = (_digits(each) if isinstance(each, int | float) else "" for each in operands)
    return low, high


def _limits(operands: tuple[Value, ...]) -> tuple[float, float, int]:
    low, high = operands
    return (
        low if isinstance(low, int | float) else -math.inf,
        high if isinstance(high, int | float) else math.inf,
        0,
    )
