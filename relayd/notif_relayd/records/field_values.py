# SPDX-License-Identifier: Apache-2.0
"""Remembers which filters the values of a field pass.

Each filter has a bit, and each value that has occurred has the set of the filters that it passes. A
relay that has the notifications of a whole region meets 200,000 different values, so no operation
may take time proportional to their number:

- A new filter does not change what is remembered. The dictionary of the current values becomes a
  generation, and an empty one takes its place. When a value of a generation occurs again, it is
  matched with the filters that are new since then, and is current again.
- With each value that is looked up, a few values leave the newest generation for the dictionary of
  older values, where each has the number of filters of its time. So more values leave generations
  than enter them, and there are few generations, whatever the rate at which filters change.
- All memory is bounded in bytes, for all fields together. A few values at a time are removed from
  the field that takes the most, older values first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, takewhile
from operator import attrgetter
from sys import getsizeof

from notif_relayd.records.filters import MAX_COMPARED, Filter, comparable, shortened
from notif_relayd.records.pattern_index import PatternIndex

MAX_REMEMBERED_SIZE = 72 * 1024 * 1024
"""Maximum size of the remembered values of all fields in bytes: 200,000 values of 32 characters.

Their dictionaries have mostly not just grown, so these take about 35 MiB.
"""

ENTRY_SIZE = 236
"""Upper bound of the bytes of a remembered value, without the value and its bits: entries in two
dictionaries that have just grown and a slot that is left over in a third one (60 each), and a tuple
(56)."""

EVICTION_BATCH = 256
"""Values that are removed at a time: a dictionary finds its oldest entry by a walk over the slots
of the entries that were removed before."""

MOVES = 4
"""Values that leave a generation for the older values when one value is looked up."""

SEARCHES_PER_MATCH = 4
"""Patterns that the index tries in the time that it takes to match one pattern directly."""


@dataclass(slots=True)
class Slot:
    """A filter's bit."""

    bit: int
    since: int
    """Value of `Slots.additions` when the bit was assigned to this filter."""
    uses: int = 0
    """Number of views with this filter."""


class Slots(dict[Filter, Slot]):
    """The bits of all filters, in the order in which they were assigned."""

    def __init__(self) -> None:
        self.additions = 0
        self._free: list[int] = []

    def assign(self, wanted: Filter) -> Slot:
        """Assign a bit to a filter. The bit may have belonged to a removed filter."""
        self.additions += 1
        bit = self._free.pop() if self._free else 1 << len(self)
        slot = self[wanted] = Slot(bit, self.additions)
        return slot

    def free(self, wanted: Filter) -> None:
        """Release the bit of a filter. The bit may still be set in remembered values."""
        self._free.append(self.pop(wanted).bit)

    def since(self, additions: int) -> list[tuple[Filter, Slot]]:
        """Return the filters that were assigned a bit after that number of additions."""
        return list(takewhile(lambda item: item[1].since > additions, reversed(self.items())))


class Values(dict[str, int]):
    """Values of a field with the bits of the filters that they pass.

    Args:
        missing: returns the bits of a value that is not in the dictionary.
    """

    def __init__(self, missing: Callable[[str], int]) -> None:
        self._missing = missing

    def __missing__(self, value: str) -> int:
        return self._missing(value)


@dataclass(slots=True)
class _Generation:
    """Values that have not occurred since a filter was added."""

    values: Values
    additions: int
    """Number of additions of filters for which the bits are valid."""


class Memory:
    """What all fields remember together.

    Args:
        thread_time: returns the processor time of the thread in seconds.
    """

    def __init__(self, thread_time: Callable[[], float]) -> None:
        self.thread_time = thread_time
        self.slots = Slots()
        self.fields: list[Field] = []
        self.size = 0
        """Upper bound in bytes."""
        self.seconds = 0.0
        """Processor time, in seconds, for values that were not remembered."""

    def evict(self) -> None:
        """Remove a few values of the field that takes the most memory."""
        max(self.fields, key=attrgetter("size")).evict()


