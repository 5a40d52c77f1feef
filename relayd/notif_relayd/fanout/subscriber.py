# SPDX-License-Identifier: Apache-2.0
"""One connection to the public socket: its subscription, its position and its figures.

A subscriber reads one stream: the records that one filter lets through. It is *current* if all
records of the stream were sent to it, or *behind*, with a cursor in the ring of the stream. When
it requests another filter, it first gets the remaining records of the old stream, while the
records of the new stream are kept for it.

Figures are derived from positions, because to count them would add work to every send.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from notif_relay import records
from notif_relayd.fanout.chunk import Chunk, TornRecord
from notif_relayd.fanout.cursor import Cursor
from notif_relayd.fanout.ring import Ring, Store
from notif_relayd.fanout.saved_state import (
    GROUP_MEMBER,
    MemberState,
    StreamState,
    SubscriberState,
    SubscriptionState,
)
from notif_relayd.net.loop import READ, WRITE
from notif_relayd.peer import Peer
from notif_relayd.records.filters import UNFILTERED, View
from notif_relayd.records.subscription_request import RequestBuffer


class Stream:
    """The records that at least one of some views contains.

    Args:
        views: select the records.
        store: where the ring of the stream is charged.
    """

    __slots__ = ("current", "ended", "members", "ring", "views")

    def __init__(self, views: frozenset[View], store: Store) -> None:
        self.views = views
        self.ring = Ring(store)
        self.members = 0
        """Number of subscriptions to the stream."""
        self.ended = False
        """Whether the last member has left."""
        self.current: dict[int, Subscriber] = {}
        """Its current subscribers by connection number, in the order in which they became current.

        `mark_current` adds one and `mark_behind` removes one."""

    @property
    def is_unfiltered(self) -> bool:
        """Whether the stream has every record."""
        return UNFILTERED in self.views

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
        """Return the views and the sequence number; the chunks are saved with the store."""
        return StreamState.of(self.views, self.ring.next_seq)


class Subscription:
    """A subscriber's membership in one stream; it begins at the end of the stream.

    Args:
        stream: the stream.
        owner: number of the subscriber's connection.
        charge: bytes charged to the user for the filter.
    """

    __slots__ = ("_announced", "_joined", "_owner", "charge", "cursor", "has_more", "stream")

    def __init__(self, stream: Stream, owner: int, charge: int = 0) -> None:
        self.stream = stream
        self._owner = owner
        self.charge = charge
        """Bytes charged to the user for the filter."""
        self.cursor: Cursor | None = None
        """The position in the ring; `None` while the subscriber is current."""
        self.has_more = False
        """Whether there are records for a current subscriber, as a member of a group."""
        self._joined = stream.ring.next_seq
        """Sequence number of the first record; `delivered` counts from there."""
        self._announced = 0
        """Number of missing records that former cursors have announced."""
        stream.members += 1

    def fall_behind(self) -> Cursor:
        """Create a cursor at the end of the ring."""
        self.cursor = Cursor(self.stream.ring, _slow_subscriber, self._owner)
        return self.cursor

    def catch_up(self) -> None:
        """Drop the cursor, if there is one."""
        if self.cursor is not None:
            self.cursor.detach()
            self._announced += self.cursor.announced
            self.cursor = None

    def save(
        self,
        streams: Mapping[Stream, int],
        places: Mapping[Chunk, int],
        torn_records: dict[TornRecord, int],
    ) -> SubscriptionState:
        """Return the position; the subscriber saves the figures.

        Args:
            streams: the index of each stream in the saved state.
            places: see `Cursor.save`.
            torn_records: see `Cursor.save`.
        """
        cursor = None if self.cursor is None else self.cursor.save(places, torn_records)
        stream = streams.get(self.stream, GROUP_MEMBER)
        return SubscriptionState(stream, cursor, self.charge, self.save_member())

    def save_member(self) -> MemberState | None:
        """Return the subscriber's part in a group; `None` if it is not in a group."""
        return None

    def restore(
        self,
        saved: SubscriptionState,
        chunks: Sequence[Chunk | None],
        torn_records: Sequence[TornRecord],
    ) -> None:
        """Take a saved position; see `Cursor.restore`. The caller charges the user."""
        self.charge = saved.charge
        if saved.cursor is not None:
            self.fall_behind().restore(saved.cursor, chunks, torn_records)
            # The saved figures of the subscriber include the records before the position.
            self._joined += self.delivered

    @property
    def group_name(self) -> str:
        """Name of the group; empty if the subscriber is not in a group."""
        return ""

    @property
    def lag(self) -> int:
        """Number of records in the ring that were not sent yet."""
        if self.cursor is None:
            return 0
        return self.cursor.end - self.cursor.position - self.cursor.lost

    @property
    def dropped(self) -> int:
        """Number of records that will never be sent, announced or not."""
        return self._announced + self.dropped_while_behind

    @property
    def dropped_while_behind(self) -> int:
        """Number of these records since the subscriber was current; 0 if it is current."""
        return 0 if self.cursor is None else self.cursor.dropped

    @property
    def delivered(self) -> int:
        """Number of records that the socket took."""
        end = self.stream.ring.next_seq if self.cursor is None else self.cursor.end
        return end - self._joined - self.dropped - self.lag


