# SPDX-License-Identifier: Apache-2.0
"""The way out: runs of records go to all subscribers.

A subscriber is *current* or *behind*. A current one has everything up to the end of the ring: a
new run is handed to its socket whole, straight out of the ring, and that is all there is to it. A
socket that does not take all of it puts its subscriber behind, with a cursor, and from then on
nothing is spent on it until the kernel says that it takes data again. So the cost of a run is one
send for each subscriber that reads, and nothing for those that do not.
"""

import contextlib
import logging
import socket
import time
from functools import partial

from notif_relay import records
from notif_relayd import requests
from notif_relayd.door import Door
from notif_relayd.loop import HANGUP, READ, WRITE, Loop
from notif_relayd.peer import Peer
from notif_relayd.ring import Cursor, Ring
from notif_relayd.throttle import Throttle

LOG = logging.getLogger(__name__)


class Subscriber:
    """One connection to the public socket."""

    __slots__ = (
        "_announced",
        "_joined",
        "bytes",
        "cursor",
        "peer",
        "reading",
        "request",
        "since",
        "socket",
    )

    def __init__(self, connection: socket.socket, peer: Peer, joined: int) -> None:
        self.socket = connection
        self.peer = peer
        self.since = time.monotonic()
        self.cursor: Cursor | None = None
        """Its place in the ring; `None` while it is current."""
        self.request = bytearray()
        """What it has written of a request that is not complete yet."""
        self.reading = True
        """Whether it may still write: a subscriber may shut its own direction down."""
        self.bytes = 0
        self._joined = joined
        self._announced = 0

    def caught_up(self) -> None:
        """The subscriber is current again."""
        if self.cursor is not None:
            self.cursor.detach()
            self._announced += self.cursor.announced
            self.cursor = None

    def lag(self, ring: Ring) -> int:
        """Records in the ring that it has yet to get."""
        return 0 if self.cursor is None else ring.next_seq - self.cursor.position - self._lost

    def dropped(self) -> int:
        """Records that it will never get, whether it was told already or not."""
        announced = 0 if self.cursor is None else self.cursor.announced
        return self._announced + announced + self._lost

    def delivered(self, ring: Ring) -> int:
        """Records that its socket took; derived, because counting would cost every send."""
        return ring.next_seq - self._joined - self.dropped() - self.lag(ring)

    @property
    def _lost(self) -> int:
        return 0 if self.cursor is None else self.cursor.lost


