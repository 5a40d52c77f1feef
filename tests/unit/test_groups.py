# SPDX-License-Identifier: Apache-2.0
"""A group hands each record to exactly one member, or announces it as missing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from notif_relay import records
from notif_relayd.fanout.chunk import CHUNK_OVERHEAD
from notif_relayd.fanout.groups.errors import GroupError
from notif_relayd.fanout.groups.group import Group
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.segment import MAX_SEGMENTS
from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.records.filters import UNFILTERED, Filter, View

MAX_DELIVERIES = 3

VIEWS = [
    UNFILTERED,
    View(Filter.parse({"event_type": ["a"]})),
    View(Filter.parse({"event_type": ["b"]})),
    View(Filter.parse({"event_type": ["a", "b"]})),
]


def record(number: int, event_type: str) -> bytes:
    """Return a notification with a number; a gap record for the event type "gap"."""
    if event_type == "gap":
        return records.gap(number, "producer_congested")
    return b'{"event_type": "%s", "priority": "INFO", "payload": %d}\n' % (
        event_type.encode(),
        number,
    )


def publish(stream: Stream, batch: list[tuple[bytes, str]]) -> None:
    """Append to a stream the records that belong to it."""
    some = [
        data
        for data, event_type in batch
        if any(
            view((records.GAP if event_type == "gap" else event_type, "INFO", ""))
            for view in stream.views
        )
    ]
    if not stream.ring.places:
        stream.ring.skip(len(some))
    elif some:
        stream.ring.append(b"".join(some), len(some))


@dataclass
class Reader:
    """A member, and what its socket took."""

    member: Member
    wire: bytes = b""
    owed: bytes = b""
    """Bytes that must be sent to it next."""
    seen: int = 0
    """Lines of the wire that were checked."""
    announced: int = 0
    """Records that the last marker announces and that were not received yet."""
    got: list[int] = field(default_factory=list)
    """Numbers of the notifications that it received."""
    last: int = -1
    """Number of the last notification that was not redelivered."""

    @property
    def unfinished(self) -> list[int]:
        """Numbers of the notifications that it has not finished."""
        return [] if self.member.window is None else self.got[self.member.finished :]

    @property
    def begun(self) -> set[int]:
        """Number of the notification that it may have received in part, if any."""
        lines = self.owed.splitlines()
        if not lines:
            return set()
        content = json.loads(self.wire.rpartition(b"\n")[2] + lines[0])
        payload = content["payload"]
        if content["event_type"] == records.GAP and payload["reason"] == "producer_congested":
            return {payload["dropped"]}
        return {payload} if isinstance(payload, int) else set()


@settings(max_examples=300, stateful_step_count=60, deadline=None)
class Groups(RuleBasedStateMachine):
    """In any sequence of events, every record is finished, announced as missing, or still there.

    The first member stays, so that no record that it wants is skipped. If it has a filter, members
    with other filters let the group go on in another stream.
    """

    @initialize(
        limit=st.integers(min_value=2, max_value=20),
        view=st.sampled_from([VIEWS[0], VIEWS[3]]),
        window=st.one_of(st.none(), st.integers(1, 5)),
    )
    def start(self, limit: int, view: View, window: int | None) -> None:
        self.store = Store(limit * (CHUNK_OVERHEAD + 200))
        self.streams: dict[frozenset[View], Stream] = {}
        self.kinds: dict[int, str] = {}
        """Event type of each record, by its number."""
        self.undeliverable: list[int] = []
        self.announced: Counter[str] = Counter()
        """Number of missing records, by reason."""
        self.received: Counter[int] = Counter()
        """How many members received each notification completely."""
        self.finished: set[int] = set()
        self.returned: set[int] = set()
        """Notifications that a member got and did not finish."""
        self.gaps = 0
        """Gap records of producers that were received."""
        self.readers: dict[int, Reader] = {}
        self.next_id = 1
        self.view = view
        self.group = Group(MAX_DELIVERIES, self.on_undeliverable)
        self.group.segments.follow(self.stream_of(frozenset([view])))
        self.add(view, window)

    def on_undeliverable(self, line: bytes) -> None:
        self.undeliverable.append(json.loads(line)["payload"])

    def stream_of(self, views: frozenset[View]) -> Stream:
        if UNFILTERED in views:
            views = frozenset([UNFILTERED])
        return self.streams.setdefault(views, Stream(views, self.store))

    def add(self, view: View, window: int | None) -> None:
        member = Member(view, window)
        self.group.join(self.next_id, member)
        self.readers[self.next_id] = Reader(member)
        self.next_id += 1

    @rule(kinds=st.lists(st.sampled_from(["a", "b", "c", "gap"]), min_size=1, max_size=6))
    def publish(self, kinds: list[str]) -> None:
        batch = []
        for kind in kinds:
            number = len(self.kinds)
            self.kinds[number] = kind
            batch.append((record(number, kind), kind))
        for stream in self.streams.values():
            publish(stream, batch)

    @rule(
        view=st.sampled_from(VIEWS), window=st.one_of(st.none(), st.integers(1, 5), st.just(65536))
    )
    def join(self, view: View, window: int | None) -> None:
        if len(self.readers) == 5:
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

    @rule(index=st.integers(1, 4), completing=st.booleans())
    def leave(self, index: int, completing: bool) -> None:
        number = self.number_of(index)
        if number is None:
            return
        reader = self.readers.pop(number)
        if completing:
            reader.wire += reader.owed
            self.read(reader)
            self.returned |= set(reader.unfinished)
        else:
            self.returned |= set(reader.unfinished) | reader.begun
        self.group.note_progress(reader.member, 0 if completing else reader.owed.count(b"\n"))
        self.group.leave(number)

    @rule(index=st.integers(0, 4), share=st.one_of(st.just(1.0), st.floats(0, 1)))
    def serve(self, index: int, share: float) -> None:
        """Send to a member, whose socket takes a share of it."""
        number = self.number_of(index)
        if number is None:
            return
        reader = self.readers[number]
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
            data = b"".join((hand_out.head, *hand_out.data))
            size = int(len(data) * share)
            reader.wire += data[:size]
            reader.owed = self.group.note_sent(reader.member, hand_out, size)
            assert data[size:].startswith(reader.owed)
        self.read(reader)

    @rule(index=st.integers(0, 4), count=st.integers(0, 8))
    def finish(self, index: int, count: int) -> None:
        number = self.number_of(index)
        if number is None:
            return
        reader = self.readers[number]
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
        self.finished.update(reader.got[:count])

    def number_of(self, index: int) -> int | None:
        numbers = sorted(self.readers)
        return numbers[index] if index < len(numbers) else None

    def read(self, reader: Reader) -> None:
        """Check what a member received since the last call."""
        lines = reader.wire.split(b"\n")[:-1]
        for line in lines[reader.seen :]:
            content = json.loads(line)
            event_type, payload = content["event_type"], content["payload"]
            if event_type == records.REDELIVERED:
                assert reader.announced == 0
                reader.announced = payload["records"]
            elif event_type == records.GAP and payload["reason"] == "producer_congested":
                self.check_marker(reader, payload["dropped"])
                self.gaps += 1
            elif event_type == records.GAP:
                assert reader.announced == 0
                self.announced[payload["reason"]] += payload["dropped"]
            else:
                assert reader.member.view((event_type, "INFO", ""))
                assert payload not in self.finished
                assert payload not in self.undeliverable
                self.check_marker(reader, payload)
                reader.got.append(payload)
                self.received[payload] += 1
                assert self.received[payload] <= MAX_DELIVERIES
        reader.seen = len(lines)
        if reader.member.window is None:
            self.finished.update(reader.got)

    def check_marker(self, reader: Reader, number: int) -> None:
        """Check that a record is marked if it was sent before, and in order otherwise."""
        assert (number in self.returned) == (reader.announced > 0)
        if reader.announced:
            reader.announced -= 1
        else:
            assert number > reader.last
            reader.last = number

    @invariant()
    @precondition(lambda self: hasattr(self, "group"))
    def windows_hold(self) -> None:
        for reader in self.readers.values():
            member = reader.member
            assert member.unfinished_count == sum(each.length for each in member.unfinished)
            if member.window is None:
                assert not member.unfinished
            else:
                assert member.unfinished_count <= member.window
                assert member.sent <= len(reader.got)
                assert reader.owed or member.sent == len(reader.got)
        assert len(self.undeliverable) >= self.announced["undeliverable"]

    def teardown(self) -> None:
        if not hasattr(self, "group"):
            return
        for _ in range(200 * (1 + len(self.kinds))):
            before = self.group.lag, self.group.unfinished
            for index in range(len(self.readers)):
                self.serve(index, 1.0)
                reader = self.readers[sorted(self.readers)[index]]
                if reader.member.window is not None:
                    self.finish(index, reader.member.sent - reader.member.finished)
            if not any(self.group.has_work_for(each.member) for each in self.readers.values()) and (
                not any(each.owed for each in self.readers.values())
            ):
                break
        else:
            raise AssertionError(f"does not end: {before}")
        assert self.group.lag == self.group.unfinished == 0
        self.group.segments.forget_finished()
        assert len(self.group.segments.streams) == 1
        wanted = {
            number
            for number, kind in self.kinds.items()
            if kind != "gap" and self.view((kind, "INFO", ""))
        }
        gaps = sum(kind == "gap" for kind in self.kinds.values()) - self.gaps
        missing = len(wanted - self.finished) + gaps
        others = len(self.kinds) - len(wanted) - gaps - self.gaps
        assert sum(self.announced.values()) == self.group.dropped
        assert missing <= self.group.dropped <= missing + others
        assert self.announced["undeliverable"] == len(self.undeliverable)
        assert not self.finished & set(self.undeliverable)
        self.group.segments.release()
        assert self.store.size == 0


TestGroups = Groups.TestCase
