# SPDX-License-Identifier: Apache-2.0
"""Selects, for each notification, the streams whose filters it passes.

A host has many notifications and few different values in each of their fields: thousands of event
types and publishers, five priorities. So for each value of a field it is remembered which filters
it passes, as a bit set with one bit for each filter. A record costs three look-ups and an AND,
however many filters there are, and however many combinations of values.

A value that is not remembered is looked up in an index of the patterns.

A change of one filter leaves what is remembered valid for all others. The new filter takes a free
bit, and when a value is seen for the first time after that, the new filter alone is matched with
it and its bit is corrected.

All memory has a limit in bytes. The values that were not seen for the longest time go first.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat, takewhile
from sys import getsizeof
from typing import Generic, TypeVar

from notif_relay.records import GAP
from notif_relayd.records.filters import KEYS, MAX_COMPARED, Filter, View, comparable, shortened
from notif_relayd.records.pattern_index import PatternIndex
from notif_relayd.records.validator import RoutingKey

MAX_REMEMBERED_SIZE = 6 * 1024 * 1024
"""Bytes of the remembered values of one field: about 10,000 of usual length."""

MAX_TARGETS_SIZE = 1024 * 1024
"""Bytes of the remembered lists of streams."""

MAX_TARGETS = 512
"""Remembered lists of streams. A peer may choose its filters so that many bit sets have the same
hash, which Python computes from an integer without a secret; this number bounds the search then."""

ENTRY_SIZE = 400
"""Bytes that a remembered entry takes beside its characters and bits, at most: the heads of its
key and its value (104), a pair (56), and its place in two dictionaries right after these have grown
(120 each)."""

EVICTED = 64
"""Entries that are forgotten at a time: to find the oldest takes a walk over the places of those
that were forgotten before."""

SEARCHES_FOR_ONE = 4
"""Patterns that the index may look at in the time that it takes to match one."""

SAMPLE = 16
"""Notifications by which is decided whether equal ones in a batch are looked up once: where they
are many that takes a tenth of the time, otherwise one and a half times as much."""

GAP_BIT = 1
"""The bit of the filter that only gap records pass: who has it passes every filter."""

T = TypeVar("T", bound=Hashable)


@dataclass(slots=True)
class _Slot:
    """A filter's bit."""

    bit: int
    since: int
    """Number of additions to the slots when it was given to this filter."""
    uses: int = 0
    """Views that have this filter."""


class _Slots(dict[Filter, _Slot]):
    """The bits of all filters, in the order in which they were given away."""

    def __init__(self) -> None:
        self.additions = 0
        self._free: list[int] = []

    def allot(self, wanted: Filter) -> _Slot:
        """Give a filter that has none a bit, which may have been another's."""
        self.additions += 1
        bit = self._free.pop() if self._free else 1 << len(self)
        slot = self[wanted] = _Slot(bit, self.additions)
        return slot

    def free(self, wanted: Filter) -> None:
        """Take a filter's bit back. It may still be set in what is remembered."""
        self._free.append(self.pop(wanted).bit)

    def since(self, additions: int) -> list[tuple[Filter, _Slot]]:
        """Return the filters that have come since there had been that many additions."""
        return list(takewhile(lambda item: item[1].since > additions, reversed(self.items())))


