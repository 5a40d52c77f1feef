# SPDX-License-Identifier: Apache-2.0
"""The ring and its cursors: whole lines, exact gaps, bounded memory."""

from __future__ import annotations

import gc

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from notif_relayd.ring import CHUNK_OVERHEAD, MAX_BUFFERS, Chunk, Cursor, Ring


def gap(lost: int) -> bytes:
    return b"gap %d\n" % lost


def lines(first: int, number: int, width: int = 1) -> bytes:
    """Numbered records, filled up with dots."""
    return b"".join((b"%d" % n).ljust(width, b".") + b"\n" for n in range(first, first + number))


def drain(cursor: Cursor, step: int = 10**9) -> bytes:
    """Send all there is, at most `step` bytes a time."""
    out = b""
    while not cursor.finished:
        waiting = b"".join(cursor.buffers())
        out += waiting[:step]
        cursor.advance(min(step, len(waiting)))
    return out


def test_a_new_cursor_stands_at_the_end() -> None:
    ring = Ring(10_000)
    ring.append(b"old\n", 1)
    cursor = Cursor(ring, gap)
    assert cursor.finished
    assert cursor.position == 1
    ring.append(b"new\n", 1)
    assert not cursor.finished
    assert drain(cursor) == b"new\n"


def test_a_cursor_rewinds_over_what_the_socket_did_not_take() -> None:
    ring = Ring(10_000)
    ring.append(b"one\ntwo\n", 2)
    cursor = Cursor(ring, gap)
    cursor.rewind(6)
    assert cursor.position == 0
    cursor.advance(2)
    assert cursor.position == 1
    assert drain(cursor) == b"two\n"


def test_the_rest_of_a_torn_record_comes_before_the_gap() -> None:
    ring = Ring(2 * CHUNK_OVERHEAD + 30)
    ring.append(b"one\ntwo\nthree\n", 3)
    cursor = Cursor(ring, gap)
    cursor.rewind(len("wo\nthree\n"))
    for number in range(4, 9):
        ring.append(b"%d\n" % number, 1)
    assert cursor.lost == ring.first_seq - 2
    assert drain(cursor, step=1) == b"wo\ngap %d\n7\n8\n" % (ring.first_seq - 2)
    assert ring.first_seq == 6
    assert cursor.announced == 4


def test_a_gap_that_grows_while_it_is_announced_is_announced_twice_and_adds_up() -> None:
    ring = Ring(CHUNK_OVERHEAD)
    ring.append(b"0\n", 1)
    cursor = Cursor(ring, gap)
    cursor.rewind(2)
    ring.append(b"1\n", 1)
    assert b"".join(cursor.buffers()) == b"gap 1\n1\n"
    cursor.advance(3)
    ring.append(b"2\n", 1)
    assert drain(cursor) == b" 1\ngap 1\n2\n"
    assert cursor.announced == 2


def test_a_record_is_inserted_between_two_others_and_tears_neither() -> None:
    ring = Ring(10_000)
    ring.append(b"one\ntwo\n", 2)
    cursor = Cursor(ring, gap)
    cursor.rewind(7)
    cursor.insert(b"answer\n")
    assert drain(cursor, step=2) == b"ne\nanswer\ntwo\n"
    cursor.insert(b"another\n")
    assert drain(cursor) == b"another\n"


def test_nothing_follows_a_last_record() -> None:
    ring = Ring(10_000)
    ring.append(b"one\ntwo\n", 2)
    cursor = Cursor(ring, gap)
    cursor.rewind(7)
    cursor.end(b"bye\n")
    ring.append(b"three\n", 1)
    assert drain(cursor, step=1) == b"ne\nbye\n"
    assert cursor.last
    assert cursor.lost == 0


def test_the_ring_keeps_to_its_limit_however_small_the_chunks_are() -> None:
    ring = Ring(100 * (CHUNK_OVERHEAD + 2))
    for _ in range(1000):
        ring.append(b"x\n", 1)
        assert ring.size <= ring.limit
    assert ring.next_seq - ring.first_seq == 100


