# SPDX-License-Identifier: Apache-2.0
"""Rings and cursors: whole records, exact gaps, bounded memory."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from notif_relayd.fanout.chunk import CHUNK_OVERHEAD, Chunk
from notif_relayd.fanout.cursor import MAX_BUFFERS, Cursor
from notif_relayd.fanout.ring import Ring, Store


def gap(lost: int) -> bytes:
    return b"gap %d\n" % lost


def lines(first: int, number: int, width: int = 1) -> bytes:
    """Return numbered records, each padded with dots to `width` bytes and a newline."""
    return b"".join((b"%d" % n).ljust(width, b".") + b"\n" for n in range(first, first + number))


def drain(cursor: Cursor, step: int = 10**9) -> bytes:
    """Send everything, at most `step` bytes at a time; return it."""
    out = b""
    while not cursor.finished:
        waiting = b"".join(cursor.buffers())
        out += waiting[:step]
        cursor.advance(min(step, len(waiting)))
    return out


def test_new_cursor_is_at_the_end() -> None:
    ring = Ring(Store(10_000))
    ring.append(b"old\n", 1)
    cursor = Cursor(ring, gap)
    assert cursor.finished
    assert cursor.position == 1
    ring.append(b"new\n", 1)
    assert not cursor.finished
    assert drain(cursor) == b"new\n"


def test_cursor_rewinds_over_unsent_bytes() -> None:
    ring = Ring(Store(10_000))
    ring.append(b"one\ntwo\n", 2)
    cursor = Cursor(ring, gap)
    cursor.rewind(6)
    assert cursor.position == 0
    cursor.advance(2)
    assert cursor.position == 1
    assert drain(cursor) == b"two\n"


def test_torn_record_is_completed_before_the_gap() -> None:
    ring = Ring(Store(2 * CHUNK_OVERHEAD + 30))
    ring.append(b"one\ntwo\nthree\n", 3)
    cursor = Cursor(ring, gap)
    cursor.rewind(len("wo\nthree\n"))
    for number in range(4, 9):
        ring.append(b"%d\n" % number, 1)
    assert cursor.lost == ring.first_seq - 2
    assert drain(cursor, step=1) == b"wo\ngap %d\n7\n8\n" % (ring.first_seq - 2)
    assert ring.first_seq == 6
    assert cursor.announced == 4


@pytest.mark.parametrize("sent", range(len(b"one\ntwo\n") + 1))
def test_loss_is_noted_with_its_first_record(sent: int) -> None:
    ring = Ring(Store(2 * CHUNK_OVERHEAD + 20))
    ring.append(b"one\ntwo\n", 2)
    cursor = Cursor(ring, gap, owner=7)
    cursor.rewind(8 - sent)
    while not cursor.dropped:
        assert not ring.store.losing
        ring.append(b"next\n", 1)
    assert ring.store.losing == {7}


def test_growing_gap_is_announced_twice_and_adds_up() -> None:
    ring = Ring(Store(CHUNK_OVERHEAD))
    ring.append(b"0\n", 1)
    cursor = Cursor(ring, gap)
    cursor.rewind(2)
    ring.append(b"1\n", 1)
    assert b"".join(cursor.buffers()) == b"gap 1\n1\n"
    cursor.advance(3)
    ring.append(b"2\n", 1)
    assert drain(cursor) == b" 1\ngap 1\n2\n"
    assert cursor.announced == 2


def test_inserted_record_is_between_whole_records() -> None:
    ring = Ring(Store(10_000))
    ring.append(b"one\ntwo\n", 2)
    cursor = Cursor(ring, gap)
    cursor.rewind(7)
    cursor.insert(b"answer\n")
    assert drain(cursor, step=2) == b"ne\nanswer\ntwo\n"
    cursor.insert(b"another\n")
    assert drain(cursor) == b"another\n"


def test_no_record_follows_the_last_one() -> None:
    ring = Ring(Store(10_000))
    ring.append(b"one\ntwo\n", 2)
    cursor = Cursor(ring, gap)
    cursor.rewind(7)
    cursor.stop_with(b"bye\n")
    ring.append(b"three\n", 1)
    assert drain(cursor, step=1) == b"ne\nbye\n"
    assert cursor.stopped
    assert cursor.lost == 0


def test_limit_holds_for_all_rings_and_small_chunks() -> None:
    store = Store(100 * (CHUNK_OVERHEAD + 2))
    one, two = Ring(store), Ring(store)
    for _ in range(1000):
        one.append(b"x\n", 1)
        two.append(b"x\n", 1)
        assert store.size <= store.limit
    assert [ring.next_seq - ring.first_seq for ring in (one, two)] == [50, 50]
    two.append(b"x" * store.limit + b"\n", 1)
    assert one.oldest is None
    assert two.next_seq - two.first_seq == 1


def test_chunk_charge_covers_its_memory() -> None:
    store = Store(1 << 30)
    ring = Ring(store)
    cursor = Cursor(ring, gap)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(10_000):
            ring.append(lines(number, 1, 60), 1)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cursor.lost == 0
    assert taken <= store.size


def test_ring_is_empty_when_no_cursor_is_behind() -> None:
    store = Store(10_000)
    ring = Ring(store)
    cursors = [Cursor(ring, gap), Cursor(ring, gap)]
    ring.append(b"x\n", 1)
    cursors[0].detach()
    assert store.size > 0
    cursors[1].detach()
    assert (store.size, ring.oldest, ring.newest) == (0, None, None)
    assert ring.first_seq == ring.next_seq == 1


def test_stopped_cursor_gets_no_later_records() -> None:
    ring = Ring(Store(10_000))
    cursor, other = Cursor(ring, gap), Cursor(ring, gap)
    ring.append(b"one\n", 1)
    cursor.stop()
    ring.append(b"two\n", 1)
    assert not cursor.finished
    assert drain(cursor) == b"one\n"
    assert drain(other) == b"one\ntwo\n"


def test_stopped_cursor_gap_excludes_later_records() -> None:
    ring = Ring(Store(CHUNK_OVERHEAD))
    cursor = Cursor(ring, gap)
    for number in range(3):
        ring.append(b"%d\n" % number, 1)
    cursor.stop()
    for number in range(3, 6):
        ring.append(b"%d\n" % number, 1)
    assert drain(cursor) == b"gap 3\n"
    assert cursor.position == 3


def test_newest_chunk_is_kept_even_above_the_limit() -> None:
    ring = Ring(Store(10))
    ring.append(b"old\n", 1)
    ring.append(b"x" * 100 + b"\n", 1)
    assert ring.first_seq == 1
    assert ring.next_seq == 2


def test_lower_limit_applies_to_the_next_record() -> None:
    store = Store(10_000)
    ring = Ring(store)
    for _ in range(10):
        ring.append(b"x\n", 1)
    store.limit = 3 * (CHUNK_OVERHEAD + 2)
    ring.append(b"x\n", 1)
    assert ring.next_seq - ring.first_seq == 3


def test_stalled_cursors_keep_no_chunk_alive() -> None:
    ring = Ring(Store(10 * CHUNK_OVERHEAD))
    cursors = []
    for number in range(100):
        data = b"half\nhalf\n%d\n" % number
        ring.append(data, 3)
        cursor = Cursor(ring, gap)
        cursor.rewind(len(data) - 7)
        cursors.append(cursor)
    gc.collect()
    alive = [each for each in gc.get_objects() if isinstance(each, Chunk)]
    assert len(alive) < 10
    assert all(drain(cursor).startswith(b"lf\n") for cursor in cursors)


def test_torn_bytes_are_counted_until_released() -> None:
    store = Store(2 * CHUNK_OVERHEAD + 30)
    ring = Ring(store)
    ring.append(b"one\ntwo\nthree\n", 3)
    sending, leaving, whole = (Cursor(ring, gap) for _ in range(3))
    for cursor, unsent in ((sending, b"wo\nthree\n"), (leaving, b"ne\ntwo\nthree\n")):
        cursor.rewind(len(unsent))
    assert store.torn == 0
    for first in range(3, 20):
        ring.append(lines(first, 1), 1)
    assert (sending.torn_share, leaving.torn_share, whole.torn_share) == (4, 4, 0)
    assert store.torn == 8
    leaving.detach()
    assert store.torn == 4
    assert sending.buffers() == [b"wo\n"]
    sending.advance(2)
    assert store.torn == 4
    sending.advance(1)
    assert store.torn == 0


def test_torn_record_is_shared_by_its_cursors() -> None:
    store = Store(2 * CHUNK_OVERHEAD)
    ring = Ring(store)
    ring.append(b"first\nsecond\n", 2)
    cursors = [Cursor(ring, gap) for _ in range(3)]
    for unsent, cursor in zip((5, 3, 9), cursors, strict=True):
        cursor.rewind(unsent)
    for first in range(2, 8):
        ring.append(lines(first, 1), 1)
    assert store.torn == len(b"first\nsecond\n")
    assert [each.torn_share for each in cursors] == [3.5, 3.5, 6]
    assert [drain(each).split(b"\n")[0] for each in cursors] == [b"cond", b"nd", b"t"]
    assert store.torn == 0


def test_step_size_is_bounded() -> None:
    ring = Ring(Store(10**9))
    cursor = Cursor(ring, gap)
    for _ in range(1000):
        ring.append(b"x\n", 1)
    assert len(cursor.buffers()) == MAX_BUFFERS


@settings(max_examples=200, stateful_step_count=60)
class Subscribers(RuleBasedStateMachine):
    """In any sequence of appends and partial sends, every record is sent or announced as missing.

    Subscribers 0 and 1 share a ring; subscriber 2 has another ring in the same store. If each gap
    is replaced by the records that it announces, a subscriber has the whole sequence of its ring.
    """

    @initialize(limit=st.integers(min_value=0, max_value=4 * (CHUNK_OVERHEAD + 40)))
    def start(self, limit: int) -> None:
        self.store = Store(limit)
        rings = [Ring(self.store), Ring(self.store)]
        self.rings = [rings[0], rings[0], rings[1]]
        self.cursors = [Cursor(ring, gap, owner) for owner, ring in enumerate(self.rings)]
        self.read = [b""] * 3
        self.inserted = [0] * 3

    @rule(index=st.integers(0, 2), count=st.integers(1, 6), width=st.integers(1, 30))
    def append(self, index: int, count: int, width: int) -> None:
        ring = self.rings[index]
        ring.append(lines(ring.next_seq, count, width), count)

    @rule(index=st.integers(0, 2), size=st.integers(0, 200))
    def send(self, index: int, size: int) -> None:
        waiting = b"".join(self.cursors[index].buffers())
        self.read[index] += waiting[:size]
        self.cursors[index].advance(min(size, len(waiting)))

    @rule(index=st.integers(0, 2))
    def insert(self, index: int) -> None:
        self.cursors[index].insert(b"answer\n")
        self.inserted[index] += 1

    @rule(index=st.integers(0, 2))
    def stop(self, index: int) -> None:
        if not self.cursors[index].stopped:
            self.cursors[index].stop()

    @invariant()
    def lines_are_whole_and_missing_ones_are_announced(self) -> None:
        for index in range(3) if hasattr(self, "cursors") else ():
            expected, dropped, answers = 0, 0, 0
            for line in self.read[index].split(b"\n")[:-1]:
                word = line.rstrip(b".")
                if word.startswith(b"gap "):
                    expected += int(word[4:])
                    dropped += int(word[4:])
                elif word == b"answer":
                    answers += 1
                else:
                    assert int(word) == expected
                    expected += 1
            assert expected <= self.cursors[index].end
            assert dropped <= self.cursors[index].announced
            assert answers <= self.inserted[index]

    @invariant()
    def losses_are_noted(self) -> None:
        for index in range(3) if hasattr(self, "cursors") else ():
            is_noted = index in self.store.losing
            assert is_noted or not self.cursors[index].announced
            assert self.cursors[index].dropped or not is_noted

    def teardown(self) -> None:
        for index in range(3) if hasattr(self, "cursors") else ():
            cursor = self.cursors[index]
            self.read[index] += drain(cursor, step=7)
            assert cursor.position == cursor.end
            out = self.read[index].split(b"\n")[:-1]
            gaps = sum(int(line[4:]) for line in out if line.startswith(b"gap "))
            records = sum(line[:1].isdigit() for line in out)
            assert gaps == cursor.announced
            assert out.count(b"answer") == self.inserted[index]
            assert records + gaps == cursor.end
        self.lines_are_whole_and_missing_ones_are_announced()
        for cursor in getattr(self, "cursors", []):
            cursor.detach()
        assert not hasattr(self, "store") or self.store.size == 0


TestSubscribers = Subscribers.TestCase


def test_restored_rings_keep_chunks_until_the_store_shrinks() -> None:
    store = Store(CHUNK_OVERHEAD)
    one, two = Ring(store), Ring(store)
    one.restore(10)
    two.restore(5)
    saved = [(one, b"7\n8\n", 2), (two, b"4\n", 1), (None, b"unread\n", 1), (one, b"9\n", 1)]
    chunks = store.restore(saved)
    assert [each and each.data for each in chunks] == [b"7\n8\n", b"4\n", None, b"9\n"]
    assert [each and each.first for each in chunks] == [7, 4, None, 9]
    assert (one.first_seq, one.next_seq) == (7, 10)
    assert (two.first_seq, two.next_seq) == (4, 5)
    store.shrink()
    assert (one.first_seq, two.first_seq) == (9, 5)


@given(data=st.data())
def test_chunk_knows_record_boundaries(data: st.DataObject) -> None:
    ring = Ring(Store(10**9))
    number = data.draw(st.integers(1, 20))
    ring.append(lines(0, number), number)
    chunk = ring.newest
    assert chunk is not None
    offset = data.draw(st.integers(1, len(chunk.data) - 1))
    assert chunk.boundary(offset) == chunk.data.index(b"\n", offset - 1) + 1
    assert chunk.whole_before(offset) == chunk.data[:offset].count(b"\n")
