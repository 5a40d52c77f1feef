# SPDX-License-Identifier: Apache-2.0
"""Records for a group of subscribers, and what a member of it receives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from notif_relay import records
from notif_relayd.fanout.groups.division import Batch
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.subscriber import Stream
from notif_relayd.records.validator import RoutingKey


def record(number: int, event_type: str) -> bytes:
    """Return a notification with a number; a gap record for the event types "gap" and "unknown"."""
    payload: object = number
    if event_type in ("gap", "unknown"):
        payload = {"dropped": reported(number, event_type), "reason": "producer_congested"}
        event_type = records.GAP
    fields = {"event_type": event_type, "priority": "INFO", "payload": payload, "number": number}
    return json.dumps(fields).encode() + b"\n"


def reported(number: int, event_type: str) -> int | None:
    """Return the number of missing records that a record stands for if it is missing itself."""
    return {"gap": number % 4, "unknown": None}.get(event_type, 1)


def all_reported(numbers: Iterable[int], kinds: Mapping[int, str]) -> tuple[int, int]:
    """Return what some records stand for: a number, and how many stand for an unknown number."""
    found = [reported(each, kinds[each]) for each in numbers]
    known = [each for each in found if each is not None]
    return sum(known), len(found) - len(known)


def number_of(line: bytes) -> int | None:
    """Return the number of a notification or of a producer's gap record."""
    number: int | None = json.loads(line).get("number")
    return number


def key(event_type: str) -> RoutingKey:
    """Return the routing key of a record."""
    return records.GAP if event_type in ("gap", "unknown") else event_type, "INFO", ""


def select(stream: Stream, batch: list[tuple[bytes, str]]) -> Batch:
    """Return the records that belong to a stream."""
    keyed = [(data, key(kind)) for data, kind in batch]
    some = [(data, each) for data, each in keyed if any(view(each) for view in stream.views)]
    return Batch(b"".join(data for data, _ in some), [each for _, each in some])


def append(stream: Stream, batch: Batch) -> None:
    """Append records to a stream, as a relay does."""
    if not stream.ring.places:
        stream.ring.skip(len(batch))
    elif len(batch):
        stream.ring.append(batch.data, len(batch))


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
    """Numbers of the records of producers that it received."""
    counted: list[int | tuple[str, int | None]] = field(default_factory=list)
    """The same, and the reasons and numbers of the relay's gap records, with a window."""
    last: int = -1
    """Number of the last record that was not redelivered."""

    @property
    def unfinished(self) -> list[int | tuple[str, int | None]]:
        """What it has not finished."""
        return self.counted[self.member.finished :]

    @property
    def begun(self) -> set[int]:
        """Number of the record that it may have received in part, if any."""
        lines = self.owed.splitlines()
        number = number_of(self.wire.rpartition(b"\n")[2] + lines[0]) if lines else None
        return set() if number is None else {number}
