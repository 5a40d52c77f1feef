# SPDX-License-Identifier: Apache-2.0
"""The model: what the relay must do with the input that it got, compared with its output.

The model knows which lines are valid records because it makes them, and it observes every byte that
the relay reads and writes. There is one sequence of records, in the order in which the relay read
their ends. What a subscriber receives is this sequence from some index on, without the records
that its filter excludes and those that a gap record stands for. A wrong byte is found when it is
sent. `group_model` has the rules for members of groups.

Where the relay has a choice, the model keeps all allowed possibilities: a new connection, or a
requested filter, may join the sequence at any record of the iteration in which it is accepted.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable

from simulation.group_model import Groups
from simulation.kernel import Endpoint
from simulation.reader import TOO_MANY, Reader, Request
from simulation.vocabulary import MATCHING, TEMPLATES, ModelError, Wanted, check


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class Model:
    """The expected state of a simulation.

    Args:
        max_record_size: bytes, the newline included.
        now: returns the time.
    """

    def __init__(self, max_record_size: int, now: Callable[[], float]) -> None:
        self._max_record_size = max_record_size
        self._sequence: list[int] = []
        """For each record, the index of its template."""
        self._index: dict[bytes, int] = {}
        """By record: its index in the sequence."""
        self._made: dict[bytes, int] = {}
        """By valid record: the index of its template."""
        self._numbers = itertools.count()
        self._partial: dict[Endpoint, bytearray] = {}
        """By producer: its partial line."""
        self.readers: dict[Endpoint, Reader] = {}
        self.groups = Groups(self._sequence, now)
        self._requests: dict[Endpoint, deque[Request]] = {}
        self._iteration_start = 0
        """Length of the sequence when the iteration began."""
        self.delivered_ever = 0
        """Records that subscribers of all processes received."""
        self.received = 0
        self.rejected = 0
        self.bytes_received = 0
        self._delivered_before = 0
        """Records that subscribers which have ended received."""
        self.uncertain = 0
        """Records that such subscribers received in part; the relay may count them as delivered."""

    def make(self, template: int, padding: int) -> bytes:
        """Return a new record, which may be too long.

        Args:
            template: index of the template.
            padding: number of further characters.
        """
        number = next(self._numbers)
        content = {"message_id": number, "pad": "é\n" * padding, **TEMPLATES[template]}
        line = json.dumps(content, ensure_ascii=False).encode() + b"\n"
        if len(line) <= self._max_record_size:
            self._made[line] = template
        return line

    def start_iteration(self) -> None:
        """Note that all records which were read have been published."""
        self._iteration_start = len(self._sequence)

    # Producers.

    @property
    def producers(self) -> int:
        return len(self._partial)

    def is_producer(self, end: Endpoint) -> bool:
        return end in self._partial

    def producer_accepted(self, end: Endpoint) -> None:
        self._partial[end] = bytearray()

    def producer_read(self, end: Endpoint, data: bytes) -> None:
        """The relay has read `data` from a producer."""
        self.bytes_received += len(data)
        partial = self._partial[end]
        partial += data
        *lines, remainder = bytes(partial).split(b"\n")
        for each in lines:
            line = each + b"\n"
            if line in self._made:
                check(line not in self._index, "the simulation has sent a record twice")
                self._index[line] = len(self._sequence)
                self._sequence.append(self._made[line])
                self.received += 1
            else:
                self.rejected += 1
        partial[:] = remainder

    def producer_ended(self, end: Endpoint) -> None:
        """The relay has closed a connection, or the next process did not find it in the store."""
        self.rejected += bool(self._partial.pop(end))

    @property
    def rejected_now(self) -> int:
        """Rejected lines, including partial lines that are too long already."""
        limit = self._max_record_size
        return self.rejected + sum(len(each) >= limit for each in self._partial.values())

    # Subscribers.

    def subscriber_accepted(self, end: Endpoint, requests: deque[Request]) -> None:
        """The relay has accepted a subscriber, whose client appends to `requests`."""
        self._requests[end] = requests
        positions = set(range(self._iteration_start, len(self._sequence) + 1))
        self.readers[end] = Reader(positions, requests, end.uid)

    def subscriber_read(self, end: Endpoint, data: bytes) -> None:
        """The relay has read `data` from a subscriber, or the end of its input if there is none."""
        reader = self.readers[end]
        if not data and reader.request_data:
            data = b"\n"  # the end of the input ends a request
        *lines, reader.request_data = (reader.request_data + data).split(b"\n")
        unread = [each for each in reader.requests if not each.was_read]
        for line, each in zip(filter(None, lines), unread, strict=False):
            if not _is_json(line):
                each.wanted = each.done = None
            each.earliest = self._iteration_start
            if each.wanted is not None and each.wanted.group is not None:
                each.part = self.groups.request(reader.uid, each.wanted, each.earliest)
            if each is reader.requests[0]:
                each.latest = len(self._sequence)
        self._start_requests(reader)

    def _start_requests(self, reader: Reader) -> None:
        """Note what the relay may do with the requests that it has read."""
        if reader.stored is not None:
            return
        requests = reader.requests
        while requests and requests[0].was_read and requests[0].done is not None:
            if self._finish(reader, requests[0].done):
                requests.popleft()
            else:
                requests[0].done = None
        if requests and requests[0].was_read and reader.part is not None:
            reader.partial_precedes = bool(reader.partial)
            self.groups.start_leaving(reader.part)

    def _finish(self, reader: Reader, count: int) -> bool:
        """Note a report of finished notifications; return whether the relay must accept it."""
        part = reader.part
        if part is None or part.wanted.window is None or count < part.done:
            return False
        if count > len(part.got) + TOO_MANY // 2:
            return False
        # It may be handled later, when more was sent.
        is_valid = count <= len(part.got)
        self.groups.finish(part, count if is_valid else None)
        reader.may_be_refused |= not is_valid
        return True

    def subscriber_sent(self, end: Endpoint, data: bytes) -> None:
        """The relay has sent `data` to a subscriber."""
        reader = self.readers[end]
        reader.received_bytes += len(data)
        *lines, reader.partial = (reader.partial + data).split(b"\n")
        for each in lines:
            self._receive(reader, each + b"\n")
            reader.partial_precedes = False

    def subscriber_ended(self, end: Endpoint) -> None:
        """The relay has closed a connection, or the next process did not find it in the store."""
        if end in self.readers:
            reader = self.readers.pop(end)
            for each in reader.parts:
                self.groups.leave(each, partly=bool(reader.partial))
            self._delivered_before += reader.delivered
            self.uncertain += bool(reader.partial)

    @property
    def delivered(self) -> int:
        """Whole records that subscribers received since the relay has started to count."""
        return self._delivered_before + sum(each.delivered for each in self.readers.values())

    def check_finished(self, reader: Reader) -> None:
        """Check that a subscriber has received everything."""
        following = [self._next(position, reader.filter) for position in reader.positions]
        check(
            reader.ended or reader.part is not None or None in following,
            f"{reader} lacks some of the {len(self._sequence)} records",
        )
        check(not reader.partial, f"{reader.partial!r} has no end")
        check(not reader.restarting, f"{reader} has not received a gap record after a restart")
        unanswered = [each for each in reader.requests if each.was_read]
        check(reader.ended or not unanswered, f"{reader} has not received an answer")

    # Ends of processes.

    def killed(
        self, stored: dict[Endpoint, Wanted], interrupted: set[Endpoint], faultless: bool
    ) -> None:
        """The relay was killed.

        Args:
            stored: the request in the store, by subscriber.
            interrupted: subscribers whose request was being replaced in the store. The next relay
                closes these connections.
            faultless: whether no system call fails, so that the store must be up to date.
        """
        for partial in self._partial.values():
            partial.clear()
        self.received = self.rejected = self.bytes_received = 0
        self._delivered_before = self.uncertain = 0
        self.start_iteration()
        self.groups.forget()
        for end, reader in self.readers.items():
            if reader.unfinished is None:
                self._end_line(reader)
            if end in stored and faultless and reader.stored is None:
                asked = [each.wanted for each in reader.requests if each.was_read]
                allowed = [reader.wanted, *asked]
                check(stored[end] in allowed, f"{stored[end]} is stored, not of {allowed}")
            reader.request_data = b""
            reader.delivered = reader.dropped = reader.received_bytes = 0
            reader.ended, reader.restarting = False, True
            self._forget_read_requests(end)
            reader.crashed_at = len(self._sequence)
            self._store(reader, stored.get(end))
            has_request = end in stored or end in interrupted
            reader.request_lost = faultless and reader.wanted != Wanted() and not has_request

    def _store(self, reader: Reader, wanted: Wanted | None) -> None:
        """Note the request that the next relay handles again."""
        reader.stored, reader.part, reader.stored_part = wanted, None, None
        if wanted is not None and wanted.group is not None:
            reader.stored_part = self.groups.request(reader.uid, wanted, len(self._sequence))

    def _end_line(self, reader: Reader) -> None:
        """Note the partial line that the newline of the next relay will end.

        If only the newline is missing, the line is complete, and it must have been right for the
        relay that was killed.
        """
        try:
            json.loads(reader.partial)
        except ValueError:
            pass
        else:
            self._receive(reader, reader.partial + b"\n")
        reader.unfinished = reader.partial

    def _forget_read_requests(self, end: Endpoint) -> deque[Request]:
        """Drop the requests that the killed relay had read; return the others."""
        requests = self._requests[end]
        while requests and requests[0].was_read:
            requests.popleft()
        return requests

    def keep_only(
        self,
        producers: list[Endpoint],
        subscribers: list[Endpoint],
        stored: dict[Endpoint, Wanted],
    ) -> None:
        """Keep the connections that are in the store; all others ended with the process.

        A connection that a relay had closed, and not removed from the store when it was killed, is
        there again, with its unread data.
        """
        for end in self._partial.keys() - set(producers):
            self.producer_ended(end)
        ended = self.readers.keys() - set(subscribers)
        self.groups.leave_together([part for end in ended for part in self.readers[end].parts])
        for end in ended:
            self.subscriber_ended(end)
        for end in producers:
            self._partial.setdefault(end, bytearray())
        for end in subscribers:
            lost = end in self.readers and self.readers[end].request_lost
            check(not lost, "a connection was stored without its request")
            if end not in self.readers:
                self.readers[end] = Reader(
                    {0},
                    self._forget_read_requests(end),
                    end.uid,
                    restarting=True,
                    unfinished=b"",
                    crashed_at=len(self._sequence),
                )
                self._store(self.readers[end], stored.get(end))

    # Lines that a subscriber receives.

    def _receive(self, reader: Reader, line: bytes) -> None:
        check(not reader.ended, f"{line!r} follows an error record")
        if reader.unfinished is not None:
            check(line == reader.unfinished + b"\n", f"{line!r} continues a line after a crash")
            reader.unfinished = None
            return
        if line in self._index:
            check(not reader.restarting, f"{line!r} precedes the gap record of a restart")
            self._deliver(reader, self._index[line], line)
            return
        try:
            notification = json.loads(line)
            event_type, payload = notification["event_type"], notification["payload"]
        except (ValueError, KeyError):
            raise ModelError(f"{line!r} is not a record") from None
        if event_type == "notif_relayd.gap" and payload["reason"] == "relay_restarted":
            self._restart(reader)
            return
        check(not reader.restarting, f"{line!r} precedes the gap record of a restart")
        if event_type == "notif_relayd.subscribed":
            self._change_request(reader, payload)
        elif event_type == "notif_relayd.error":
            self._refuse(reader, line, payload)
        elif reader.part is not None:
            if event_type == "notif_relayd.redelivered":
                self.groups.receive_marker(reader.part, payload)
            else:
                check(event_type == "notif_relayd.gap", f"{line!r} was never sent")
                self.groups.receive_gap(reader.part, payload)
        else:
            check(event_type == "notif_relayd.gap", f"{line!r} was never sent")
            check(payload["reason"] == "slow_subscriber", line)
            self._drop(reader, payload["dropped"])

    def _refuse(self, reader: Reader, line: bytes, payload: str) -> None:
        invalid = any(each.wanted is None and each.was_read for each in reader.requests)
        full = payload.startswith("This relay takes no more") or "max_groups_per_user" in payload
        # A killed relay may have read the first part of a request.
        torn = reader.crashed_at is not None
        check(invalid or full or torn or reader.may_be_refused, f"{line!r} has no reason")
        reader.ended = True
        for each in reader.parts:
            self.groups.leave(each, partly=True)

    def _deliver(self, reader: Reader, index: int, line: bytes) -> None:
        check(reader.stored is None, f"{line!r} precedes the answer for the stored request")
        if reader.part is not None:
            begun_before = reader.partial_precedes
            self.groups.receive(reader.part, index, line, begun_before=begun_before)
        else:
            self._advance(reader, index, line)
        self.delivered_ever += 1
        reader.delivered += 1

    def _advance(self, reader: Reader, index: int, line: bytes) -> None:
        matching = [
            position
            for position in reader.positions
            if position <= index and self._next(position, reader.filter) == index
        ]
        check(matching, f"{line!r}, number {index}, is not the next record: {reader}")
        reader.positions = {index + 1}

    def _drop(self, reader: Reader, number: int) -> None:
        check(number > 0, f"a gap record of {number} records")
        positions = set()
        for start in reader.positions:
            position: int | None = start
            for _ in range(number):
                position = None if position is None else self._next(position, reader.filter)
                position = None if position is None else position + 1
            if position is not None:
                positions.add(position)
        check(positions, f"a gap record of {number} records exceeds the sequence: {reader}")
        reader.positions = positions
        reader.dropped += number

    def _change_request(self, reader: Reader, answer: dict[str, object]) -> None:
        answer.pop("group_since", None)
        if reader.stored is not None:
            check(answer == reader.stored.answer, f"{answer} is not of the stored request")
            wanted, part, reader.stored, reader.stored_part = (
                reader.stored,
                reader.stored_part,
                None,
                None,
            )
        else:
            request = reader.requests[0] if reader.requests else None
            check(request and request.was_read and request.wanted, f"{answer} was not requested")
            assert request is not None
            assert request.wanted is not None
            check(answer == request.wanted.answer, f"{answer} is not the answer to {request}")
            reader.requests.popleft()
            self._change_positions(reader, request)
            wanted, part = request.wanted, request.part
        if part is not None:
            self.groups.join(part)
        if reader.part is not None:
            self.groups.leave(reader.part, partly=False)
        reader.wanted, reader.part = wanted, part
        self._start_requests(reader)

    def _change_positions(self, reader: Reader, request: Request) -> None:
        latest = len(self._sequence) if request.latest is None else request.latest
        if reader.part is not None:
            reader.positions = set(range(request.earliest, latest + 1))
            return
        reader.positions = {
            position
            for position in range(max(request.earliest, min(reader.positions)), latest + 1)
            if any(self._may_skip(start, position, reader.filter) for start in reader.positions)
        }
        check(reader.positions, "an answer precedes records of the old filter")

    def _restart(self, reader: Reader) -> None:
        check(
            reader.restarting and reader.crashed_at is not None,
            "a gap record announces a restart that did not happen",
        )
        assert reader.crashed_at is not None
        reader.positions = {reader.crashed_at}
        reader.wanted = Wanted()
        reader.restarting = False

    def _may_skip(self, start: int, end: int, wanted: int) -> bool:
        """Return whether no record from `start` up to `end`, exclusive, matches a filter."""
        following = self._next(start, wanted)
        return start <= end and (following is None or following >= end)

    def _next(self, start: int, wanted: int) -> int | None:
        """Return the index of the first record from `start` on that matches a filter."""
        matching = MATCHING[wanted]
        indexes = range(start, len(self._sequence))
        return next((index for index in indexes if self._sequence[index] in matching), None)
