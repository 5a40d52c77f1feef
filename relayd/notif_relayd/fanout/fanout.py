# SPDX-License-Identifier: Apache-2.0
"""The way out: runs of records go to all subscribers.

A run is handed whole to the socket of every subscriber that is current, and that is all there is
to it. A socket that does not take all of it puts its subscriber behind, and from then on nothing
is spent on it until the kernel says that it takes data again. So the cost of a run is one send
for each subscriber that reads, and nothing for those that do not.

Subscribers with the same filter read the same stream: what it lets through is picked out of a run
once for all of them. Those without a filter get the run as it is, and are not concerned by the
filters of others.
"""

import contextlib
import logging
import math
import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from notif_relay import records
from notif_relayd.access.admission import Admission
from notif_relayd.access.policy import Policy
from notif_relayd.access.quota import Quota, QuotaError
from notif_relayd.context import Context
from notif_relayd.fanout.chunk import TornRecord
from notif_relayd.fanout.request_handler import RequestHandler
from notif_relayd.fanout.ring import Cursor, Store
from notif_relayd.fanout.saved_state import (
    ChunkState,
    FanoutState,
    SubscriberState,
    TornRecordState,
)
from notif_relayd.fanout.shared_pages import SharedPages
from notif_relayd.fanout.streams import Streams
from notif_relayd.fanout.subscriber import Stream, Subscriber
from notif_relayd.net.acceptor import Acceptor
from notif_relayd.net.loop import HANGUP, NOT_NOW, READ, WRITE
from notif_relayd.peer import Peer, peer_of
from notif_relayd.records.filters import View
from notif_relayd.records.framing import split
from notif_relayd.records.validator import RoutingKey
from notif_relayd.settings import ConnectionLimits
from notif_relayd.systemd.fdstore import SUBSCRIBER

LOG = logging.getLogger(__name__)

MAX_TORN_BYTES = 32 * 1024 * 1024
"""Bytes of torn records, of all users together: records that have left the ring, but not for those
subscribers that stopped reading in the middle of them."""

MAX_FILTER_BYTES = 64 * 1024 * 1024
"""Bytes of filters and unfinished requests of all users together."""


