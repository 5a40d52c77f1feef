# SPDX-License-Identifier: Apache-2.0
"""The effort for a value does not grow with the number of remembered values."""

from __future__ import annotations

import pytest

from notif_relayd.records import field_values
from notif_relayd.records.field_values import MOVES, Field, Memory
from notif_relayd.records.filters import Filter
from notif_relayd.records.pattern_index import PatternIndex

PUBLISHERS = 200_000

MAX_OPERATIONS = 4 * MOVES
"""Maximum number of dictionary operations for one value."""


class Text(str):
    """A string that counts how often a dictionary asks for its hash."""

    __slots__ = ()
    hashed = 0

    def __hash__(self) -> int:
        Text.hashed += 1
        return str.__hash__(self)


class Values:
    """The remembered values of publisher_id, and the filters that they are matched with."""

    def __init__(self) -> None:
        self.memory = Memory(lambda: 0.0)
        self.field = Field("publisher_id", self.memory)

    def add(self, glob: str) -> tuple[Filter, int]:
        """Add a filter, and return it with its bit."""
        wanted = Filter.parse({"publisher_id": [glob]})
        bit = self.memory.slots.assign(wanted).bit
        self.field.add(wanted, bit)
        return wanted, bit

    def replace(self, old: tuple[Filter, int], glob: str) -> tuple[Filter, int]:
        """Replace a filter."""
        self.field.remove(*old)
        self.memory.slots.free(old[0])
        return self.add(glob)

    def operations(self, value: str) -> tuple[int, int]:
        """Return the bits of a value, and the number of dictionary operations to find them."""
        Text.hashed = 0
        return self.field.current[Text(value)], Text.hashed


@pytest.fixture
def values() -> Values:
    return Values()


def test_200000_publishers_are_remembered(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    publishers = [f"compute.cmp-{number:06}.example.org" for number in range(PUBLISHERS)]
    for number in range(100):
        values.add(f"compute.cmp-{number:06}.*")
    first = [values.field.current[each] for each in publishers]

    def passed(self: PatternIndex, text: str, among: int = -1) -> int:
        raise AssertionError(f"{text} was forgotten")

    monkeypatch.setattr(PatternIndex, "passed", passed)
    assert [values.field.current[each] for each in publishers] == first
    assert first[:100] == [1 << number for number in range(100)]
    assert not any(first[100:])


def test_new_filter_visits_no_remembered_value(values: Values) -> None:
    for number in range(10_000):
        values.field.current[Text(f"host-{number}")]
    Text.hashed = 0
    _, bit = values.add("*-77")
    assert Text.hashed == 0
    passed, operations = values.operations("host-77")
    assert passed == bit
    assert operations <= MAX_OPERATIONS


def test_effort_is_bounded_while_filters_change(values: Values) -> None:
    """Each change makes all values uncertain, of which few occur before the next change."""
    for number in range(10_000):
        values.field.current[Text(f"host-{number}")]
    changing = values.add("*-0")
    for number in range(1, 300):
        changing = values.replace(changing, f"*-{number}")
        for value in (number, number - 1, number + 5000):
            passed, operations = values.operations(f"host-{value}")
            assert passed == (changing[1] if value == number else 0)
            assert operations <= MAX_OPERATIONS


def test_effort_is_bounded_when_memory_is_full(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_values, "MAX_REMEMBERED_SIZE", 400_000)
    monkeypatch.setattr(field_values, "EVICTION_BATCH", 8)
    for number in range(5000):
        _, operations = values.operations(f"host-{number}")
        assert operations <= MAX_OPERATIONS + 2 * field_values.EVICTION_BATCH
        assert values.memory.size <= 400_000


def test_full_field_leaves_room_for_others(values: Values, monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of a field that has most of the memory are removed first."""
    monkeypatch.setattr(field_values, "MAX_REMEMBERED_SIZE", 400_000)
    other = Field("event_type", values.memory)
    for number in range(5000):
        values.field.current[f"host-{number}"]
    for number in range(300):
        other.current[f"event-{number}"]
    assert len(other.current) == 300
    assert values.memory.size == values.field.size + other.size <= 400_000


def test_size_is_that_of_the_remembered_values(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is the same again after all values have been replaced by others."""
    monkeypatch.setattr(field_values, "MAX_REMEMBERED_SIZE", 400_000)
    sizes = []
    for turn in range(4):
        for number in range(5000):
            values.field.current[f"host-{turn}-{number:04}"]
            if number % 1000 == 0:
                values.add(f"*-{turn}-{number:04}*")
        sizes.append(values.field.size)
    assert min(sizes) > 300_000
    while values.field.size:
        values.field.evict()
    assert values.memory.size == 0


def test_caller_may_keep_the_dictionary_of_a_batch(
    values: Values, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are counted once although another dictionary has become the current one."""
    monkeypatch.setattr(field_values, "MAX_REMEMBERED_SIZE", 100_000)
    kept = values.field.current
    number = 0
    while values.field.current is kept:
        number += 1
        kept[f"host-{number}"]
    size = values.field.size
    kept["new"]
    added = values.field.size - size
    kept["new"]
    assert values.field.size == size + added