class Subscriber:
    """A process that reads notifications.

    Args:
        number: the number of the connection.
        connection: a non-blocking socket.
        peer: the process that connected.
        subscription: what it reads until it requests something else.
        since: time of the connect, by the monotonic clock.
    """

    __slots__ = (
        "_delivered_before",
        "_dropped_before",
        "bytes",
        "id",
        "listening",
        "lost_before",
        "peer",
        "pending",
        "request",
        "since",
        "socket",
        "subscription",
        "waiting",
    )

    def __init__(
        self,
        number: int,
        connection: socket.socket,
        peer: Peer,
        subscription: Subscription,
        since: float,
    ) -> None:
        self.id = number
        self.socket = connection
        self.peer = peer
        self.since = since
        self.subscription = subscription
        """What it reads now."""
        self.pending: Subscription | None = None
        """What it reads when all records of `subscription` were sent."""
        self.request = RequestBuffer()
        """Requests that were read and are not handled yet."""
        self.waiting = False
        """Whether a request waits to be read or handled."""
        self.listening = True
        """Whether it may send requests: it may have shut down its direction of the connection."""
        self.bytes = 0
        """Number of bytes that the socket took, including records of the relay itself."""
        self.lost_before: int | None = None
        """Value of `dropped` before the loss that the log has reported; `None` if there is no such
        loss, or the subscriber has caught up since."""
        self._delivered_before = 0
        """Records delivered before `subscription`; likewise below."""
        self._dropped_before = 0

    def save(
        self,
        streams: Mapping[Stream, int],
        places: Mapping[Chunk, int],
        torn_records: dict[TornRecord, int],
    ) -> SubscriberState:
        """Return all that a successor needs; see `Subscription.save` for the arguments."""
        # First: a member of a group notes what its socket has taken meanwhile.
        subscription = self.subscription.save(streams, places, torn_records)
        pending = None
        if self.pending is not None:
            pending = self.pending.save(streams, places, torn_records)
        return SubscriberState(
            self.id,
            self.peer,
            self.since,
            self.bytes,
            self.delivered,
            self.dropped,
            self.request.save(),
            self.listening,
            subscription,
            pending,
            self.lost_before,
        )

    def restore(
        self,
        saved: SubscriberState,
        pending: Subscription | None,
        chunks: Sequence[Chunk | None],
        torn_records: Sequence[TornRecord],
    ) -> None:
        """Take saved values in place of those of a new subscriber.

        Args:
            saved: what `save` returned.
            pending: a new subscription for `saved.pending`, if that is not `None`.
            chunks: see `Cursor.restore`.
            torn_records: see `Cursor.restore`.
        """
        self.subscription.restore(saved.subscription, chunks, torn_records)
        self.pending = pending
        if pending is not None and saved.pending is not None:
            pending.restore(saved.pending, chunks, torn_records)
        self.since = saved.since
        self.request.feed(saved.request)
        self.listening = saved.listening
        self.bytes = saved.bytes_sent
        self.lost_before = saved.lost_before
        self._delivered_before = saved.delivered - self.delivered
        self._dropped_before = saved.dropped - self.dropped

    @property
    def events(self) -> int:
        """The events to watch for: input unless a request is in progress, room if it is behind."""
        busy = self.pending is not None or self.waiting
        reads = self.listening and not busy
        writes = self.subscription.cursor is not None or self.subscription.has_more
        return reads * READ | writes * WRITE

    def fall_behind(self) -> Cursor:
        """Leave the current subscribers of the stream; return a cursor at the end of its ring."""
        self.subscription.stream.mark_behind(self)
        return self.subscription.fall_behind()

    def catch_up(self) -> None:
        """Drop the cursor and join the current subscribers of the stream."""
        self.subscription.catch_up()
        self.subscription.stream.mark_current(self)

    def switch(self, pending: Subscription) -> Stream:
        """Replace the subscription by the pending one; return the stream that it leaves."""
        old = self.subscription
        self._delivered_before += old.delivered
        self._dropped_before += old.dropped
        old.catch_up()
        self.subscription, self.pending = pending, None
        return old.stream

    @property
    def subscriptions(self) -> list[Subscription]:
        """`subscription`, and `pending` if there is one."""
        return [self.subscription] if self.pending is None else [self.subscription, self.pending]

    @property
    def group_name(self) -> str:
        """The name of its group, or of the group that it is going to join; empty if in none."""
        return self.subscriptions[-1].group_name

    @property
    def is_behind(self) -> bool:
        """Whether it has a cursor; otherwise it is current."""
        return self.subscription.cursor is not None

    @property
    def charge(self) -> int:
        """Bytes charged to the user for filters and unfinished requests."""
        return len(self.request) + sum(each.charge for each in self.subscriptions)

    @property
    def ending(self) -> bool:
        """Whether the connection ends when all that the cursor has to send was sent."""
        cursor = self.subscription.cursor
        return self.pending is None and cursor is not None and cursor.stopped

    @property
    def torn_share(self) -> float:
        """Bytes of the torn record that it holds, divided by the number of its holders."""
        return 0.0 if self.subscription.cursor is None else self.subscription.cursor.torn_share

    @property
    def lag(self) -> int:
        """Number of records in rings that were not sent to it yet."""
        return sum(each.lag for each in self.subscriptions)

    @property
    def dropped(self) -> int:
        """Number of records that will never be sent to it, announced or not."""
        return self._dropped_before + sum(each.dropped for each in self.subscriptions)

    @property
    def dropped_while_behind(self) -> int:
        """Number of these records since it was current."""
        return sum(each.dropped_while_behind for each in self.subscriptions)

    @property
    def delivered(self) -> int:
        """Number of records that its socket took."""
        return self._delivered_before + self.subscription.delivered


def _slow_subscriber(lost: int) -> bytes:
    return records.gap(lost, "slow_subscriber")
