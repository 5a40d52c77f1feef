# SPDX-License-Identifier: Apache-2.0
"""A state machine that drives a group of subscribers, and checks what its members receive."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from notif_relay import records
from notif_relayd.fanout.chunk import CHUNK_OVERHEAD
from notif_relayd.fanout.groups.division import Batch
from notif_relayd.fanout.groups.errors import GroupError
from notif_relayd.fanout.groups.group import Group
from notif_relayd.fanout.groups.hand_out import HandOut
from notif_relayd.fanout.groups.live_group import LiveGroup
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.membership import Membership, member_of
from notif_relayd.fanout.groups.run import SUSPECT_ATTEMPTS
from notif_relayd.fanout.groups.segment import MAX_SEGMENTS
from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.saved_state import ChunkState, FanoutState, MemberState
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.handover.state import State, decode, encode
from notif_relayd.ingest.saved_state import IntakeState
from notif_relayd.records.filters import UNFILTERED, Filter, View
from notif_relayd.records.selector import Selector
from support.group_reader import Reader, all_reported, append, key, number_of, record, select

MAX_MEMBERS = 5

KINDS = st.lists(st.sampled_from(["a", "b", "c", "gap", "unknown"]), min_size=1, max_size=6)
"""Event types of a batch."""

SHARES = st.one_of(st.just(1.0), st.floats(0, 1))
"""What a socket takes of what is sent to it."""

VIEWS = [
    UNFILTERED,
    *(View(Filter.parse({"event_type": [*types]})) for types in ("a", "b", "ab", "c")),
]


@settings(max_examples=200, stateful_step_count=60, deadline=None)
class Groups(RuleBasedStateMachine):
    """In any sequence of events, every record is finished, announced as missing, or still there.

    The first member stays, so that no record that it wants is skipped. If it has a filter, members
    with other filters let the group go on in another stream.
    """

    @initialize(
        limit=st.integers(min_value=2, max_value=20),
        view=st.sampled_from([VIEWS[0], VIEWS[3]]),
        window=st.one_of(st.none(), st.integers(1, 5)),
        max_deliveries=st.integers(1, 4),
        examined=st.sampled_from([4, 128]),
    )
    def start(
        self, limit: int, view: View, window: int | None, max_deliveries: int, examined: int
    ) -> None:
        self.max_deliveries = max_deliveries
        self.patches = [
            mock.patch("notif_relayd.fanout.ring.MIN_CHUNKS", 3),
            mock.patch("notif_relayd.fanout.groups.hand_out.MAX_EXAMINED", examined),
        ]
        for each in self.patches:
            each.start()
        self.store = Store(limit * (CHUNK_OVERHEAD + 200))
        self.streams: dict[frozenset[View], Stream] = {}
        self.kinds: dict[int, str] = {}
        """Event type of each record, by its number."""
        self.undeliverable: list[int] = []
        self.announced: Counter[str] = Counter()
        """Number of missing records, by reason. What a member that left did not finish does not
        count."""
        self.unknown = 0
        """Number of gap records of the relay without a number."""
        self.finished: set[int] = set()
        self.attempts: Counter[int] = Counter()
        """How many members left without finishing each record."""
        self.settled: set[int] = set()
        """Records that no member will get again."""
        self.redelivered = 0
        self.readers: dict[int, Reader] = {}
        self.next_id = 1
        self.view = view
        self.group = Group(self.max_deliveries, self.on_undeliverable, Selector())
        self.group.segments.follow(self.stream_of(frozenset([view])))
        self.add(view, window)

    def is_wanted(self, kind: str) -> bool:
        """Return whether the member that stays wants a record."""
        return self.view(key(kind))

    def on_undeliverable(self, lines: Iterator[bytes], count: int) -> None:
        before = len(self.undeliverable)
        for line in lines:
            number = number_of(line)
            assert number is not None
            attempts = self.attempts[number]
            assert self.max_deliveries <= attempts <= max(2, self.max_deliveries)
            self.undeliverable.append(number)
        assert len(self.undeliverable) - before == count

    def stream_of(self, views: frozenset[View]) -> Stream:
        if UNFILTERED in views:
            views = frozenset([UNFILTERED])
        return self.streams.setdefault(views, Stream(views, self.store))

    def add(self, view: View, window: int | None) -> None:
        member = Member(view, window)
        self.group.join(self.next_id, member)
        self.readers[self.next_id] = Reader(member)
        self.next_id += 1

    @rule(kinds=KINDS)
    def publish(self, kinds: list[str]) -> None:
        self.append(*self.select(kinds))

    def select(self, kinds: list[str]) -> tuple[Batch, dict[Stream, Batch]]:
        """Return a new batch: the part that the group reads, and those of all streams."""
        batch = []
        for kind in kinds:
            number = len(self.kinds)
            self.kinds[number] = kind
            batch.append((record(number, kind), kind))
        parts = {stream: select(stream, batch) for stream in self.streams.values()}
        return parts[self.group.segments.last.stream], parts

    def append(self, part: Batch, parts: dict[Stream, Batch], *, finished: bool = False) -> Batch:
        """Publish a batch, which the rings keep unless the group has finished it."""
        if not finished:
            self.group.segments.keep()
        for stream, each in parts.items():
            append(stream, each)
        return part

    @rule(kinds=KINDS, absent=st.sets(st.integers(1, 20)), share=SHARES)
    def divide(self, kinds: list[str], absent: set[int], share: float) -> None:
        """Publish a batch and divide it among the members that are not absent."""
        batch = self.append(*self.select(kinds))
        ready = {
            reader.member: reader
            for number, reader in self.readers.items()
            if number not in absent and reader.member.room > 0
        }
        if len(batch):
            for member, hand_out in self.group.divide(ready, batch):
                self.send(ready[member], hand_out, share)

    @rule(kinds=KINDS, index=st.integers(0, 4), share=SHARES)
    def send_direct(self, kinds: list[str], index: int, share: float) -> None:
        """Publish a batch and send it to one member directly, if it can get all of it."""
        reader = self.reader_of(index)
        member = reader.member
        batch, parts = self.select(kinds)
        if not 0 < len(batch) <= self.group.direct_room(member, batch):
            self.append(batch, parts)
            return
        self.append(batch, parts, finished=share == 1.0 and member.window is None)
        if share == 1.0:
            self.group.note_direct(member, len(batch))
            reader.wire += batch.data
            self.read(reader)
        else:
            hand_out = self.group.take(member, direct=True)
            assert hand_out is not None
            assert b"".join(hand_out.data) == batch.data
            self.send(reader, hand_out, share)

    @rule(
        view=st.sampled_from(VIEWS), window=st.one_of(st.none(), st.integers(1, 5), st.just(65536))
    )
    def join(self, view: View, window: int | None) -> None:
        if len(self.readers) == MAX_MEMBERS:
            return
        views = self.group.views | {view}
        if (
            view not in self.group.segments.last.stream.views
            and UNFILTERED not in self.group.segments.last.stream.views
        ):
            try:
                self.group.segments.follow(self.stream_of(views))
                self.group.segments.forget_finished()
            except GroupError:
                assert len(self.group.segments.streams) == MAX_SEGMENTS
                return
        self.add(view, window)

    @precondition(lambda self: len(self.readers) > 1)
    @rule(index=st.integers(0, 3), completing=st.booleans())
    def leave(self, index: int, completing: bool) -> None:
        numbers = sorted(self.readers)[1:]
        number = numbers[index % len(numbers)]
        reader = self.readers.pop(number)
        if completing:
            reader.wire += reader.owed
            self.read(reader)
        self.attempts.update(() if completing else reader.begun)
        for each in reader.unfinished:
            if isinstance(each, int):
                self.attempts[each] += 1
            else:
                self.announce(*each, times=-1)
        self.group.note_progress(reader.member, 0 if completing else reader.owed.count(b"\n"))
        self.group.leave(number)

    @precondition(lambda self: len(self.readers) < MAX_MEMBERS)
    @rule(
        view=st.one_of(st.none(), st.sampled_from(VIEWS)),
        window=st.one_of(st.none(), st.integers(1, 20)),
        share=SHARES,
        completing=st.booleans(),
    )
    def fail(self, view: View | None, window: int | None, share: float, completing: bool) -> None:
        """Let a member join, get records and leave."""
        self.join(view or self.view, window)
        self.serve(len(self.readers) - 1, share)
        if len(self.readers) > 1:
            self.leave(len(self.readers) - 2, completing)

    @rule(index=st.integers(0, 4), share=SHARES)
    def serve(self, index: int, share: float) -> None:
        """Send to a member, whose socket takes a share of it."""
        reader = self.reader_of(index)
        if reader.owed:
            size = int(len(reader.owed) * share)
            reader.wire += reader.owed[:size]
            reader.owed = reader.owed[size:]
            if not reader.owed:
                self.group.note_progress(reader.member, 0)
        else:
            hand_out = self.group.take(reader.member)
            if hand_out is None:
                return
            self.send(reader, hand_out, share)
        self.read(reader)

    def send(self, reader: Reader, hand_out: HandOut, share: float) -> None:
        """Send a hand-out to a member, whose socket takes a share of it."""
        data = b"".join((hand_out.head, *hand_out.data))
        size = int(len(data) * share)
        if size and hand_out.head and hand_out.runs:
            self.redelivered += sum(each.length for each in hand_out.runs)
        reader.wire += data[:size]
        reader.owed = self.group.note_sent(reader.member, hand_out, size)
        assert data[size:].startswith(reader.owed)
        if hand_out.is_part:
            # Other members may have got later records, so these are marked.
            for line in data[size + len(reader.owed) :].splitlines():
                number = number_of(line)
                assert number is not None
                self.attempts[number] = max(1, self.attempts[number])
        self.read(reader)

    @rule(index=st.integers(0, 4), count=st.integers(0, 8))
    def finish(self, index: int, count: int) -> None:
        reader = self.reader_of(index)
        member = reader.member
        count += member.finished
        self.group.note_progress(member, reader.owed.count(b"\n"))
        if member.window is None or count > member.sent:
            try:
                member.finish(count)
            except GroupError:
                return
            raise AssertionError("accepted")
        member.finish(count)
        self.settle(*(each for each in reader.counted[:count] if isinstance(each, int)))

    @rule()
    def restart(self) -> None:
        """Save everything, and go on with what is restored."""
        streams = list(self.streams.values())
        numbers = {stream: number for number, stream in enumerate(streams)}
        rings = {stream.ring: number for stream, number in numbers.items()}
        fanout = FanoutState(
            *(0, 0, 0, 0),
            [each.save() for each in streams],
            [ChunkState(rings[ring], chunk.data, chunk.count) for chunk, ring in self.store],
            [],
            groups=[self.group.save(0, "g", None, numbers, "")],
            absent=[self.save_member(each) for each in self.readers.values()],
        )
        state = State(1, IntakeState(0, 0, {}, []), fanout)
        self.restore(decode(b"".join(encode(state))).fanout)

    def save_member(self, reader: Reader) -> MemberState:
        stream = Stream(frozenset([reader.member.view]), Store(1))
        live = LiveGroup((0, "g"), self.group, "")
        membership = Membership(live, 1, reader.member, stream, owner=1, charge=0)
        if reader.owed:
            membership.fall_behind().send_first(reader.owed)
        return membership.save_member()

    def restore(self, saved: FanoutState) -> None:
        self.store = Store(self.store.limit)
        streams = [Stream(each.views(), self.store) for each in saved.streams]
        for stream, each in zip(streams, saved.streams, strict=True):
            stream.ring.restore(each.next_seq)
        self.store.restore([(streams[c.stream].ring, c.data, c.count) for c in saved.chunks])
        self.group = Group(self.max_deliveries, self.on_undeliverable, Selector())
        self.group.restore(saved.groups[0], dict(enumerate(streams)))
        self.streams = {stream.views: stream for stream in streams}
        for (number, reader), member in zip(self.readers.items(), saved.absent, strict=True):
            reader.member = member_of(member)
            self.group.join(number, reader.member)

    def reader_of(self, index: int) -> Reader:
        return self.readers[sorted(self.readers)[index % len(self.readers)]]

    def read(self, reader: Reader) -> None:
        """Check what a member received since the last call."""
        lines = reader.wire.split(b"\n")[:-1]
        for line in lines[reader.seen :]:
            content = json.loads(line)
            event_type, payload = content["event_type"], content["payload"]
            if event_type == records.REDELIVERED:
                assert reader.announced == 0
                reader.announced = payload["records"]
            elif "number" not in content:
                assert reader.announced == 0
                assert event_type == records.GAP
                self.announce(payload["reason"], payload["dropped"])
                if reader.member.window is not None:
                    reader.counted.append((payload["reason"], payload["dropped"]))
            else:
                number = content["number"]
                assert reader.member.view((event_type, "INFO", ""))
                assert number not in self.undeliverable
                self.check_marker(reader, number)
                reader.got.append(number)
                if reader.member.window is None:
                    self.settle(number)
                else:
                    reader.counted.append(number)
        reader.seen = len(lines)

    def announce(self, reason: str, dropped: int | None, times: int = 1) -> None:
        """Note that a gap record of the relay was received, or is to be announced again."""
        if dropped is None:
            self.unknown += times
        else:
            self.announced[reason] += dropped * times

    def settle(self, *numbers: int) -> None:
        """Note that notifications are finished."""
        self.finished.update(numbers)
        self.settled.update(numbers)

    def check_marker(self, reader: Reader, number: int) -> None:
        """Check that a record is marked if it was sent before, and in order otherwise."""
        attempts = self.attempts[number]
        assert number not in self.settled
        # A record that is marked without an earlier delivery has one attempt, and is delivered.
        assert attempts < max(2, self.max_deliveries)
        assert (attempts > 0) == (reader.announced > 0)
        # What may have made members fail is handed out alone.
        unfinished = [each for each in reader.unfinished if isinstance(each, int)]
        assert not any(self.attempts[each] >= SUSPECT_ATTEMPTS for each in unfinished)
        if not attempts:
            assert number > reader.last
            reader.last = number
            return
        reader.announced -= 1
        if attempts >= SUSPECT_ATTEMPTS:
            assert not reader.announced
            assert not reader.unfinished

    @invariant()
    @precondition(lambda self: hasattr(self, "group"))
    def windows_hold(self) -> None:
        for reader in self.readers.values():
            member = reader.member
            self.group.note_progress(member, reader.owed.count(b"\n"))
            taken = sum(each.length for each in member.unfinished)
            assert member.unfinished_count == taken + len(member.gaps)
            assert not (reader.owed and self.group.has_work_for(member))
            assert len(reader.unfinished) == member.unfinished_count
            self.group.rest()
            assert member.window is None or member.unfinished_count <= member.window
        known, unknown = all_reported(self.undeliverable, self.kinds)
        assert self.announced["undeliverable"] <= known
        assert self.unknown <= unknown
        lost = self.group.dropped - len(self.undeliverable)
        assert self.announced["slow_subscriber"] <= lost
        assert self.redelivered == self.group.redelivered

    @invariant()
    @precondition(lambda self: hasattr(self, "group"))
    def every_record_is_in_one_place(self) -> None:
        members = [each.member for each in self.readers.values()]
        for each in self.readers.values():
            self.group.note_progress(each.member, each.owed.count(b"\n"))
        taken = sum(run.length for each in members for run in (*each.unfinished, *each.unsent))
        found = len(self.settled) + taken + self.group.lag + self.group.dropped
        if self.view.is_unfiltered:
            assert found == len(self.kinds)
        else:
            assert found <= len(self.kinds)

    def teardown(self) -> None:
        if hasattr(self, "group"):
            for each in self.patches:
                each.stop()
            self.finish_everything()

    def drain(self) -> None:
        """Let the members get and finish all that they can get."""
        for _ in range(200 * (1 + len(self.kinds))):
            before = self.group.lag, self.group.unfinished
            for index in range(len(self.readers)):
                self.serve(index, 1.0)
                self.finish(index, self.reader_of(index).member.unfinished_count)
            if not any(self.group.has_work_for(each.member) for each in self.readers.values()) and (
                not any(each.owed for each in self.readers.values())
            ):
                break
        else:
            raise AssertionError(f"does not end: {before}")

    def finish_everything(self) -> None:
        """Let the members get and finish all that they can get; check that nothing is left."""
        self.drain()
        known, unknown = all_reported(self.undeliverable, self.kinds)
        dropped = self.group.dropped
        lost = dropped - len(self.undeliverable)
        missing = {"slow_subscriber": lost, "undeliverable": known}
        if +Counter(missing) != +self.announced or min(unknown, 1) > self.unknown:
            # Members have not finished gap records. The next loss announces their numbers again.
            self.group.note_lost(1)
            self.announced["slow_subscriber"] -= 1
            self.drain()
        assert self.group.lag == self.group.unfinished == 0
        self.group.segments.forget_finished()
        assert len(self.group.segments.streams) == 1
        wanted = {number for number, kind in self.kinds.items() if self.is_wanted(kind)}
        not_got = len(wanted - self.settled)
        assert not_got <= dropped <= len(self.kinds) - len(self.settled)
        assert +self.announced == +Counter(missing)
        assert min(unknown, 1) <= self.unknown <= unknown
        assert not self.finished & set(self.undeliverable)
        self.group.segments.release()
        assert self.store.size == 0