def test_the_newest_chunk_is_kept_even_if_it_is_larger_than_the_limit() -> None:
    ring = Ring(10)
    ring.append(b"old\n", 1)
    ring.append(b"x" * 100 + b"\n", 1)
    assert ring.first_seq == 1
    assert ring.next_seq == 2


def test_a_smaller_limit_holds_from_the_next_record_on() -> None:
    ring = Ring(10_000)
    for _ in range(10):
        ring.append(b"x\n", 1)
    ring.limit = 3 * (CHUNK_OVERHEAD + 2)
    ring.append(b"x\n", 1)
    assert ring.next_seq - ring.first_seq == 3


def test_stalled_cursors_keep_no_chunk_alive() -> None:
    ring = Ring(10 * CHUNK_OVERHEAD)
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


def test_one_step_is_bounded() -> None:
    ring = Ring(10**9)
    cursor = Cursor(ring, gap)
    for _ in range(1000):
        ring.append(b"x\n", 1)
    assert len(cursor.buffers()) == MAX_BUFFERS


@settings(max_examples=200, stateful_step_count=60)
class Subscribers(RuleBasedStateMachine):
    """Any schedule of appends and partial sends: the books balance to the record.

    Three subscribers share a ring. The model is what each must have read: its stream, with every
    gap replaced by the records that it stands for, is the whole sequence.
    """

    @initialize(limit=st.integers(min_value=0, max_value=4 * (CHUNK_OVERHEAD + 40)))
    def start(self, limit: int) -> None:
        self.ring = Ring(limit)
        self.cursors = [Cursor(self.ring, gap) for _ in range(3)]
        self.read = [b""] * 3
        self.inserted = [0] * 3

    @rule(number=st.integers(min_value=1, max_value=6), size=st.integers(1, 30))
    def append(self, number: int, size: int) -> None:
        self.ring.append(lines(self.ring.next_seq, number, size), number)

    @rule(who=st.integers(0, 2), size=st.integers(0, 200))
    def send(self, who: int, size: int) -> None:
        waiting = b"".join(self.cursors[who].buffers())
        self.read[who] += waiting[:size]
        self.cursors[who].advance(min(size, len(waiting)))

    @rule(who=st.integers(0, 2))
    def insert(self, who: int) -> None:
        self.cursors[who].insert(b"answer\n")
        self.inserted[who] += 1

    @invariant()
    def every_line_is_whole_and_every_missing_one_accounted_for(self) -> None:
        for who, cursor in enumerate(getattr(self, "cursors", [])):
            expected, dropped, answers = 0, 0, 0
            for line in self.read[who].split(b"\n")[:-1]:
                word = line.rstrip(b".")
                if word.startswith(b"gap "):
                    expected += int(word[4:])
                    dropped += int(word[4:])
                elif word == b"answer":
                    answers += 1
                else:
                    assert int(word) == expected
                    expected += 1
            assert dropped <= cursor.announced
            assert answers <= self.inserted[who]

    def teardown(self) -> None:
        for who, cursor in enumerate(getattr(self, "cursors", [])):
            self.read[who] += drain(cursor, step=7)
            assert cursor.position == self.ring.next_seq
        self.every_line_is_whole_and_every_missing_one_accounted_for()
        for who, cursor in enumerate(getattr(self, "cursors", [])):
            out = self.read[who].split(b"\n")[:-1]
            gaps = sum(int(line[4:]) for line in out if line.startswith(b"gap "))
            answers = out.count(b"answer")
            records = sum(line[:1].isdigit() for line in out)
            assert gaps == cursor.announced
            assert answers == self.inserted[who]
            assert records + gaps == self.ring.next_seq


TestSubscribers = Subscribers.TestCase


@given(data=st.data())
def test_a_chunk_knows_its_boundaries(data: st.DataObject) -> None:
    ring = Ring(10**9)
    chunk = ring.append(lines(0, data.draw(st.integers(1, 20))), 20)
    offset = data.draw(st.integers(1, len(chunk.data) - 1))
    assert chunk.boundary(offset) == chunk.data.index(b"\n", offset - 1) + 1
    assert chunk.whole_before(offset) == chunk.data[:offset].count(b"\n")
