# SPDX-License-Identifier: Apache-2.0
"""Accounts for every record of some producers in the messages of a central consumer.

Each record has the number of its producer and its own number, which also counts records that the
producer drops. So a missing number is a lost record. A gap record between the record before the
missing ones and the one after them must announce the loss.

The messages also contain marks, which the test writes to the broker after each fault. They tell
which fault lies between the copies of a duplicate. A fault lets the bridge send a part of a
producer's records again: from some record to the last one that has arrived. The broker may still
store messages of the connection before meanwhile, so the next new record may come in between.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from typing import Any

RECORD = "books.record"
MARK = "books.mark"
GAP = "notif_relayd.gap"

MAX_STEPS = 2
"""Maximum number of repetitions of one producer's records after a fault: rows of the spool, and
records that the relay hands out again because the report that they are finished was lost."""


def record(producer: int, number: int, size: int = 0) -> str:
    """Return a record as the log driver formats it, which has about `size` bytes."""
    fields = {
        "message_id": f"{producer}-{number}",
        "publisher_id": f"books.host-{producer}",
        "event_type": RECORD,
        "priority": "WARN",  # as gap records, so that both are in one queue or topic
        "payload": {"producer": producer, "number": number, "text": "x" * max(0, size - 210)},
        "timestamp": "2026-01-31 12:00:00.123456",
    }
    return json.dumps(fields)


def mark(fault: str) -> bytes:
    """Return the mark of a fault."""
    return json.dumps({"event_type": MARK, "priority": "WARN", "payload": fault}).encode()


class _Stream:
    """The records of one producer."""

    def __init__(self) -> None:
        self.next = 0
        """The lowest number above all that have arrived."""
        self.previous = -1
        """The number of the last arrival."""
        self.positions: dict[int, int] = {}
        """Position of the last copy of each record."""
        self.missing: set[int] = set()
        self.gaps = 0
        """Number of gap records before the last arrival of a new record."""
        self.steps = 0
        """Number of repetitions since the last mark."""
        self.interrupted: set[int] = set()
        """Where repetitions have to go on that a new record has interrupted."""


class Books:
    """What has arrived, in the order of arrival.

    Args:
        producers: number of producers.
        removes_duplicates: whether a repetition may lack records, because the broker removes some.
    """

    def __init__(self, producers: int, removes_duplicates: bool = False) -> None:
        self._streams = [_Stream() for _ in range(producers)]
        self._removes_duplicates = removes_duplicates
        self._position = 0
        self._marks: list[int] = []
        """Positions of the marks, ascending."""
        self.faults: list[str] = []
        """The faults that the marks name."""
        self._gap_ids: set[str] = set()
        self.announced = 0
        """Number of records that gap records announce as lost."""
        self.unknown = 0
        """Number of gap records without a number."""
        self.reasons: Counter[str] = Counter()
        """Announced records by the reason of the gap record."""
        self.repeated_gaps = 0
        """Number of further copies of gap records."""
        self.duplicates: Counter[str] = Counter()
        """Number of further copies of records, by the fault that has caused them."""
        self.errors: list[str] = []
        """Order violations, losses without a gap record, and duplicates without a cause."""

    @property
    def arrived(self) -> int:
        """Number of different records."""
        return sum(len(each.positions) for each in self._streams)

    @property
    def missing(self) -> int:
        """Number of records that have not arrived although a later one has."""
        return sum(len(each.missing) for each in self._streams)

    def has_arrived(self, emitted: Sequence[int]) -> bool:
        """Return whether the last record of each producer has arrived."""
        return [each.next for each in self._streams] == list(emitted)

    def note(self, message: bytes) -> None:
        """Note the next message: a record, with or without its envelope, or a mark."""
        fields = json.loads(message)
        if "oslo.message" in fields:
            fields = json.loads(fields["oslo.message"])
        self._position += 1
        event_type = fields["event_type"]
        if event_type == RECORD:
            payload = fields["payload"]
            self._note_record(payload["producer"], payload["number"])
        elif event_type == MARK:
            self._marks.append(self._position)
            self.faults.append(fields["payload"])
            for each in self._streams:
                each.steps = 0
        elif event_type == GAP:
            self._note_gap(fields)
        else:
            self.errors.append(f"unexpected message: {fields}")

    def finish(self, emitted: Sequence[int]) -> None:
        """Compare the books with the number of records of each producer."""
        if not self.has_arrived(emitted):
            last = [each.next for each in self._streams]
            self.errors.append(f"{emitted} records were emitted, the last ones are {last}")
        for producer, each in enumerate(self._streams):
            for number in sorted(each.interrupted):
                self.errors.append(f"producer {producer}: a repetition ends before {number}")
        if self.announced < self.missing and not self.unknown:
            self.errors.append(
                f"{self.missing} records are missing, and gap records announce {self.announced}"
            )

    def _note_gap(self, fields: dict[str, Any]) -> None:
        if fields["message_id"] in self._gap_ids:
            self.repeated_gaps += 1
            return
        self._gap_ids.add(fields["message_id"])
        dropped, reason = fields["payload"]["dropped"], fields["payload"]["reason"]
        if dropped is None:
            self.unknown += 1
        else:
            self.announced += dropped
            self.reasons[reason] += dropped

    def _note_record(self, producer: int, number: int) -> None:
        stream = self._streams[producer]
        between = range(stream.previous + 1, number)
        if number < stream.next:
            self._note_copy(stream, producer, number)
        omitted = [each for each in between if each < stream.next and each not in stream.missing]
        stream.interrupted.discard(number)
        if omitted and number == stream.next and not self._removes_duplicates:
            stream.interrupted.add(omitted[0])
        elif omitted and not self._removes_duplicates:
            self.errors.append(
                f"producer {producer}: {number} follows {stream.previous}, which ends a repetition"
                f" before {stream.next}"
            )
        if number >= stream.next:
            missing = range(stream.next, number)
            if missing and stream.gaps == len(self._gap_ids):
                self.errors.append(f"producer {producer}: no gap record for {missing}")
            stream.missing.update(missing)
            stream.next = number + 1
            stream.gaps = len(self._gap_ids)
        stream.positions[number] = self._position
        stream.previous = number

    def _note_copy(self, stream: _Stream, producer: int, number: int) -> None:
        """Note a record that is not the first one of its number or higher."""
        if number <= stream.previous:
            stream.steps += 1
        if number in stream.missing:
            stream.missing.remove(number)
            self.errors.append(f"producer {producer}: {number} is out of order")
            return
        cause = self._cause(stream, stream.positions[number])
        self.duplicates[cause or "none"] += 1
        if not cause:
            self.errors.append(f"producer {producer}: no fault explains a copy of {number}")

    def _cause(self, stream: _Stream, previous: int) -> str:
        """Return the fault that has caused a copy, or an empty string.

        Args:
            stream: the producer's records.
            previous: position of the previous copy.
        """
        following = bisect_right(self._marks, previous)
        if following < len(self._marks):
            return self.faults[following]
        return self.faults[-1] if self.faults and stream.steps <= MAX_STEPS else ""
