# SPDX-License-Identifier: Apache-2.0
"""One connection to the public socket: what it reads, where it is, and the figures about it.

What a subscriber reads is a stream: the records that one filter lets through. It is *current* in
it, with everything up to the end, or *behind*, with a cursor in the stream's ring. When it asks
for another filter while it is behind, it first gets what is left of the old stream, and what the
new one brings meanwhile is kept for it.

Figures are derived from positions, because counting would cost every send.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from notif_relay import records
from notif_relayd.fanout.chunk import Chunk, TornRecord
from notif_relayd.fanout.ring import Cursor, Ring, Store
from notif_relayd.fanout.saved_state import ReadingState, StreamState, SubscriberState
from notif_relayd.net.loop import READ, WRITE
from notif_relayd.peer import Peer
from notif_relayd.records.filters import View
from notif_relayd.records.subscription_request import RequestBuffer


class Stream:
    """The records of one view."""

    __slots__ = ("current", "ended", "members", "ring", "view")

    def __init__(self, view: View, store: Store) -> None:
        self.view = view
        self.ring = Ring(store)
        self.members = 0
        """Subscribers that read it or are about to."""
        self.ended = False
        """Whether its last member has left it."""
        self.current: dict[int, Subscriber] = {}
        """Its current subscribers by connection number, in the order in which they became current.

        `mark_current` adds one and `mark_behind` removes one."""

    def mark_current(self, subscriber: Subscriber) -> None:
        """Add a subscriber to the current ones."""
        self.current[subscriber.id] = subscriber

    def mark_behind(self, subscriber: Subscriber) -> None:
        """Remove a subscriber from the current ones, if present.

        Every batch iterates over the current subscribers, and CPython iterates over all slots that
        a dict has ever needed. So the remaining ones are copied each time their number has halved.
        """
        self.current.pop(subscriber.id, None)
        count = len(self.current)
        if not count & (count - 1):
            self.current = dict(self.current)

    def save(self) -> StreamState:
        """What it lets through, and how far it is; the ring's chunks are saved with the store."""
        allowed = self.view.allowed
        return StreamState(
            None if self.view.asked is None else self.view.asked.request,
            self.ring.next_seq,
            None if allowed is None else [each.request for each in allowed],
        )


class Reading:
    """A subscriber's part in one stream, from its end on."""

    __slots__ = ("_announced", "_joined", "charge", "cursor", "stream")

    def __init__(self, stream: Stream, charge: int = 0) -> None:
        self.stream = stream
        self.charge = charge
        """Bytes charged to the user for the filter."""
        self.cursor: Cursor | None = None
        """Its place in the ring; `None` while it is current."""
        self._joined = stream.ring.next_seq
        self._announced = 0
        stream.members += 1

    def fall_behind(self) -> Cursor:
        """Take a place at the end of the ring."""
        self.cursor = Cursor(self.stream.ring, _slow_subscriber)
        return self.cursor

    def catch_up(self) -> None:
        """Have everything."""
        if self.cursor is not None:
            self.cursor.detach()
            self._announced += self.cursor.announced
            self.cursor = None

    def save(
        self,
        streams: Mapping[Stream, int],
        places: Mapping[Chunk, int],
        torn_records: dict[TornRecord, int],
    ) -> ReadingState:
        """Return the position; the figures are the subscriber's to save. See `Cursor.save`."""
        cursor = None if self.cursor is None else self.cursor.save(places, torn_records)
        return ReadingState(streams[self.stream], cursor, self.charge)

    def restore(
        self,
        saved: ReadingState,
        chunks: Sequence[Chunk | None],
        torn_records: Sequence[TornRecord],
    ) -> None:
        """Restore the saved position; the charge is the caller's to make."""
        self.charge = saved.charge
        if saved.cursor is not None:
            self.fall_behind().restore(saved.cursor, chunks, torn_records)
            # What it got from the relay before is in the subscriber's figures.
            self._joined += self.delivered

    @property
    def lag(self) -> int:
        """Records in the ring that it has yet to get."""
        if self.cursor is None:
            return 0
        return self.cursor.end - self.cursor.position - self.cursor.lost

    @property
    def dropped(self) -> int:
        """Records that it will never get, whether it was told already or not."""
        if self.cursor is None:
            return self._announced
        return self._announced + self.cursor.announced + self.cursor.lost

    @property
    def delivered(self) -> int:
        """Records that its socket took."""
        end = self.stream.ring.next_seq if self.cursor is None else self.cursor.end
        return end - self._joined - self.dropped - self.lag


