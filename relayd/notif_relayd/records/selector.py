# SPDX-License-Identifier: Apache-2.0
"""Selects the streams that a record belongs to.

A relay has many notifications, but the fields have few different values: thousands of event types,
up to 200,000 publishers, and five priorities. For each value of a field, `field_values` remembers
which filters it passes, as a bit set with one bit per filter. A record then costs three look-ups
and two ANDs, with any number of filters. A value that is not remembered is looked up in an index of
all patterns.

A change of one filter does not invalidate what is remembered. A new filter gets a free bit. When a
value occurs for the first time after that, it is matched with the new filter alone, and its bit is
corrected.

A record is decoded only if its fields pass a filter with a payload pattern: see `payload_index`.

All memory is bounded in bytes.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from sys import getsizeof
from typing import Generic, NamedTuple, TypeVar

from notif_relay.records import GAP
from notif_relayd.records.field_values import Field, Memory
from notif_relayd.records.filters import KEYS, Filter, View
from notif_relayd.records.framing import split
from notif_relayd.records.payload_index import PayloadIndex
from notif_relayd.records.validator import RoutingKey

MAX_TARGETS_SIZE = 1024 * 1024
"""Maximum size of the remembered lists of streams in bytes."""

MAX_TARGETS = 512
"""Maximum number of remembered lists of streams. Python computes the hash of an integer without a
secret, so a peer may choose filters whose bit sets have the same hash. This limit then bounds the
time of a look-up."""

ENTRY_SIZE = 400
"""Upper bound of the bytes of a remembered list, without its bits and references: object headers,
and an entry in a dictionary that has just grown."""

EVICTION_BATCH = 64
"""Lists that are removed at a time: a dictionary finds its oldest entry by a walk over the slots of
the entries that were removed before."""

SAMPLE = 16
"""Number of records at the beginning of a batch that decide whether equal routing keys are looked
up once. If many are equal, this takes a tenth of the time; otherwise, it takes one and a half times
as long."""

GAP_BIT = 1
"""Bit of the filter that only gap records pass. A record with this bit passes every filter."""

T = TypeVar("T", bound=Hashable)


@dataclass(slots=True, eq=False)
class _Member(Generic[T]):
    """A target, and one of the views that contain its records."""

    target: T
    allowed: int
    """Bits of which at least one must be set."""


class _Targets(dict[int, tuple[T, ...]]):
    """The targets that are selected for each set of filters that a record passes."""

    def __init__(self) -> None:
        self.members: dict[tuple[View, T], _Member[T]] = {}
        self._by_bit: defaultdict[int, list[_Member[T]]] = defaultdict(list)
        """Members by the number of a bit of which at least one must be set."""
        self._size = 0

    def add(self, view: View, member: _Member[T], bits: Iterable[int]) -> None:
        """Select a member if at least one of these bits is set."""
        self.members[view, member.target] = member
        for bit in bits:
            self._by_bit[bit.bit_length()].append(member)
        self._forget()

    def remove(self, view: View, target: T, bits: Iterable[int]) -> None:
        """Remove a member that `add` has added."""
        member = self.members.pop((view, target))
        for bit in bits:
            members = self._by_bit[bit.bit_length()]
            members.remove(member)
            if not members:
                del self._by_bit[bit.bit_length()]
        self._forget()

    def _forget(self) -> None:
        # Computing the targets again takes time proportional to their number, as sending does.
        self.clear()
        self._size = 0

    def __missing__(self, passed: int) -> tuple[T, ...]:
        targets = tuple(self._selected(passed))
        if len(self) >= MAX_TARGETS:
            for each in list(islice(self, EVICTION_BATCH)):
                self._size -= _size(each, self.pop(each))
        self._size += _size(passed, targets)
        self[passed] = targets
        if self._size > MAX_TARGETS_SIZE:
            self._forget()
        return targets

    def _selected(self, passed: int) -> Iterable[T]:
        if passed & GAP_BIT:
            return dict.fromkeys(each.target for each in self.members.values())
        members = chain.from_iterable(self._by_bit.get(bit, ()) for bit in _numbers(passed))
        return dict.fromkeys(each.target for each in members if each.allowed & passed)


def _size(passed: int, targets: tuple[T, ...]) -> int:
    return ENTRY_SIZE + getsizeof(passed) + getsizeof(targets)


def _numbers(bits: int) -> Iterator[int]:
    """Yield the number of each set bit; the lowest bit has number 1."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length()
        bits ^= lowest


class Mask(NamedTuple):
    """The bits of a view. The set of filters that a record passes decides whether it is in it."""

    requested: int
    """A bit of these must be set; 0 if the view has all records that may be read."""
    allowed: int
    """A bit of these must be set; 0 if all records may be read."""

    def contains(self, passed: int) -> bool:
        """Return whether the view contains a record that passes these filters."""
        return bool(
            (not self.requested or passed & self.requested)
            and (not self.allowed or passed & self.allowed)
        )