class _Field(dict[str, int]):
    """For each value of one field the filters that it passes.

    What is in the dictionary itself is true of all filters. `_older` has values that were not seen
    since the last addition of a filter, or for long: each with what was true of it when there had
    been so many additions. A value moves from there when it is seen again, so that the first ones
    there are those that were not seen for the longest time.
    """

    def __init__(self, key: str, slots: _Slots, thread_time: Callable[[], float]) -> None:
        self._key = key
        self._thread_time = thread_time
        self._slots = slots
        self._index = PatternIndex()
        self._older: dict[str, tuple[int, int]] = {}
        self._additions = slots.additions
        """For how many additions what is in the dictionary itself is true."""
        self._size = 0
        self.seconds = 0.0
        """Processor time that values took which were not remembered."""

    def add(self, wanted: Filter, bit: int) -> None:
        """Take another filter into account."""
        self._index.add(self._key, wanted, bit)
        self._age()
        self._additions = self._slots.additions

    def remove(self, wanted: Filter, bit: int) -> None:
        """Leave a filter out."""
        self._index.remove(self._key, wanted, bit)

    def __missing__(self, value: str) -> int:
        if len(value) > MAX_COMPARED:
            return self[shortened(value)]
        before = self._thread_time()
        text = comparable(self._key, value)
        known = self._older.pop(value, None)
        if known is None:
            passed = self._index.passed(text)
        else:
            passed = self._completed(text, *known)
            self._size -= _value_size(value, known[0])
        self[value] = passed
        self._size += _value_size(value, passed)
        if self._size > MAX_REMEMBERED_SIZE:
            self._evict()
        self.seconds += self._thread_time() - before
        return passed

    def _completed(self, text: str, passed: int, additions: int) -> int:
        # To look at each addition may take longer than to look the value up as a new one does.
        if self._index.searches <= SEARCHES_FOR_ONE * (self._slots.additions - additions):
            return self._index.passed(text)
        added = self._slots.since(additions)
        bits = sum(slot.bit for _, slot in added)
        patterns = sum(len(wanted.globs(self._key)) for wanted, _ in added)
        if self._index.searches <= SEARCHES_FOR_ONE * patterns:
            return passed & ~bits | self._index.passed(text, bits) & bits
        return passed & ~bits | sum(
            slot.bit for wanted, slot in added if wanted.allows(self._key, text)
        )

    def _age(self) -> None:
        aged = zip(self.values(), repeat(self._additions), strict=False)
        self._older.update(zip(self, aged, strict=True))
        self.clear()

    def _evict(self) -> None:
        if len(self._older) < EVICTED:
            self._age()
        for value in list(islice(self._older, EVICTED)):
            self._size -= _value_size(value, self._older.pop(value)[0])


def _value_size(value: str, passed: int) -> int:
    """Return the bytes that a remembered value takes, at most."""
    return ENTRY_SIZE + 4 * len(value) + (passed.bit_length() >> 2)


@dataclass(slots=True, eq=False)
class _Member(Generic[T]):
    """A view, and what is selected for it."""

    target: T
    allowed: int
    """Of these bits one must be set."""


class _Targets(dict[int, tuple[T, ...]]):
    """For the filters that a notification passes, what is selected."""

    def __init__(self) -> None:
        self.members: dict[View, _Member[T]] = {}
        self._by_bit: defaultdict[int, list[_Member[T]]] = defaultdict(list)
        """By the number of a bit that must be set."""
        self._size = 0

    def add(self, view: View, member: _Member[T], bits: Iterable[int]) -> None:
        """Select a member from now on where one of these bits is set."""
        self.members[view] = member
        for bit in bits:
            self._by_bit[bit.bit_length()].append(member)
        self._forget()

    def remove(self, view: View, bits: Iterable[int]) -> None:
        """Select a member no longer."""
        member = self.members.pop(view)
        for bit in bits:
            members = self._by_bit[bit.bit_length()]
            members.remove(member)
            if not members:
                del self._by_bit[bit.bit_length()]
        self._forget()

    def _forget(self) -> None:
        # To find them anew takes as long for each record as its streams are many, and so does
        # sending it.
        self.clear()
        self._size = 0

    def __missing__(self, passed: int) -> tuple[T, ...]:
        targets = tuple(self._selected(passed))
        if len(self) >= MAX_TARGETS:
            for each in list(islice(self, EVICTED)):
                self._size -= _size(each, self.pop(each))
        self._size += _size(passed, targets)
        self[passed] = targets
        if self._size > MAX_TARGETS_SIZE:
            self._forget()
        return targets

    def _selected(self, passed: int) -> Iterable[T]:
        if passed & GAP_BIT:
            return (member.target for member in self.members.values())
        members = chain.from_iterable(self._by_bit.get(bit, ()) for bit in _numbers(passed))
        return dict.fromkeys(each.target for each in members if each.allowed & passed)