class Fanout:
    """All subscribers, and the ring that they share.

    Args:
        loop: says whose socket takes data again.
        throttle: where refused subscribers are reported.
        max_subscribers: connections at most; may be changed while running.
        ring_size: bytes kept for subscribers that fall behind.
    """

    def __init__(
        self, loop: Loop, throttle: Throttle, max_subscribers: int, ring_size: int
    ) -> None:
        self.max_subscribers = max_subscribers
        self.ring = Ring(ring_size)
        self.subscribers: dict[int, Subscriber] = {}
        self.discarded = 0
        self._delivered_before = 0
        self._dropped_before = 0
        self._bytes_before = 0
        self._loop = loop
        self._throttle = throttle
        self._current: set[Subscriber] = set()

    @property
    def delivered(self) -> int:
        """Records handed over, one for each subscriber that got it."""
        now = sum(each.delivered(self.ring) for each in self.subscribers.values())
        return self._delivered_before + now

    @property
    def dropped(self) -> int:
        """Records that subscribers did not get, one for each subscriber that missed it."""
        return self._dropped_before + sum(each.dropped() for each in self.subscribers.values())

    @property
    def bytes_delivered(self) -> int:
        """Bytes that sockets took, the relay's own records among them."""
        return self._bytes_before + sum(each.bytes for each in self.subscribers.values())

    @property
    def drained(self) -> bool:
        """Whether everybody has everything."""
        return len(self._current) == len(self.subscribers)

    def door(self, listener: socket.socket) -> Door:
        """Let subscribers in through `listener`."""
        return Door(self._loop, self._throttle, listener, self._room, self._welcome, self._refuse)

    def publish(self, run: bytes, count: int) -> None:
        """Give `count` records to everybody; nothing is kept when there is nobody."""
        if not self.subscribers:
            self.discarded += count
            return
        self.ring.append(run, count)
        size = len(run)
        late: list[tuple[Subscriber, int]] = []
        gone: list[Subscriber] = []
        for subscriber in self._current:
            try:
                sent = subscriber.socket.send(run)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                gone.append(subscriber)
                continue
            subscriber.bytes += sent
            if sent != size:
                late.append((subscriber, size - sent))
        for subscriber, unsent in late:
            self._put_behind(subscriber).rewind(unsent)
        for subscriber in gone:
            self.disconnect(subscriber)
        self._tidy()

    def disconnect(self, subscriber: Subscriber) -> None:
        """End a connection."""
        self._delivered_before += subscriber.delivered(self.ring)
        self._dropped_before += subscriber.dropped()
        self._bytes_before += subscriber.bytes
        subscriber.caught_up()
        fd = subscriber.socket.fileno()
        self._loop.forget(fd)
        del self.subscribers[fd]
        self._current.discard(subscriber)
        subscriber.socket.close()
        self._tidy()
        LOG.debug("subscriber left: %s", subscriber.peer)

    def close(self) -> None:
        """Let everybody go."""
        for subscriber in list(self.subscribers.values()):
            self.disconnect(subscriber)

    def _room(self) -> int:
        return self.max_subscribers - len(self.subscribers)

    def _welcome(self, connection: socket.socket, peer: Peer) -> None:
        subscriber = Subscriber(connection, peer, self.ring.next_seq)
        fd = connection.fileno()
        self.subscribers[fd] = subscriber
        self._current.add(subscriber)
        self._loop.watch(fd, READ, partial(self._on_event, subscriber))
        LOG.debug("subscriber connected: %s", peer)

    def _refuse(self, connection: socket.socket, peer: Peer) -> None:
        sentence = f"there are max_subscribers = {self.max_subscribers} already"
        self._throttle.warning("subscriber refused: %s; %s", peer, sentence)
        with contextlib.suppress(OSError):
            connection.send(records.error(f"This relay takes no more subscribers: {sentence}."))

    def _on_event(self, subscriber: Subscriber, events: int) -> None:
        if events & HANGUP:
            self.disconnect(subscriber)
            return
        if events & READ:
            self._read(subscriber)
        if events & WRITE and subscriber.cursor is not None:
            self._catch_up(subscriber, subscriber.cursor)

    def _read(self, subscriber: Subscriber) -> None:
        try:
            data = subscriber.socket.recv(requests.MAX_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.disconnect(subscriber)
            return
        if not data:
            subscriber.reading = False
            self._wait(subscriber)
        elif subscriber.cursor is None or not subscriber.cursor.last:
            subscriber.request += data
            if b"\n" in data or len(subscriber.request) > requests.MAX_SIZE:
                answer = records.error(requests.refusal(bytes(subscriber.request)))
                cursor = subscriber.cursor or self._put_behind(subscriber)
                cursor.end(answer)

    def _put_behind(self, subscriber: Subscriber) -> Cursor:
        cursor = subscriber.cursor = Cursor(self.ring, _slow_subscriber)
        self._current.discard(subscriber)
        self._wait(subscriber)
        return cursor

    def _catch_up(self, subscriber: Subscriber, cursor: Cursor) -> None:
        try:
            sent = subscriber.socket.sendmsg(cursor.buffers())
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.disconnect(subscriber)
            return
        subscriber.bytes += sent
        cursor.advance(sent)
        if cursor.finished and cursor.last:
            self.disconnect(subscriber)
        elif cursor.finished:
            subscriber.caught_up()
            self._current.add(subscriber)
            self._wait(subscriber)
            self._tidy()

    def _tidy(self) -> None:
        """Keep nothing that nobody waits for: memory that is used again at once is fast memory."""
        if self.drained:
            self.ring.clear()

    def _wait(self, subscriber: Subscriber) -> None:
        events = READ if subscriber.reading else 0
        if subscriber.cursor is not None:
            events |= WRITE
        self._loop.change(subscriber.socket.fileno(), events)


def _slow_subscriber(lost: int) -> bytes:
    return records.gap(lost, "slow_subscriber")