class Field:
    """The filters that each value of one field passes.

    Args:
        key: the key of the field in a filter.
        memory: what the fields share; this one is added to it.
    """

    def __init__(self, key: str, memory: Memory) -> None:
        self.current = Values(self._look_up)
        """The values whose bits are valid for all filters. A value that is not remembered, or that
        has to be matched with new filters, is added when it is read."""
        self.size = 0
        """Upper bound in bytes."""
        self._key = key
        self._memory = memory
        self._index = PatternIndex()
        self._additions = memory.slots.additions
        """Number of additions of filters for which `current` is valid."""
        self._generations: list[_Generation] = []
        """Former dictionaries of current values, the newest at the end."""
        self._older: dict[str, tuple[int, int]] = {}
        """Values that have left the generations: their bits, and the number of additions for which
        these are valid."""
        memory.fields.append(self)

    def add(self, wanted: Filter, bit: int) -> None:
        """Add a filter."""
        self._index.add(wanted.globs(self._key), wanted.compiled, bit)
        self._age()
        self._additions = self._memory.slots.additions

    def remove(self, wanted: Filter, bit: int) -> None:
        """Remove a filter."""
        self._index.remove(wanted.globs(self._key), bit)

    def evict(self) -> None:
        """Remove a few values, which are current only if there are no others."""
        older = self._older
        if older:
            for value in list(islice(older, EVICTION_BATCH)):
                self._charge(-_size(value, older.pop(value)[0]))
            if not older:
                self._older = {}  # the dictionary keeps its memory
            return
        self._remove_empty()
        if not self._generations:
            self._age()
        values = self._generations[0].values
        for _ in range(min(EVICTION_BATCH, len(values))):
            self._charge(-_size(*values.popitem()))

    def _look_up(self, value: str) -> int:
        if len(value) > MAX_COMPARED:
            return self.current[shortened(value)]
        if value in self.current:
            return self.current[value]  # by a caller that has kept a former dictionary
        memory = self._memory
        before = memory.thread_time()
        text = comparable(self._key, value)
        known = self._take(value)
        if known is None:
            passed = self._index.passed(text)
        else:
            passed = self._completed(text, *known)
            self._charge(-_size(value, known[0]))
        self.current[value] = passed
        self._charge(_size(value, passed))
        if self._generations:
            self._move()
        if memory.size > MAX_REMEMBERED_SIZE:
            memory.evict()
        memory.seconds += memory.thread_time() - before
        return passed

    def _take(self, value: str) -> tuple[int, int] | None:
        """Remove a value that is not current; return its bits and the additions of their time."""
        known = self._older.pop(value, None)
        if known is None:
            for generation in self._generations:
                passed = generation.values.pop(value, None)
                if passed is not None:
                    return passed, generation.additions
        return known

    def _completed(self, text: str, passed: int, additions: int) -> int:
        # If many filters were added, it is faster to look the value up in the index.
        slots = self._memory.slots
        if self._index.searches <= SEARCHES_PER_MATCH * (slots.additions - additions):
            return self._index.passed(text)
        added = slots.since(additions)
        bits = sum(slot.bit for _, slot in added)
        patterns = sum(len(wanted.globs(self._key)) for wanted, _ in added)
        if self._index.searches <= SEARCHES_PER_MATCH * patterns:
            return passed & ~bits | self._index.passed(text, bits) & bits
        return passed & ~bits | sum(
            slot.bit for wanted, slot in added if wanted.allows(self._key, text)
        )

    def _age(self) -> None:
        if self.current:
            self._generations.append(_Generation(self.current, self._additions))
            self.current = Values(self._look_up)

    def _move(self) -> None:
        """Move a few values from the newest generation to the older ones."""
        generation = self._generations[-1]
        values, additions = generation.values, generation.additions
        for _ in range(min(MOVES, len(values))):
            value, passed = values.popitem()
            self._older[value] = passed, additions
        self._remove_empty()

    def _remove_empty(self) -> None:
        generations = self._generations
        if not all(generation.values for generation in generations):
            self._generations = [each for each in generations if each.values]

    def _charge(self, size: int) -> None:
        self.size += size
        self._memory.size += size


def _size(value: str, passed: int) -> int:
    """Return an upper bound of the bytes of a remembered value."""
    return ENTRY_SIZE + getsizeof(value) + getsizeof(passed)
