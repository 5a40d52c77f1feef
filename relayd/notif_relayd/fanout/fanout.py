# SPDX-License-Identifier: Apache-2.0
"""The connections to the public socket, from the accept to the end, over restarts of the relay."""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from notif_relay import records
from notif_relayd.access.admission import Admission
from notif_relayd.access.policy import Policy
from notif_relayd.access.quota import Quota, QuotaError
from notif_relayd.access.refusal_record import RefusalRecord
from notif_relayd.context import Context
from notif_relayd.fanout.chunk import TornRecord
from notif_relayd.fanout.cursor import Cursor
from notif_relayd.fanout.groups.groups import Groups
from notif_relayd.fanout.groups.membership import Membership
from notif_relayd.fanout.loss_log import LossLog
from notif_relayd.fanout.publisher import Publisher
from notif_relayd.fanout.request_handler import RequestHandler
from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.saved_state import (
    ChunkState,
    FanoutState,
    SubscriberState,
    TornRecordState,
)
from notif_relayd.fanout.streams import Streams
from notif_relayd.fanout.subscriber import Stream, Subscriber, Subscription
from notif_relayd.net.acceptor import Acceptor
from notif_relayd.net.loop import HANGUP, READ, TRANSIENT_ERRORS, WRITE
from notif_relayd.peer import Peer, peer_of
from notif_relayd.records.filters import View
from notif_relayd.settings import ConnectionLimits, GroupLimits
from notif_relayd.systemd.fdstore import SUBSCRIBER

LOG = logging.getLogger(__name__)

MAX_FILTER_BYTES = 64 * 1024 * 1024
"""Bytes of filters and unfinished requests of all users together."""


@dataclass(slots=True)
class _Totals:
    delivered: int = 0
    dropped: int = 0
    bytes: int = 0

    def add(self, delivered: int, dropped: int, size: int) -> None:
        self.delivered += delivered
        self.dropped += dropped
        self.bytes += size


