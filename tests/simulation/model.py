# SPDX-License-Identifier: Apache-2.0
"""What a relay in a simulation has to do, worked out from what went in, and compared with what
comes out.

It knows which lines are records because it has them made, and it sees each byte that the relay
takes and gives. So there is one sequence of records, in the order in which the relay read their
ends, and each subscriber's stream is that sequence from some place on, less what its filter holds
back, less what a gap record stands for. A byte that does not fit in is found where it is sent.

Where the relay may decide by itself, all that is right is carried along: a connection joins the
sequence somewhere in the turn in which it is accepted, and so does a filter that is asked for.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import dataclass

from simulation.kernel import End

FILTERS: list[dict[str, list[str]]] = [
    {},
    {"event_type": ["a.*"]},
    {"event_type": ["b.*"], "priority": ["info"]},
    {"event_type": ["*.x"], "publisher_id": ["p1"]},
]
KINDS = [
    {"event_type": "a.x", "priority": "INFO", "publisher_id": "p1"},
    {"event_type": "a.y", "priority": "WARN", "publisher_id": "p2"},
    {"event_type": "b.x", "priority": "INFO", "publisher_id": "p1"},
    {"event_type": "b.y", "priority": "ERROR"},
    {
        "event_type": "notif_relayd.gap",
        "priority": "WARN",
        "payload": {"dropped": 1, "reason": "producer_congested"},
    },
]
PASSING = [{0, 1, 2, 3, 4}, {0, 1, 4}, {2, 4}, {0, 2, 4}]
"""For each filter, the routing_keys that it lets through, written down and not computed."""


class WrongError(AssertionError):
    """The relay has done what it must not."""


def check(holds: object, otherwise: object) -> None:
    if not holds:
        raise WrongError(otherwise)


@dataclass
class Asked:
    """A request on its way to the relay."""

    wanted: int | None
    """The filter; `None` where the relay must refuse it."""
    since: int = -1
    """Where in the sequence it can be in force at the earliest, once the relay has it."""
    until: int | None = None
    """And at the latest, where no other has to be answered before."""


@dataclass
class Reader:
    """What the relay gives to one subscriber."""

    places: set[int]
    """Where in the sequence it may be."""
    asked: deque[Asked]
    """What it has asked and was not answered."""
    wanted: int = 0
    delivered: int = 0
    dropped: int = 0
    bytes: int = 0
    ended: bool = False
    """It was told of an error: nothing may follow."""
    crashed_at: int | None = None
    """Where the sequence was when a relay was last killed."""
    kept: int | None = None
    """The filter that was kept for it then, and that it has not been told of again."""
    filter_lost: bool = False
    """The relay that was killed had answered its request, and did not store it."""
    restarting: bool = False
    """A relay was killed and it has not been told yet."""
    unfinished: bytes | None = None
    """What it had of a line then, until the newline that the next relay sends first."""
    request: bytes = b""
    partial: bytes = b""


class Reckoning:
    """The books of one simulation.

    Args:
        limit: bytes of the longest record.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kinds: list[int] = []
        self._index: dict[bytes, int] = {}
        self._made: dict[bytes, int] = {}
        self._numbers = itertools.count()
        self._parts: dict[End, bytearray] = {}
        self.readers: dict[End, Reader] = {}
        self._asked: dict[End, deque[Asked]] = {}
        self.turn_began = 0
        self.delivered_ever = 0
        self.received = 0
        self.rejected = 0
        self.bytes_received = 0
        self.delivered_before = 0
        """To those who are gone."""
        self.uncertain = 0
        """Records that went out in part, to those who are gone, and may count as delivered."""

    def make(self, kind: int, padding: int) -> bytes:
        """A new record that is one of a kind."""
        number = next(self._numbers)
        content = {"message_id": number, "pad": "é\n" * padding, **KINDS[kind]}
        line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        if len(line) <= self._limit:
            self._made[line] = kind
        return line

    def new_turn(self) -> None:
        """All that was read so far has gone on."""
        self.turn_began = len(self._kinds)

    # The way in.

    @property
    def producers(self) -> int:
        return len(self._parts)

    def is_producer(self, end: End) -> bool:
        return end in self._parts

    def producer_came(self, end: End) -> None:
        self._parts[end] = bytearray()

    def take(self, end: End, data: bytes) -> None:
        """The relay has read `data` from a producer."""
        self.bytes_received += len(data)
        part = self._parts[end]
        part += data
        *lines, rest = bytes(part).split(b"\n")
        for each in lines:
            line = each + b"\n"
            if line in self._made:
                check(line not in self._index, "the simulation has sent a record twice")
                self._index[line] = len(self._kinds)
                self._kinds.append(self._made[line])
                self.received += 1
            else:
                self.rejected += 1
        part[:] = rest

    def producer_went(self, end: End) -> None:
        """The relay has ended a connection; or, started again, has not found it."""
        self.rejected += bool(self._parts.pop(end))

    @property
    def rejected_now(self) -> int:
        """Lines refused, those among them whose end is not to be seen yet."""
        return self.rejected + sum(len(part) >= self._limit for part in self._parts.values())

    # The way out.

    def subscriber_came(self, end: End, asked: deque[Asked]) -> None:
        """It shares with the relay's client what that has asked and was not answered."""
        self._asked[end] = asked
        self.readers[end] = Reader(set(range(self.turn_began, len(self._kinds) + 1)), asked)

    def ask(self, end: End, data: bytes) -> None:
        """The relay has read `data` from a subscriber."""
        reader = self.readers[end]
        *lines, reader.request = (reader.request + data).split(b"\n")
        for _, each in zip(lines, [a for a in reader.asked if a.since < 0], strict=False):
            each.since = self.turn_began
            if each is reader.asked[0]:
                each.until = len(self._kinds)

    def give(self, end: End, data: bytes) -> None:
        """The relay has written `data` to a subscriber."""
        reader = self.readers[end]
        reader.bytes += len(data)
        *lines, reader.partial = (reader.partial + data).split(b"\n")
        for each in lines:
            self._read(reader, each + b"\n")

    def subscriber_went(self, end: End) -> None:
        if end in self.readers:
            reader = self.readers.pop(end)
            self.delivered_before += reader.delivered
            self.uncertain += bool(reader.partial)

    @property
    def delivered(self) -> int:
        """Whole records, to all who were there since the relay has counted."""
        return self.delivered_before + sum(each.delivered for each in self.readers.values())

    def expect_end(self, reader: Reader) -> None:
        """All that was read has gone out to it."""
        behind = [self._next(place, reader.wanted) for place in reader.places]
        check(
            reader.ended or None in behind,
            f"{reader} lacks records of the {len(self._kinds)} that there were",
        )
        check(not reader.partial, f"{reader.partial!r} has no end")
        check(not reader.restarting, f"{reader} was not told of a restart")
        check(reader.ended or not [a for a in reader.asked if a.since >= 0], "no answer")

    # Ends of processes.

    def killed(self, kept: dict[End, int], up_to_date: bool, interrupted: set[End]) -> None:
        """The relay was killed; `kept` has the filters that were in the store."""
        for part in self._parts.values():
            part.clear()
        self.received = self.rejected = self.bytes_received = 0
        self.delivered_before = self.uncertain = 0
        self.new_turn()
        for end, reader in self.readers.items():
            if reader.unfinished is None:
                self._end_line(reader)
            if end in kept and up_to_date and reader.kept is None:
                latest = [reader.wanted, *(each.wanted for each in reader.asked if each.since >= 0)]
                check(kept[end] in latest, f"{kept[end]} was kept, but it had {latest}")
            reader.request = b""
            reader.delivered = reader.dropped = reader.bytes = 0
            reader.ended, reader.restarting = False, True
            self._unread(end)
            reader.crashed_at, reader.kept = len(self._kinds), kept.get(end)
            stored = end in kept or end in interrupted
            reader.filter_lost = up_to_date and reader.wanted != 0 and not stored

    def _end_line(self, reader: Reader) -> None:
        """The next relay's newline ends what it has of a line, and none of it is the next one's.

        Where that newline is all that the line lacks, it is one that the relay that was killed
        has written, and must be right by what that relay knew.
        """
        try:
            json.loads(reader.partial)
        except ValueError:
            pass
        else:
            self._read(reader, reader.partial + b"\n")
        reader.unfinished = reader.partial

    def _unread(self, end: End) -> deque[Asked]:
        """What it has asked that no relay has read; the rest nobody knows of any more."""
        asked = self._asked[end]
        while asked and asked[0].since >= 0:
            asked.popleft()
        return asked

    def keep_only(self, producers: list[End], subscribers: list[End], kept: dict[End, int]) -> None:
        """Other connections have ended with the process.

        One that a relay had ended, and was killed before it had told the service manager, is
        there again, with what was not read of it.
        """
        for end in self._parts.keys() - set(producers):
            self.producer_went(end)
        for end in self.readers.keys() - set(subscribers):
            self.subscriber_went(end)
        for end in producers:
            self._parts.setdefault(end, bytearray())
        for end in subscribers:
            lost = end in self.readers and self.readers[end].filter_lost
            check(not lost, "a connection was stored without its filter")
            if end not in self.readers:
                self.readers[end] = Reader(
                    {0},
                    self._unread(end),
                    restarting=True,
                    unfinished=b"",
                    crashed_at=len(self._kinds),
                    kept=kept.get(end),
                )

    def _read(self, reader: Reader, line: bytes) -> None:
        check(not reader.ended, f"{line!r} after the end")
        if reader.unfinished is not None:
            check(line == reader.unfinished + b"\n", f"{line!r} goes on where a relay was killed")
            reader.unfinished = None
            return
        if line in self._index:
            check(not reader.restarting, f"{line!r} before word of a restart")
            self._deliver(reader, self._index[line], line)
            return
        try:
            notification = json.loads(line)
            event_type, payload = notification["event_type"], notification["payload"]
        except (ValueError, KeyError):
            raise WrongError(f"{line!r} is no record") from None
        if event_type == "notif_relayd.gap" and payload["reason"] == "relay_restarted":
            self._restart(reader)
            return
        check(not reader.restarting, f"{line!r} before word of a restart")
        if event_type == "notif_relayd.gap":
            check(payload["reason"] == "slow_subscriber", line)
            self._drop(reader, payload["dropped"])
        elif event_type == "notif_relayd.subscribed":
            self._change(reader, payload)
        else:
            check(event_type == "notif_relayd.error", f"{line!r} was never sent")
            refused = any(each.wanted is None and each.since >= 0 for each in reader.asked)
            full = payload.startswith("This relay takes no more")
            # The first part of a request may have been read by a relay that was killed.
            torn = reader.crashed_at is not None
            check(refused or full or torn, f"{line!r} for no reason")
            reader.ended = True

    def _deliver(self, reader: Reader, index: int, line: bytes) -> None:
        fitting = [
            place
            for place in reader.places
            if place <= index and self._next(place, reader.wanted) == index
        ]
        check(reader.kept is None, f"{line!r} before the filter that was kept is in force")
        check(fitting, f"{line!r}, number {index}, does not come next: {reader}")
        self.delivered_ever += 1
        reader.places = {index + 1}
        reader.delivered += 1

    def _drop(self, reader: Reader, number: int) -> None:
        check(number > 0, f"a gap of {number}")
        places = set()
        for start in reader.places:
            place: int | None = start
            for _ in range(number):
                place = None if place is None else self._next(place, reader.wanted)
                place = None if place is None else place + 1
            if place is not None:
                places.add(place)
        check(places, f"a gap of {number} is more than there was: {reader}")
        reader.places = places
        reader.dropped += number

    def _change(self, reader: Reader, patterns: dict[str, list[str]]) -> None:
        wanted = FILTERS.index(patterns)
        if reader.kept is not None:
            check(wanted == reader.kept, f"{patterns} is not what was asked for last")
            reader.wanted, reader.kept = wanted, None
            return
        asked = next((a for a in reader.asked if a.since >= 0), None)
        check(asked is not None and asked.wanted == wanted, f"nobody has asked for {patterns}")
        assert asked is not None
        reader.asked.remove(asked)
        last = len(self._kinds) if asked.until is None else asked.until
        reader.places = {
            place
            for place in range(max(asked.since, min(reader.places)), last + 1)
            if any(self._may_skip(start, place, reader.wanted) for start in reader.places)
        }
        check(reader.places, "a filter is in force before what came first has gone out")
        reader.wanted = wanted

    def _restart(self, reader: Reader) -> None:
        check(
            reader.restarting and reader.crashed_at is not None, "word of a restart that was none"
        )
        assert reader.crashed_at is not None
        reader.places = {reader.crashed_at}
        reader.wanted = 0
        reader.restarting = False

    def _may_skip(self, start: int, place: int, wanted: int) -> bool:
        """Whether none of the records between the two passes the filter."""
        following = self._next(start, wanted)
        return start <= place and (following is None or following >= place)

    def _next(self, place: int, wanted: int) -> int | None:
        """The first record from a place on that a filter lets through."""
        passing = PASSING[wanted]
        return next((n for n in range(place, len(self._kinds)) if self._kinds[n] in passing), None)