class Subscriber:
    """A process that reads notifications."""

    __slots__ = (
        "_delivered_before",
        "_dropped_before",
        "bytes",
        "following",
        "id",
        "listening",
        "peer",
        "reading",
        "request",
        "since",
        "socket",
        "waiting",
    )

    def __init__(
        self, number: int, connection: socket.socket, peer: Peer, stream: Stream, since: float
    ) -> None:
        self.id = number
        self.socket = connection
        self.peer = peer
        self.since = since
        self.reading = Reading(stream)
        """What it reads now."""
        self.following: Reading | None = None
        """What it reads once it has everything of that."""
        self.request = RequestBuffer()
        """What it has written and was not answered yet."""
        self.waiting = False
        """Whether it waits for the relay to read or handle a request."""
        self.listening = True
        """Whether it may still write: a subscriber may shut its own direction down."""
        self.bytes = 0
        self._delivered_before = 0
        self._dropped_before = 0

    def save(
        self,
        streams: Mapping[Stream, int],
        places: Mapping[Chunk, int],
        torn_records: dict[TornRecord, int],
    ) -> SubscriberState:
        """Return all about it; streams, chunks and torn records by their numbers."""
        following = None
        if self.following is not None:
            following = self.following.save(streams, places, torn_records)
        return SubscriberState(
            self.id,
            self.peer,
            self.since,
            self.bytes,
            self.delivered,
            self.dropped,
            self.request.save(),
            self.listening,
            self.reading.save(streams, places, torn_records),
            following,
        )

    def restore(
        self,
        saved: SubscriberState,
        streams: Mapping[int, Stream],
        chunks: Sequence[Chunk | None],
        torn_records: Sequence[TornRecord],
    ) -> None:
        """Take over what was saved, in place of what a new subscriber has."""
        self.reading.restore(saved.reading, chunks, torn_records)
        if saved.following is not None:
            self.following = Reading(streams[saved.following.stream])
            self.following.restore(saved.following, chunks, torn_records)
        self.since = saved.since
        self.request.feed(saved.request)
        self.listening = saved.listening
        self.bytes = saved.bytes_sent
        self._delivered_before = saved.delivered - self.delivered
        self._dropped_before = saved.dropped - self.dropped

    @property
    def events(self) -> int:
        """The events to watch for: input unless a request is in progress, room if it is behind."""
        busy = self.following is not None or self.waiting
        reads = self.listening and not busy
        writes = self.reading.cursor is not None
        return reads * READ | writes * WRITE

    def fall_behind(self) -> Cursor:
        """Leave the current subscribers of the stream and take a place at the end of its ring."""
        self.reading.stream.mark_behind(self)
        return self.reading.fall_behind()

    def catch_up(self) -> None:
        """Join the current subscribers of the stream; all records before its end were sent."""
        self.reading.catch_up()
        self.reading.stream.mark_current(self)

    def go_on(self, following: Reading) -> Stream:
        """Read another stream from now on; the one that it leaves."""
        left = self.reading
        self._delivered_before += left.delivered
        self._dropped_before += left.dropped
        left.catch_up()
        self.reading, self.following = following, None
        return left.stream

    @property
    def readings(self) -> list[Reading]:
        """Both, or one."""
        return [self.reading] if self.following is None else [self.reading, self.following]

    @property
    def charge(self) -> int:
        """Bytes charged to the user for filters and unfinished requests."""
        following = self.following.charge if self.following else 0
        return len(self.request) + self.reading.charge + following

    @property
    def ending(self) -> bool:
        """Whether it gets nothing more but what is left, and then the end."""
        cursor = self.reading.cursor
        return self.following is None and cursor is not None and cursor.stopped

    @property
    def torn_share(self) -> float:
        """Bytes of the torn record that it holds, divided by the number of its holders."""
        return 0.0 if self.reading.cursor is None else self.reading.cursor.torn_share

    @property
    def lag(self) -> int:
        """Records in the relay that it has yet to get."""
        return self.reading.lag + (self.following.lag if self.following else 0)

    @property
    def dropped(self) -> int:
        """Records that it will never get, whether it was told already or not."""
        following = self.following.dropped if self.following else 0
        return self._dropped_before + self.reading.dropped + following

    @property
    def delivered(self) -> int:
        """Records that its socket took."""
        return self._delivered_before + self.reading.delivered


def _slow_subscriber(lost: int) -> bytes:
    return records.gap(lost, "slow_subscriber")