def _size(passed: int, targets: tuple[T, ...]) -> int:
    return ENTRY_SIZE + getsizeof(passed) + getsizeof(targets)


def _numbers(bits: int) -> Iterator[int]:
    """Return the numbers of the bits that are set, beginning with 1."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length()
        bits ^= lowest


class Selector(Generic[T]):
    """Tells for each notification in which of many views it is.

    Each view stands for a target, and targets are what is returned.

    Args:
        thread_time: returns the processor time of the thread in seconds.
    """

    def __init__(self, thread_time: Callable[[], float] = time.thread_time) -> None:
        self._slots = _Slots()
        self._fields = tuple(_Field(key, self._slots, thread_time) for key in KEYS)
        self._targets: _Targets[T] = _Targets()
        self._acquire(Filter.parse({"event_type": [GAP]}))  # the first, which gets `GAP_BIT`

    @property
    def seconds(self) -> float:
        """Processor time, in seconds, that field values took which were not remembered."""
        return sum(field.seconds for field in self._fields)

    def add(self, view: View, target: T) -> None:
        """From now on, select `target` for what is in this view; it is not selected for another."""
        bits = [self._acquire(each) for each in _filters(view)]
        allowed = -1 if view.allowed is None else sum(self._slots[f].bit for f in view.allowed)
        self._targets.add(view, _Member(target, allowed), bits if view.asked is None else bits[:1])

    def remove(self, view: View) -> None:
        """Select the target of this view no longer."""
        bits = [self._slots[each].bit for each in _filters(view)]
        self._targets.remove(view, bits if view.asked is None else bits[:1])
        for each in _filters(view):
            self._release(each)

    def select(self, routing_keys: Sequence[RoutingKey]) -> dict[T, list[int]]:
        """Return the targets of the views that any notification is in, with the places of these.

        Several targets may share a list of places.
        """
        event_types, priorities, publishers = self._fields
        targets = self._targets
        if (
            len(routing_keys) == 1
        ):  # on a quiet host records come alone, and this takes half of the time
            [(event_type, priority, publisher)] = routing_keys
            passed = event_types[event_type] & priorities[priority] & publishers[publisher]
            return {target: [0] for target in targets[passed]} if passed else {}
        together: defaultdict[int, list[int]] = defaultdict(list)
        for place, passed in enumerate(self._passed(routing_keys)):
            if passed:
                together[passed].append(place)
        found: defaultdict[T, list[list[int]]] = defaultdict(list)
        for passed, places in together.items():
            for target in targets[passed]:
                found[target].append(places)
        return {
            target: lists[0] if len(lists) == 1 else sorted(chain.from_iterable(lists))
            for target, lists in found.items()
        }

    def _passed(self, routing_keys: Sequence[RoutingKey]) -> Iterable[int]:
        """Return for each notification the filters that it passes; nothing if none passes any."""
        event_types, priorities, publishers = self._fields
        if len(set(routing_keys[:SAMPLE])) > SAMPLE // 2:
            return [event_types[e] & priorities[p] & publishers[q] for e, p, q in routing_keys]
        passed = {
            kind: event_types[kind[0]] & priorities[kind[1]] & publishers[kind[2]]
            for kind in set(routing_keys)
        }
        return map(passed.__getitem__, routing_keys) if any(passed.values()) else ()

    def _acquire(self, wanted: Filter) -> int:
        slot = self._slots.get(wanted)
        if slot is None:
            slot = self._slots.allot(wanted)
            for each in self._fields:
                each.add(wanted, slot.bit)
        slot.uses += 1
        return slot.bit

    def _release(self, wanted: Filter) -> None:
        slot = self._slots[wanted]
        slot.uses -= 1
        if not slot.uses:
            for each in self._fields:
                each.remove(wanted, slot.bit)
            self._slots.free(wanted)


def _filters(view: View) -> list[Filter]:
    """Return all filters of a view, the one that was asked for first."""
    asked = [] if view.asked is None else [view.asked]
    return [*asked, *(view.allowed or ())]