class Fanout:
    """All subscribers, and the streams that they read.

    Args:
        context: the loop, the log and the store of descriptors.
        limits: which processes may connect, and how many.
        policy: which subscribers may read which records.
        ring_size: bytes kept for subscribers that fall behind.
        max_filter_bytes_per_user: bytes of filters and unfinished requests of one user.
    """

    def __init__(
        self,
        context: Context,
        limits: ConnectionLimits,
        policy: Policy,
        ring_size: int,
        max_filter_bytes_per_user: int,
    ) -> None:
        self.admission = Admission(limits, context.loop.kernel.monotonic)
        self.quota = Quota("max_filter_bytes_per_user", max_filter_bytes_per_user, MAX_FILTER_BYTES)
        self.store = Store(ring_size)
        self.subscribers: dict[int, Subscriber] = {}
        """By the number of the connection."""
        self.discarded = 0
        self.unknown_gaps = 0
        """Gap records that say that a number of records is missing that nobody knows."""
        self._delivered_before = 0
        self._dropped_before = 0
        self._bytes_before = 0
        self._loop = context.loop
        self._monotonic = context.loop.kernel.monotonic
        self._log = context.log
        self._ids = context.ids
        self._policy = policy
        self._fdstore = context.fdstore
        self._streams = Streams(self.store, context.loop.kernel.thread_time)
        self._pages = SharedPages()
        self._refusal = "", b""
        """The last reason for a refused connection, and the record that tells it."""
        self._requests = RequestHandler(
            context, policy, self._streams, self.quota, self.subscribers, self.disconnect
        )

    @property
    def delivered(self) -> int:
        """Records handed over, one for each subscriber that got it."""
        return self._delivered_before + sum(each.delivered for each in self.subscribers.values())

    @property
    def dropped(self) -> int:
        """Records that subscribers did not get, one for each subscriber that missed it."""
        return self._dropped_before + sum(each.dropped for each in self.subscribers.values())

    @property
    def bytes_delivered(self) -> int:
        """Bytes that sockets took, the relay's own records among them."""
        return self._bytes_before + sum(each.bytes for each in self.subscribers.values())

    @property
    def drained(self) -> bool:
        """Whether everybody has everything."""
        current = sum(len(stream.current) for stream in self._streams)
        return current == len(self.subscribers)

    def listen(self, listener: socket.socket) -> Acceptor:
        """Let subscribers in through `listener`."""
        return Acceptor(
            self._loop, self._log, listener, self.admission, self._welcome, self._refuse
        )

    def fast_recipients(self, limit: int) -> tuple[list[Subscriber], int]:
        """Return the subscribers to which the fast path sends each batch before `publish`.

        Args:
            limit: the number of subscribers that the fast path can serve.

        Returns:
            The current subscribers of the unfiltered stream, none if they are more than `limit`;
            and the size of a batch, in bytes, from which on the fast path must not send it.
        """
        stream = self._streams.unfiltered
        if stream is None or len(stream.current) > limit:
            return [], 0
        return list(stream.current.values()), self._pages.threshold(len(stream.current))

    def publish(
        self,
        batch: bytes,
        routing_keys: list[RoutingKey],
        recipients: Sequence[Subscriber] = (),
        results: Sequence[int] = (),
    ) -> float:
        """Send records to the subscribers that read them; without subscribers, discard them.

        Args:
            batch: the records.
            routing_keys: one for each record.
            recipients: what `fast_recipients` returned just before the fast path sent the batch.
            results: for each recipient the bytes that its socket took, or the negative error
                number; empty if the fast path did not send the batch.

        Returns:
            Processor time, in seconds, to match values of fields that are not remembered with
            patterns: what a producer can make expensive.
        """
        if not self.subscribers:
            self.discarded += len(routing_keys)
            return 0.0
        unfiltered = self._streams.unfiltered
        if unfiltered is not None:
            if results:
                self._note_sends(unfiltered, batch, len(routing_keys), recipients, results)
            else:
                self._send(unfiltered, batch, len(routing_keys))
        before = self._streams.seconds
        lines: list[bytes] = []
        for stream, places in self._streams.select(routing_keys):
            lines = lines or list(split(batch))
            some = [lines[place] for place in places]
            self._send(stream, b"".join(some), len(some))
        return self._streams.seconds - before

    def save(self) -> FanoutState:
        """All that is known of what goes out."""
        streams = list(self._streams)
        numbers = {stream: number for number, stream in enumerate(streams)}
        rings = {stream.ring: number for stream, number in numbers.items()}
        kept = list(self.store)
        places = {chunk: number for number, (chunk, _) in enumerate(kept)}
        torn: dict[TornRecord, int] = {}
        subscribers = [each.save(numbers, places, torn) for each in self.subscribers.values()]
        return FanoutState(
            self.discarded,
            self._delivered_before,
            self._dropped_before,
            self._bytes_before,
            [each.save() for each in streams],
            [ChunkState(rings[ring], chunk.data, chunk.count) for chunk, ring in kept],
            subscribers,
            self.admission.counts.save(),
            self.unknown_gaps,
            [TornRecordState(each.data) for each in torn],
        )

    def restore(self, saved: FanoutState, connections: Mapping[int, socket.socket]) -> None:
        """Go on where another relay has stopped, with those subscribers that are still there.

        Who may see something else now than then is left out.
        """
        self.discarded = saved.discarded
        self.unknown_gaps = saved.unknown_gaps
        self.admission.counts.restore(saved.connections)
        self._delivered_before = saved.delivered
        self._dropped_before = saved.dropped
        self._bytes_before = saved.bytes
        streams = {}
        for number in sorted(saved.streams_in_use):
            streams[number] = self._streams.of(saved.streams[number].view())
            streams[number].ring.restore(saved.streams[number].next_seq)
        rings = {number: stream.ring for number, stream in streams.items()}
        chunks = self.store.restore(
            [(rings.get(each.stream), each.data, each.count) for each in saved.chunks]
        )
        torn_records = [TornRecord(each.data) for each in saved.torn]
        for who in saved.subscribers:
            connection = connections.get(who.id)
            if connection is not None and self._may_see(who, streams) and self._can_charge(who):
                self.admission.enter(who.peer)
                stream = streams[who.reading.stream]
                subscriber = self._admit(who.id, connection, who.peer, stream)
                subscriber.restore(who, streams, chunks, torn_records)
                if subscriber.reading.cursor is not None:
                    stream.mark_behind(subscriber)
                self._update_events(subscriber)
            else:
                self._delivered_before += who.delivered
                self._dropped_before += who.dropped
                self._bytes_before += who.bytes_sent
        for stream in streams.values():
            stream.ring.tidy()
        self._streams.tidy()
        self.store.shrink()
        for subscriber in list(self.subscribers.values()):
            self._requests.schedule(subscriber)

    def _can_charge(self, who: SubscriberState) -> bool:
        """Charge what the subscriber has; return whether its user may have that much."""
        try:
            self.quota.charge(who.peer.uid, who.charge)
        except QuotaError as error:
            LOG.warning("filter of %s not restored: %s", who.peer, error)
            return False
        return True

    def _may_see(self, who: SubscriberState, streams: Mapping[int, Stream]) -> bool:
        """Whether that is still what it may see."""
        allowed = self._policy.allowed(who.peer)
        return all(streams[each.stream].view.allowed == allowed for each in who.readings)

    def adopt(self, number: int, connection: socket.socket, request: bytes) -> None:
        """Serve a subscriber of whom nothing is known but its connection, from here on.

        What it has got may end within a record, so a newline goes first. It may still wait for an
        answer to its request, so it gets another.
        """
        peer = peer_of(connection)
        self.admission.enter(peer)
        subscriber = self._admit(number, connection, peer, self._stream_of(peer))
        lost = b"\n" + records.gap(None, "relay_restarted")
        subscriber.fall_behind().insert(lost)
        self.unknown_gaps += 1
        if request:
            # At once and not paced: until then records would go out that the filter excludes.
            self._requests.handle(subscriber, request)
        self._update_events(subscriber)

    def disconnect(self, subscriber: Subscriber) -> None:
        """End a connection."""
        # Before the subscriber leaves its streams: these figures are derived from its cursors.
        self._delivered_before += subscriber.delivered
        self._dropped_before += subscriber.dropped
        self._bytes_before += subscriber.bytes
        for reading in subscriber.readings:
            reading.stream.mark_behind(subscriber)
            reading.catch_up()
            self._streams.leave(reading.stream)
        self._loop.forget(subscriber.socket.fileno())
        del self.subscribers[subscriber.id]
        self._requests.forget(subscriber)
        self.admission.leave(subscriber.peer)
        self._fdstore.close_connection(SUBSCRIBER, subscriber.id, subscriber.socket)
        LOG.debug("subscriber left: %s", subscriber.peer)

    def close(self) -> None:
        """Let everybody go."""
        for subscriber in list(self.subscribers.values()):
            self.disconnect(subscriber)

    def _welcome(self, connection: socket.socket, peer: Peer) -> None:
        self._admit(next(self._ids), connection, peer, self._stream_of(peer))
        LOG.debug("subscriber connected: %s", peer)

    def _admit(
        self, number: int, connection: socket.socket, peer: Peer, stream: Stream
    ) -> Subscriber:
        subscriber = Subscriber(number, connection, peer, stream, self._monotonic())
        try:
            callback = partial(self._on_event, subscriber)
            self._loop.watch(connection.fileno(), READ, callback, urgent=True)
        except OSError:
            self._streams.leave(stream)
            raise
        self.subscribers[number] = subscriber
        stream.mark_current(subscriber)
        self._fdstore.keep_subscriber(number, connection)
        return subscriber

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        # In a flood the reason is mostly the same: the record is then made once.
        if reason != self._refusal[0]:
            self._refusal = reason, records.error(f"{records.TOO_MANY_SUBSCRIBERS}: {reason}.")
        with contextlib.suppress(OSError):
            connection.send(self._refusal[1])

    def _stream_of(self, peer: Peer) -> Stream:
        """What it reads as long as it has not asked for anything."""
        return self._streams.of(View(None, self._policy.allowed(peer)))

    def _on_event(self, subscriber: Subscriber, events: int) -> None:
        if events & HANGUP:
            self.disconnect(subscriber)
            return
        if events & READ and not subscriber.waiting:
            self._requests.schedule(subscriber, readable=True)
            if subscriber.id not in self.subscribers:
                return
        if events & WRITE and subscriber.reading.cursor is not None:
            self._catch_up(subscriber, subscriber.reading.cursor)

    def _send(self, stream: Stream, batch: bytes, count: int) -> None:
        """Send `count` records to the current subscribers of a stream."""
        size = len(batch)
        late: list[tuple[Subscriber, int]] = []
        gone: list[Subscriber] = []
        send = self._pages.sender(batch, len(stream.current))
        for subscriber in stream.current.values():
            try:
                sent = send(subscriber.socket)
            except OSError as error:
                if error.errno not in NOT_NOW:
                    gone.append(subscriber)
                sent = 0
            subscriber.bytes += sent
            if sent != size:
                late.append((subscriber, size - sent))
        self._finish(stream, batch, count, late, gone)

    def _note_sends(
        self,
        stream: Stream,
        batch: bytes,
        count: int,
        recipients: Iterable[Subscriber],
        results: Iterable[int],
    ) -> None:
        """Do what `_send` does after its sends, for sends of the fast path."""
        size = len(batch)
        late: list[tuple[Subscriber, int]] = []
        gone: list[Subscriber] = []
        for subscriber, result in zip(recipients, results, strict=True):
            if result < 0 and -result not in NOT_NOW:
                gone.append(subscriber)
            sent = max(0, result)
            subscriber.bytes += sent
            if sent != size:
                late.append((subscriber, size - sent))
        self._finish(stream, batch, count, late, gone)

    def _finish(
        self,
        stream: Stream,
        batch: bytes,
        count: int,
        late: Iterable[tuple[Subscriber, int]],
        gone: Iterable[Subscriber],
    ) -> None:
        """Keep a batch in the ring if a subscriber has yet to get a part of it.

        Args:
            stream: the stream that the batch was sent to.
            batch: the records.
            count: the number of records.
            late: current subscribers whose sockets did not take all of it, and the bytes that are
                missing.
            gone: those of them whose connection has failed.
        """
        if late or stream.ring.cursors:
            stream.ring.append(batch, count)
        else:
            stream.ring.skip(count)
        for subscriber, unsent in late:
            subscriber.fall_behind().rewind(unsent)
            self._update_events(subscriber)
        for subscriber in gone:
            self.disconnect(subscriber)
        if self.store.torn > MAX_TORN_BYTES:
            self._reclaim_torn()

    def _reclaim_torn(self) -> None:
        """Disconnect subscribers of the user that holds the most of torn records."""
        while self.store.torn > MAX_TORN_BYTES:
            by_user: Counter[int] = Counter()
            for each in self.subscribers.values():
                by_user[each.peer.uid] += math.ceil(each.torn_share)
            uid, held = by_user.most_common(1)[0]
            mine = (each for each in self.subscribers.values() if each.peer.uid == uid)
            largest = max(mine, key=lambda each: each.torn_share)
            self._log.warning(
                "connection ended: %s: stopped reading in the middle of a record; %d bytes of such "
                "records are kept for uid %d, and the limit of all users together is %d",
                largest.peer,
                held,
                uid,
                MAX_TORN_BYTES,
            )
            self.disconnect(largest)

    def _catch_up(self, subscriber: Subscriber, cursor: Cursor) -> None:
        try:
            sent = subscriber.socket.sendmsg(cursor.buffers())
        except OSError as error:
            if error.errno not in NOT_NOW:
                self.disconnect(subscriber)
                return
            sent = 0
        subscriber.bytes += sent
        cursor.advance(sent)
        if not cursor.finished:
            return
        if subscriber.following is not None:
            self._requests.finish_change(subscriber, subscriber.following)
        elif cursor.stopped:
            self._requests.discard_input(subscriber)
            self.disconnect(subscriber)
        else:
            subscriber.catch_up()
            self._update_events(subscriber)

    def _update_events(self, subscriber: Subscriber) -> None:
        self._loop.change(subscriber.socket.fileno(), subscriber.events)