class Selector(Generic[T]):
    """Finds the views that contain a record, and returns the targets of these views.

    Args:
        thread_time: returns the processor time of the thread in seconds.
    """

    def __init__(self, thread_time: Callable[[], float] = time.thread_time) -> None:
        self._memory = Memory(thread_time)
        self._slots = self._memory.slots
        self._fields = tuple(Field(key, self._memory) for key in KEYS)
        self._payloads = PayloadIndex(thread_time)
        self._targets: _Targets[T] = _Targets()
        self._acquire(Filter.parse({"event_type": [GAP]}))  # the first filter gets `GAP_BIT`

    @property
    def seconds(self) -> float:
        """Processor time, in seconds, for values that were not remembered, and for records whose
        payload took longer than usual."""
        return self._memory.seconds + self._payloads.expensive_seconds

    @property
    def decode_seconds(self) -> float:
        """Processor time, in seconds, for records that were decoded."""
        return self._payloads.seconds

    @property
    def forgotten_seconds(self) -> float:
        """Processor time, in seconds, that may be taken again because patterns have changed."""
        return self._payloads.forgotten_seconds

    def add(self, view: View, target: T) -> None:
        """Select `target` for the records of this view, in addition to those of its other views."""
        bits = [self._acquire(each) for each in _filters(view)]
        allowed = -1 if view.allowed is None else sum(self._slots[f].bit for f in view.allowed)
        self._targets.add(
            view, _Member(target, allowed), bits if view.requested is None else bits[:1]
        )

    def remove(self, view: View, target: T) -> None:
        """Do not select `target` for the records of this view any more."""
        bits = [self._slots[each].bit for each in _filters(view)]
        self._targets.remove(view, target, bits if view.requested is None else bits[:1])
        for each in _filters(view):
            self._release(each)

    def acquire(self, view: View) -> Mask:
        """Return the bits of a view, which stay valid until `release` is called."""
        requested, allowed = view.requested, view.allowed
        return Mask(
            0 if requested is None else self._acquire(requested) | GAP_BIT,
            0 if allowed is None else sum(map(self._acquire, allowed)) | GAP_BIT,
        )

    def release(self, view: View) -> None:
        """Release the bits of a view that `acquire` has returned."""
        for each in _filters(view):
            self._release(each)

    def passed(self, routing_key: RoutingKey, record: bytes) -> int:
        """Return the bits of the filters that a record passes."""
        event_types, priorities, publishers = self._fields
        event_type, priority, publisher = routing_key
        passed = (
            event_types.current[event_type]
            & priorities.current[priority]
            & publishers.current[publisher]
        )
        if passed & self._payloads.bits and not passed & GAP_BIT:
            passed &= self._payloads.passed(record)
        return passed

    def select(self, routing_keys: Sequence[RoutingKey], batch: bytes) -> dict[T, list[int]]:
        """Return the targets for a batch, each with the indexes of its records in the batch.

        A target without records is not in the result. Targets may share a list of indexes.

        Args:
            routing_keys: those of the records.
            batch: the records.
        """
        targets = self._targets
        if len(routing_keys) == 1:
            # On a quiet host most batches have one record. This branch takes half of the time.
            passed = self.passed(routing_keys[0], batch)
            return {target: [0] for target in targets[passed]} if passed else {}
        indexes_by_passed: defaultdict[int, list[int]] = defaultdict(list)
        for index, passed in enumerate(self.passed_by_each(routing_keys, batch)):
            if passed:
                indexes_by_passed[passed].append(index)
        found: defaultdict[T, list[list[int]]] = defaultdict(list)
        for passed, indexes in indexes_by_passed.items():
            for target in targets[passed]:
                found[target].append(indexes)
        return {
            target: lists[0] if len(lists) == 1 else sorted(chain.from_iterable(lists))
            for target, lists in found.items()
        }

    def passed_by_each(self, routing_keys: Sequence[RoutingKey], batch: bytes) -> Iterable[int]:
        """Return the filters that each record of a batch passes; empty if none passes any."""
        passed = self._passed(routing_keys)
        if not self._payloads.bits:
            return passed
        return [
            bits & self._payloads.passed(record)
            if bits & self._payloads.bits and not bits & GAP_BIT
            else bits
            for bits, record in zip(passed, split(batch), strict=False)
        ]

    def _passed(self, routing_keys: Sequence[RoutingKey]) -> Iterable[int]:
        """Return the filters that each record passes; empty if no record passes any filter."""
        event_types, priorities, publishers = [each.current for each in self._fields]
        if len(set(routing_keys[:SAMPLE])) > SAMPLE // 2:
            return [event_types[e] & priorities[p] & publishers[q] for e, p, q in routing_keys]
        passed = {
            key: event_types[key[0]] & priorities[key[1]] & publishers[key[2]]
            for key in set(routing_keys)
        }
        return map(passed.__getitem__, routing_keys) if any(passed.values()) else ()

    def _acquire(self, wanted: Filter) -> int:
        slot = self._slots.get(wanted)
        if slot is None:
            slot = self._slots.assign(wanted)
            for each in self._fields:
                each.add(wanted, slot.bit)
            self._payloads.add(wanted, slot.bit)
        slot.uses += 1
        return slot.bit

    def _release(self, wanted: Filter) -> None:
        slot = self._slots[wanted]
        slot.uses -= 1
        if not slot.uses:
            for each in self._fields:
                each.remove(wanted, slot.bit)
            self._payloads.remove(wanted, slot.bit)
            self._slots.free(wanted)


def _filters(view: View) -> list[Filter]:
    """Return all filters of a view; the requested filter is the first one."""
    requested = [] if view.requested is None else [view.requested]
    return [*requested, *(view.allowed or ())]
