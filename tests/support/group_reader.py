# SPDX-License-Identifier: Apache-2.0
"""Records for a group of subscribers, and what a member of it receives."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from notif_relay import records
from notif_relayd.fanout.groups.division import Batch
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.subscriber import Stream


def record(number: int, event_type: str) -> bytes:
    """Return a notification with a number; a gap record for the event type "gap"."""
    if event_type == "gap":
        return records.gap(number, "producer_congested")
    return b'{"event_type": "%s", "priority": "INFO", "payload": %d}\n' % (
        event_type.encode(),
        number,
    )


def number_of(line: bytes) -> int:
    """Return the number of a notification or of a producer's gap record."""
    payload = json.loads(line)["payload"]
    return int(payload if isinstance(payload, int) else payload["dropped"])


def select(stream: Stream, batch: list[tuple[bytes, str]]) -> Batch:
    """Return the records that belong to a stream."""
    keyed = [(data, (records.GAP if kind == "gap" else kind, "INFO", "")) for data, kind in batch]
    some = [(data, key) for data, key in keyed if any(view(key) for view in stream.views)]
    return Batch(b"".join(data for data, _ in some), [key for _, key in some])


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