class Fanout:
    """All subscribers, and the streams that they read.

    Args:
        context: the loop, the log and the store of descriptors.
        limits: which processes may connect, and how many.
        policy: which subscribers may read which records.
        ring_size: bytes of records kept for subscribers that are behind.
        max_filter_bytes_per_user: bytes of filters and unfinished requests of one user.
        group_limits: limits of groups.
    """

    def __init__(
        self,
        context: Context,
        limits: ConnectionLimits,
        policy: Policy,
        ring_size: int,
        max_filter_bytes_per_user: int,
        group_limits: GroupLimits,
    ) -> None:
        self.admission = Admission(limits, context.loop.kernel.monotonic)
        self.quota = Quota("max_filter_bytes_per_user", max_filter_bytes_per_user, MAX_FILTER_BYTES)
        self.store = Store(ring_size)
        self.subscribers: dict[int, Subscriber] = {}
        """By connection number."""
        self.unknown_gaps = 0
        """Number of gap records that announce an unknown number of missing records."""
        self._ended = _Totals()
        """Figures of connections that have ended."""
        self._loop = context.loop
        self._monotonic = context.loop.kernel.monotonic
        self._log = context.log
        self._ids = context.ids
        self._policy = policy
        self._fdstore = context.fdstore
        self._streams = Streams(self.store, context.loop.kernel.thread_time)
        self.groups = Groups(
            context, self._streams, self.store, self.quota, group_limits, self.disconnect
        )
        self._members = self.groups.sender
        self._losses = LossLog(context, self.store, self.subscribers, self.groups.losses)
        self.publisher = Publisher(
            context, self._streams, self.groups, self._losses, self.subscribers, self.disconnect
        )
        self._refusal = RefusalRecord(records.NOT_ADMITTED, records.TOO_MANY_SUBSCRIBERS)
        self._requests = RequestHandler(
            context,
            policy,
            self._streams,
            self.groups,
            self.quota,
            self.subscribers,
            self.disconnect,
        )

    @property
    def streams(self) -> Streams:
        """The streams of all subscribers."""
        return self._streams

    @property
    def delivered(self) -> int:
        """Number of records that sockets took, counted once for each subscriber."""
        return self._ended.delivered + sum(each.delivered for each in self.subscribers.values())

    @property
    def dropped(self) -> int:
        """Number of records that were missed, counted once for each subscriber or group."""
        subscribers = sum(each.dropped for each in self.subscribers.values())
        return self._ended.dropped + subscribers + self.groups.dropped

    @property
    def bytes_delivered(self) -> int:
        """Number of bytes that sockets took, including records of the relay itself."""
        return self._ended.bytes + sum(each.bytes for each in self.subscribers.values())

    @property
    def drained(self) -> bool:
        """Whether everything was sent to all subscribers that can get it."""
        return not any(each.events & WRITE for each in self.subscribers.values())

    def listen(self, listener: socket.socket) -> Acceptor:
        """Accept subscribers from a listening socket."""
        return Acceptor(
            self._loop, self._log, listener, self.admission, self._welcome, self._refusal.send
        )

    def save(self) -> FanoutState:
        """Return all that a successor needs to continue."""
        streams = list(self._streams)
        numbers = {stream: number for number, stream in enumerate(streams)}
        rings = {stream.ring: number for stream, number in numbers.items()}
        kept = list(self.store)
        places = {chunk: number for number, (chunk, _) in enumerate(kept)}
        torn: dict[TornRecord, int] = {}
        subscribers = [each.save(numbers, places, torn) for each in self.subscribers.values()]
        return FanoutState(
            self.publisher.discarded,
            self._ended.delivered,
            self._ended.dropped,
            self._ended.bytes,
            [each.save() for each in streams],
            [ChunkState(rings[ring], chunk.data, chunk.count) for chunk, ring in kept],
            subscribers,
            self.admission.stats.save(),
            self.unknown_gaps,
            [TornRecordState(each.data) for each in torn],
            self.groups.save(numbers),
            self.groups.ended_dropped,
            self.groups.ended_redelivered,
            self.groups.undeliverable,
        )

    def restore(self, saved: FanoutState, connections: Mapping[int, socket.socket]) -> set[int]:
        """Continue where another process has stopped.

        A subscriber is not restored if its connection is missing, if the access rules now allow it
        other records, or if its filters exceed the quota. Only its figures are kept.

        Args:
            saved: what `save` returned there.
            connections: the connections of subscribers, by connection number.

        Returns:
            The numbers of the connections that were restored. A member of a group that cannot be
            sent to may be disconnected already.
        """
        self.publisher.discarded = saved.discarded
        self.unknown_gaps = saved.unknown_gaps
        self.admission.stats.restore(saved.connections)
        self._ended = _Totals(saved.delivered, saved.dropped, saved.bytes)
        streams = {}
        for number in sorted(saved.streams_in_use):
            streams[number] = self._streams.of(*saved.streams[number].views())
            streams[number].ring.restore(saved.streams[number].next_seq)
        rings = {number: stream.ring for number, stream in streams.items()}
        chunks = self.store.restore(
            [(rings.get(each.stream), each.data, each.count) for each in saved.chunks]
        )
        torn_records = [TornRecord(each.data) for each in saved.torn]
        self.groups.restore(saved, streams)
        for each in saved.subscribers:
            connection = connections.get(each.id)
            if connection is not None and self._is_allowed(each, streams) and self._charge(each):
                self.admission.enter(each.peer)
                current, *pending = (
                    self.groups.restore_member(part, each.id)
                    if part.member is not None
                    else Subscription(streams[part.stream], each.id)
                    for part in each.subscriptions
                )
                subscriber = self._admit(each.id, connection, each.peer, current)
                subscriber.restore(each, pending[0] if pending else None, chunks, torn_records)
                if subscriber.is_behind:
                    current.stream.mark_behind(subscriber)
                self.groups.attach_restored(subscriber)
                self._update_events(subscriber)
            else:
                saved.add_ended(each)
                self._ended.add(each.delivered, each.dropped, each.bytes_sent)
        self.groups.finish_restore(saved.absent)
        # Only now: streams and chunks must stay until all subscribers have their positions.
        for stream in streams.values():
            stream.ring.evict_unused()
        self._streams.end_unused()
        self.store.shrink()
        self._losses.update()
        restored = set(self.subscribers)
        for subscriber in list(self.subscribers.values()):
            if isinstance(subscriber.subscription, Membership):
                self._members.serve_member(subscriber, subscriber.subscription)
            if subscriber.id in self.subscribers:
                self._requests.schedule(subscriber)
        return restored

    def _charge(self, saved: SubscriberState) -> bool:
        """Charge the filters and requests of a subscriber; return whether the quota allows it."""
        try:
            self.quota.charge(saved.peer.uid, saved.charge)
        except QuotaError as error:
            LOG.warning("filter of %s not restored: %s", saved.peer, error)
            return False
        return True

    def _is_allowed(self, saved: SubscriberState, streams: Mapping[int, Stream]) -> bool:
        """Return whether the access rules allow a subscriber the same records as before."""
        allowed = self._policy.allowed(saved.peer)
        return all(
            view.allowed == allowed
            for each in saved.subscriptions
            for view in (
                streams[each.stream].views if each.member is None else [each.member.view.view()]
            )
        )

    def adopt(self, number: int, connection: socket.socket, request: bytes) -> None:
        """Serve a subscriber of which only the connection and the last request are known.

        The bytes that it has received may end within a record, so the gap record that it gets
        begins with a newline. It may still wait for the answer to its request, so the request is
        handled, and answered, again.

        Args:
            number: the number of the connection.
            connection: a non-blocking socket.
            request: the last request, empty if there is none.
        """
        peer = peer_of(connection)
        self.admission.enter(peer)
        subscription = Subscription(self._stream_of(peer), number)
        subscriber = self._admit(number, connection, peer, subscription)
        subscriber.fall_behind().insert(b"\n" + records.gap(None, "relay_restarted"))
        self.unknown_gaps += 1
        if request:
            # Not paced: until the filter is in force, records would be sent that it excludes.
            self._requests.handle(subscriber, request)
        self._update_events(subscriber)

    def disconnect(self, subscriber: Subscriber) -> None:
        """End a connection."""
        self._requests.finish_last(subscriber)
        # Before the cursors are dropped below: the figures are derived from them.
        for each in subscriber.subscriptions:
            if isinstance(each, Membership):
                self.groups.leave(each)
        self._losses.disconnected(subscriber)
        self._ended.add(subscriber.delivered, subscriber.dropped, subscriber.bytes)
        for each in subscriber.subscriptions:
            each.stream.mark_behind(subscriber)
            each.catch_up()
            self._streams.leave(each.stream)
        self._loop.forget(subscriber.socket.fileno())
        del self.subscribers[subscriber.id]
        self._requests.forget(subscriber)
        self.admission.leave(subscriber.peer)
        self._fdstore.close_connection(SUBSCRIBER, subscriber.id, subscriber.socket)
        LOG.debug("subscriber disconnected: %s", subscriber.peer)

    def close(self) -> None:
        """Disconnect every subscriber."""
        for subscriber in list(self.subscribers.values()):
            self.disconnect(subscriber)

    def _welcome(self, connection: socket.socket, peer: Peer) -> None:
        number = next(self._ids)
        self._admit(number, connection, peer, Subscription(self._stream_of(peer), number))
        LOG.debug("subscriber connected: %s", peer)

    def _admit(
        self, number: int, connection: socket.socket, peer: Peer, subscription: Subscription
    ) -> Subscriber:
        subscriber = Subscriber(number, connection, peer, subscription, self._monotonic())
        try:
            callback = partial(self._on_event, subscriber)
            self._loop.watch(connection.fileno(), READ, callback, urgent=True)
        except OSError:
            self._streams.leave(subscription.stream)
            raise
        self.subscribers[number] = subscriber
        subscription.stream.mark_current(subscriber)
        self._fdstore.keep_subscriber(number, connection)
        return subscriber

    def _stream_of(self, peer: Peer) -> Stream:
        """Return the stream that a subscriber reads until it requests another one."""
        return self._streams.of(View(None, self._policy.allowed(peer)))

    def _on_event(self, subscriber: Subscriber, events: int) -> None:
        if events & HANGUP:
            self.disconnect(subscriber)
            return
        if events & READ and not subscriber.waiting:
            self._requests.schedule(subscriber, readable=True)
            if subscriber.id not in self.subscribers:
                return
        cursor = subscriber.subscription.cursor
        if events & WRITE and cursor is not None:
            self._send_from(cursor, subscriber)
        elif events & WRITE and isinstance(subscriber.subscription, Membership):
            self._members.serve_member(subscriber, subscriber.subscription)

    def _send_from(self, cursor: Cursor, subscriber: Subscriber) -> None:
        """Send once what the cursor of a subscriber has to send."""
        buffers = cursor.buffers()
        self._losses.update()
        try:
            sent = subscriber.socket.sendmsg(buffers)
        except OSError as error:
            if error.errno not in TRANSIENT_ERRORS:
                self.disconnect(subscriber)
                return
            sent = 0
        subscriber.bytes += sent
        cursor.advance(sent)
        if not cursor.finished:
            return
        if subscriber.pending is not None:
            self._requests.finish_change(subscriber, subscriber.pending)
        elif cursor.stopped:
            self._requests.discard_input(subscriber)
            self.disconnect(subscriber)
        else:
            subscriber.catch_up()
            self._losses.caught_up(subscriber)
            self._update_events(subscriber)
            if isinstance(subscriber.subscription, Membership):
                self._members.note_drained(subscriber, subscriber.subscription)

    def _update_events(self, subscriber: Subscriber) -> None:
        self._loop.change(subscriber.socket.fileno(), subscriber.events)
