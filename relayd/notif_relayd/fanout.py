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
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from notif_relay import records
from notif_relayd import ancillary, requests
from notif_relayd.admission import Admission, Terms
from notif_relayd.descriptors import SUBSCRIBER, DescriptorStore
from notif_relayd.door import Door
from notif_relayd.filters import Filter, View
from notif_relayd.loop import HANGUP, NOT_NOW, READ, WRITE, Loop
from notif_relayd.pages import Pages
from notif_relayd.peer import Peer, peer_of
from notif_relayd.ring import Cursor, Store
from notif_relayd.rules import Rules
from notif_relayd.splitter import split
from notif_relayd.state import ChunkState, FanoutState, SubscriberState
from notif_relayd.streams import Streams
from notif_relayd.subscriber import Reading, Stream, Subscriber
from notif_relayd.throttle import Throttle
from notif_relayd.validator import Kind

LOG = logging.getLogger(__name__)

TORN_SIZE = 64 * 1024 * 1024
"""Bytes kept for single subscribers that have stopped in the middle of a record, all together."""

REST = 0.05
"""Seconds from a request's coming into force until the same subscriber's next one is looked at.

Each takes as long as many records do, and nobody needs a new filter more often.
"""


class Fanout:
    """All subscribers, and the streams that they read.

    Args:
        loop: says whose socket takes data again.
        throttle: where the door reports whom it has refused.
        ids: numbers for connections.
        descriptors: keeps connections for the next relay.
        terms: who may read.
        rules: who may read what.
        ring_size: bytes kept for subscribers that fall behind.
    """

    def __init__(
        self,
        loop: Loop,
        throttle: Throttle,
        ids: Iterator[int],
        descriptors: DescriptorStore,
        terms: Terms,
        rules: Rules,
        ring_size: int,
    ) -> None:
        self.admission = Admission(terms)
        self.store = Store(ring_size)
        self.subscribers: dict[int, Subscriber] = {}
        """By the number of the connection."""
        self.discarded = 0
        self.unknown_gaps = 0
        """Gap records that say that a number of records is missing that nobody knows."""
        self._delivered_before = 0
        self._dropped_before = 0
        self._bytes_before = 0
        self._loop = loop
        self._throttle = throttle
        self._ids = ids
        self._rules = rules
        self._descriptors = descriptors
        self._streams = Streams(self.store)
        self._pages = Pages()

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

    def door(self, listener: socket.socket) -> Door:
        """Let subscribers in through `listener`."""
        return Door(
            self._loop, self._throttle, listener, self.admission, self._welcome, self._refuse
        )

    def prompt(self, most: int) -> tuple[list[int], int]:
        """Sockets that get every record at once, unless they are more than `most`; none then.

        Returns:
            Their descriptors. Whoever sends a run to all of them has to tell `publish`. And bytes,
            from which on that is not the best way to do it.
        """
        stream = self._streams.everything
        if stream is None or len(stream.current) > most:
            return [], 0
        sockets = [each.socket.fileno() for each in stream.current]
        return sockets, self._pages.threshold(len(sockets))

    def publish(self, run: bytes, kinds: list[Kind], results: Sequence[int] = ()) -> None:
        """Give records to everybody who wants them; nothing is kept when there is nobody.

        Args:
            run: the records.
            kinds: the kind of each.
            results: what became of it, if the sockets that `prompt` named have got it just now: the
                bytes that each of them took, or below zero the number of its error.
        """
        if not self.subscribers:
            self.discarded += len(kinds)
            return
        if self._streams.everything is not None:
            self._send(self._streams.everything, run, len(kinds), results)
        lines: list[bytes] = []
        for stream, places in self._streams.select(kinds):
            lines = lines or list(split(run))
            some = [lines[place] for place in places]
            self._send(stream, b"".join(some), len(some))

    def save(self) -> FanoutState:
        """All that is known of what goes out."""
        streams = list(self._streams)
        numbers = {stream: number for number, stream in enumerate(streams)}
        rings = {stream.ring: number for stream, number in numbers.items()}
        kept = list(self.store)
        places = {chunk: number for number, (chunk, _) in enumerate(kept)}
        return FanoutState(
            self.discarded,
            self._delivered_before,
            self._dropped_before,
            self._bytes_before,
            [each.save() for each in streams],
            [ChunkState(rings[ring], chunk.data, chunk.count) for chunk, ring in kept],
            [each.save(numbers, places) for each in self.subscribers.values()],
            self.admission.counts.save(),
            self.unknown_gaps,
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
        streams = []
        for each in saved.streams:
            streams.append(self._streams.of(each.view()))
            streams[-1].ring.next_seq = each.next_seq
        for chunk in saved.chunks:
            streams[chunk.stream].ring.next_seq -= chunk.count
        # The limit, which may be a lower one now, holds when everybody has a place.
        limit, self.store.limit = self.store.limit, sys.maxsize
        for chunk in saved.chunks:
            streams[chunk.stream].ring.append(chunk.data, chunk.count)
        chunks = [chunk for chunk, _ in self.store]
        for who in saved.subscribers:
            connection = connections.get(who.id)
            if connection is not None and self._may_see(who, streams):
                self.admission.enter(who.peer)
                stream = streams[who.reading.stream]
                subscriber = self._admit(who.id, connection, who.peer, stream)
                subscriber.restore(who, streams, chunks)
                if subscriber.reading.cursor is not None:
                    stream.lapse(subscriber)
                self._wait(subscriber)
            else:
                self._delivered_before += who.delivered
                self._dropped_before += who.dropped
                self._bytes_before += who.bytes
        for stream in streams:
            stream.ring.tidy()
        self._streams.tidy()
        self.store.limit = limit
        self.store.shrink()
        for subscriber in self.subscribers.values():
            self._serve(subscriber)

    def _may_see(self, who: SubscriberState, streams: Sequence[Stream]) -> bool:
        """Whether that is still what it may see."""
        allowed = self._rules.allowed(who.peer)
        readings = (who.reading, who.following)
        return all(streams[r.stream].view.allowed == allowed for r in readings if r is not None)

    def adopt(self, number: int, connection: socket.socket, request: bytes | None) -> None:
        """Serve a subscriber of whom nothing is known but its connection, from here on.

        What it has got may end within a record, so a newline goes first. It may still wait for an
        answer to its request, so it gets another.
        """
        peer = peer_of(connection)
        self.admission.enter(peer)
        subscriber = self._admit(number, connection, peer, self._stream_of(peer))
        lost = b"\n" + records.gap(None, "relay_restarted")
        self._put_behind(subscriber).insert(lost)
        self.unknown_gaps += 1
        if request is not None:
            subscriber.request += request + b"\n"
            self._serve(subscriber)

    def disconnect(self, subscriber: Subscriber) -> None:
        """End a connection."""
        for reading in (subscriber.reading, subscriber.following):
            if reading is not None:
                reading.stream.lapse(subscriber)
        self._delivered_before += subscriber.delivered
        self._dropped_before += subscriber.dropped
        self._bytes_before += subscriber.bytes
        for reading in (subscriber.reading, subscriber.following):
            if reading is not None:
                reading.catch_up()
                self._streams.leave(reading.stream)
        self._loop.forget(subscriber.socket.fileno())
        del self.subscribers[subscriber.id]
        self.admission.leave(subscriber.peer)
        self._descriptors.give_up(SUBSCRIBER, subscriber.id, subscriber.socket)
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
        subscriber = Subscriber(number, connection, peer, stream)
        try:
            callback = partial(self._on_event, subscriber)
            self._loop.watch(connection.fileno(), READ, callback, out_of_turn=True)
        except OSError:
            self._streams.leave(stream)
            raise
        self.subscribers[number] = subscriber
        stream.current.add(subscriber)
        self._descriptors.keep(SUBSCRIBER, number, connection)
        return subscriber

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        with contextlib.suppress(OSError):
            connection.send(records.error(f"{records.FULL}: {reason}."))

    def _stream_of(self, peer: Peer) -> Stream:
        """What it reads as long as it has not asked for anything."""
        return self._streams.of(View(None, self._rules.allowed(peer)))

    def _on_event(self, subscriber: Subscriber, events: int) -> None:
        if events & HANGUP:
            self.disconnect(subscriber)
            return
        if events & READ and not self._read(subscriber):
            return
        if events & WRITE and subscriber.reading.cursor is not None:
            self._catch_up(subscriber, subscriber.reading.cursor)

    def _send(self, stream: Stream, run: bytes, count: int, results: Sequence[int] = ()) -> None:
        size = len(run)
        late: list[tuple[Subscriber, int]] = []
        gone: list[Subscriber] = []
        send = _done(results) if results else self._pages.sender(run, len(stream.current))
        for subscriber in stream.current:
            try:
                sent = send(subscriber.socket)
            except OSError as error:
                if error.errno not in NOT_NOW:
                    gone.append(subscriber)
                sent = 0
            subscriber.bytes += sent
            if sent != size:
                late.append((subscriber, size - sent))
        if late or stream.ring.cursors:
            stream.ring.append(run, count)
        else:
            stream.ring.skip(count)
        for subscriber, unsent in late:
            self._put_behind(subscriber).rewind(unsent)
        for subscriber in gone:
            self.disconnect(subscriber)
        if self.store.torn > TORN_SIZE:
            self._make_room()

    def _make_room(self) -> None:
        """Let those go who have stopped reading in the middle of the longest records."""
        while self.store.torn > TORN_SIZE:
            longest = max(self.subscribers.values(), key=lambda each: each.torn)
            self._throttle.warning(
                "connection ended: %s: stopped reading in the middle of a record, of which %d "
                "bytes are kept for it; there is room for %d, of all subscribers together",
                longest.peer,
                longest.torn,
                TORN_SIZE,
            )
            self.disconnect(longest)

    def _put_behind(self, subscriber: Subscriber) -> Cursor:
        subscriber.reading.stream.lapse(subscriber)
        cursor = subscriber.reading.fall_behind()
        self._wait(subscriber)
        return cursor

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
            self._streams.leave(subscriber.go_on(subscriber.following))
            subscriber.resting = True
            self._wait(subscriber)
            self._loop.call_in(REST, partial(self._rested, subscriber))
        elif cursor.stopped:
            self.disconnect(subscriber)
        else:
            subscriber.reading.catch_up()
            subscriber.reading.stream.current.add(subscriber)
            self._wait(subscriber)

    def _read(self, subscriber: Subscriber) -> bool:
        """Read what a subscriber has written; whether it is still there."""
        try:
            data = ancillary.receive(subscriber.socket, requests.MAX_SIZE)
        except OSError as error:
            if error.errno in NOT_NOW:
                return True
            self.disconnect(subscriber)
            return False
        if not data:
            subscriber.listening = False
            self._wait(subscriber)
        elif not subscriber.ending:
            subscriber.request += data
            self._serve(subscriber)
        return True

    def _rested(self, subscriber: Subscriber) -> None:
        subscriber.resting = False
        if subscriber.id in self.subscribers:
            self._wait(subscriber)
            self._serve(subscriber)

    def _serve(self, subscriber: Subscriber) -> None:
        """Answer the next request, if it is complete and the one before it is in force."""
        while subscriber.following is None and not (subscriber.resting or subscriber.ending):
            line, newline, rest = subscriber.request.partition(b"\n")
            if len(line) + len(newline) > requests.MAX_SIZE:
                sentence = f"The request is longer than {requests.MAX_SIZE} bytes."
            elif not newline:
                return
            else:
                subscriber.request = rest
                try:
                    wanted, asked = requests.parse(bytes(line))
                    self._descriptors.keep_filter(subscriber.id, bytes(line))
                    self._change(subscriber, wanted, asked)
                    continue
                except requests.RequestError as error:
                    sentence = str(error)
            cursor = subscriber.reading.cursor or self._put_behind(subscriber)
            cursor.stop_with(records.error(sentence))

    def _change(self, subscriber: Subscriber, wanted: Filter, asked: dict[str, list[str]]) -> None:
        cursor = subscriber.reading.cursor or self._put_behind(subscriber)
        cursor.stop()
        view = View(wanted if wanted.patterns else None, self._rules.allowed(subscriber.peer))
        subscriber.following = Reading(self._streams.of(view))
        subscriber.following.fall_behind().insert(records.subscribed(asked))
        self._wait(subscriber)

    def _wait(self, subscriber: Subscriber) -> None:
        """Have the loop tell what can be done now: a request is read when the last is in force."""
        busy = subscriber.following is not None or subscriber.resting
        reads = subscriber.listening and not busy
        writes = subscriber.reading.cursor is not None
        self._loop.change(subscriber.socket.fileno(), reads * READ | writes * WRITE)


def _done(results: Sequence[int]) -> Callable[[socket.socket], int]:
    """In place of sends that were made: returns or raises with each call what the next one did."""
    rest = iter(results)

    def send(_connection: socket.socket) -> int:
        result = next(rest)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    return send
