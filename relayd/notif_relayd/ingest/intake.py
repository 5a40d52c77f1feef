# SPDX-License-Identifier: Apache-2.0
"""The way in: producers' bytes become runs of good records.

Each producer that has data is read once a turn, so that a busy one does not starve the others.
What a turn brought from all of them is judged and goes on as one piece: the copy that joins it is
made once, the sends that it saves are made once for every subscriber.
"""

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain, groupby, starmap

from notif_relayd.access.admission import Admission
from notif_relayd.access.token_bucket import TokenBuckets
from notif_relayd.context import Context
from notif_relayd.ingest.producer import Producer
from notif_relayd.ingest.saved_state import IntakeState, ProducerState
from notif_relayd.net.acceptor import Acceptor
from notif_relayd.net.loop import NOT_NOW, NOTHING, READ
from notif_relayd.peer import Peer, peer_of
from notif_relayd.records.framing import Framer, split
from notif_relayd.records.gaps import ProducerGaps
from notif_relayd.records.validator import Reason, RoutingKey, Validator
from notif_relayd.settings import ConnectionLimits
from notif_relayd.systemd.fdstore import PRODUCER

LOG = logging.getLogger(__name__)

READ_SIZE = 96 * 1024
"""Bytes of one read: with records of 1 KiB all that Linux lets a producer's socket hold."""

SUSPECT_READ_SIZE = 128
"""Likewise, of a producer some of whose records were just rejected.

Each of them takes many times what a good one does, and a read may hold 50,000. With every read
that is all good it may send twice as much again; one of a line that was given up is not.
"""

REST = 0.005
"""Seconds until a producer some of whose records were just rejected is read again.

Without it, one that sends nothing else keeps the relay busy all the time. It is half of what a
handler waits for a full socket, so a single bad record has no good one behind it dropped.
"""

EXPENSIVE = 0.001
"""Seconds of processor time from which on the records of a run are expensive: to match new values
with patterns, and to decode records as a whole. Other work for a record takes microseconds."""

EXPENSIVE_SHARE = 0.05
"""Share of the loop's processor time that expensive records of one user may take."""

EXPENSIVE_BURST = 0.05
"""Seconds of it that one user may use at once."""

BATCH_SIZE = 64 * 1024
"""Bytes collected within a turn before they go on without waiting for its end.

With one more read it is less than a subscriber's socket holds. So one that reads as fast as
records come is sent each run whole, and what is too much waits in the sockets of the producers,
where it makes the next read a longer one.
"""

MAX_PARTIAL_BYTES = 32 * 1024 * 1024
"""Bytes of unfinished records, of all producers together."""

LAST_READS = 64
"""Reads from each producer when the relay stops: far more than a socket's buffer holds."""


class Intake:
    """All producers.

    Args:
        context: the loop, the log and the store of descriptors.
        limits: which processes may connect, and how many.
        max_record_size: bytes of the longest record.
        publish: gets every run of good records, and the kind of each; returns the processor time,
            in seconds, that a producer can make expensive.
    """

    def __init__(
        self,
        context: Context,
        limits: ConnectionLimits,
        max_record_size: int,
        publish: Callable[[bytes, list[RoutingKey]], float],
        read_size: int = READ_SIZE,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.admission = Admission(limits, context.loop.kernel.monotonic)
        self.producers: dict[int, Producer] = {}
        """By the number of the connection."""
        self.steady: dict[int, Producer] = {}
        """By their descriptors: those who are trusted, and whose next byte begins a record."""
        self.received = 0
        self.bytes_received = 0
        self.rejected: Counter[Reason] = Counter()
        self.producer_gaps = ProducerGaps()
        self.read_size = read_size
        """Bytes of one read from a producer that is not suspect."""
        self._loop = context.loop
        self._receive = context.loop.kernel.receive
        self._monotonic = context.loop.kernel.monotonic
        self._log = context.log
        self._ids = context.ids
        self._fdstore = context.fdstore
        self._max_record_size = max_record_size
        self.validator = Validator(max_record_size, context.loop.kernel.thread_time)
        self.rules = self.validator.rules
        """What a plain valid record is, for the fast path."""
        self._publish = publish
        self._batch_size = batch_size
        self._pieces: list[tuple[Producer, bytes]] = []
        """Lines that this turn has brought, and from whom."""
        self._size = 0
        self._held = 0
        self._expensive_time = TokenBuckets(context.loop.kernel.monotonic)
        self._expensive: set[int] = set()
        """Users that have not all of their share of it."""

    def listen(self, listener: socket.socket) -> Acceptor:
        """Let producers in through `listener`."""
        return Acceptor(
            self._loop, self._log, listener, self.admission, self._welcome, lambda *_: None
        )

    def flush(self) -> None:
        """Judge what this turn has brought, and publish what is good; to be called at its end."""
        if not self._pieces:
            return
        pieces, self._pieces, self._size = self._pieces, [], 0
        # Together with lines that are likely to be rejected, or whose values are expensive, all
        # would have to wait for these.
        for trusted, some in groupby(pieces, self._is_trusted):
            group = list(some)
            if trusted and len(group) > 1:
                self._flush_together(group)
            else:
                for producer, lines in group:
                    before = self.validator.seconds
                    seconds = self._relay(*self._judge(producer, lines))
                    self.account(producer, seconds + self.validator.seconds - before)

    def _flush_together(self, pieces: list[tuple[Producer, bytes]]) -> None:
        before = self.validator.seconds
        seconds = self._relay(*self._judge_together(pieces))
        if seconds + self.validator.seconds - before > EXPENSIVE:
            # Which of them it was shows when each is handled by itself.
            for producer, _ in pieces:
                self._distrust(producer)

    def _relay(self, records: bytes, routing_keys: list[RoutingKey]) -> float:
        if not routing_keys:
            return 0.0
        self.received += len(routing_keys)
        return self._publish(records, routing_keys)

    def account(self, producer: Producer, seconds: float) -> None:
        """Charge processor time that a producer's records took to its user, if it was much.

        It is the time for matching, and for records that have to be decoded as a whole.

        The producers of a user that has used up its share are not read until it has some again.
        """
        if seconds > EXPENSIVE:
            uid = producer.peer.uid
            self._expensive_time.available(uid, EXPENSIVE_SHARE, EXPENSIVE_BURST)
            self._expensive_time.take(uid, seconds)
            self._expensive.add(uid)
            for each in self.producers.values():
                if each.peer.uid == uid:
                    self._distrust(each)

    def _must_wait(self, producer: Producer) -> bool:
        """Whether a producer's user has used up its share; then it is read later."""
        uid = producer.peer.uid
        if uid in self._expensive:
            available = self._expensive_time.available(uid, EXPENSIVE_SHARE, EXPENSIVE_BURST)
            if available < 0:
                self._rest(producer, -available / EXPENSIVE_SHARE)
                return True
            if available >= EXPENSIVE_BURST:
                self._expensive.remove(uid)
        return False

    def _distrust(self, producer: Producer) -> None:
        """Read little of a producer at a time, and handle it by itself."""
        producer.read_size = SUSPECT_READ_SIZE
        self._update_steady(producer)

    def _judge_together(
        self, pieces: list[tuple[Producer, bytes]]
    ) -> tuple[bytes, list[RoutingKey]]:
        """What is good of the lines of several producers."""
        verdict = self.validator.check(b"".join([lines for _, lines in pieces]))
        if verdict.rejected:
            # Somebody's: each is looked at by itself.
            return _joined(starmap(self._judge, pieces))
        self.producer_gaps.note(verdict.gaps)
        for producer, lines in pieces:
            producer.records += len(list(split(lines)))
        return verdict.records, verdict.routing_keys

    def _judge(self, producer: Producer, lines: bytes) -> tuple[bytes, list[RoutingKey]]:
        """What is good of one producer's lines."""
        verdict = self.validator.check(lines)
        if verdict.rejected:
            self._reject(producer, verdict.rejected)
        if verdict.gaps:
            self.producer_gaps.note(verdict.gaps)
        producer.records += len(verdict.routing_keys)
        return verdict.records, verdict.routing_keys

    def drain(self) -> None:
        """Take what the producers have sent already."""
        self._expensive.clear()
        for producer in list(self.producers.values()):
            for _ in range(LAST_READS):
                if not self._read(producer):
                    break
        self.flush()

    def close(self) -> None:
        """Let everybody go."""
        for producer in list(self.producers.values()):
            self.disconnect(producer)

    def save(self) -> IntakeState:
        """All that is known of what came in."""
        return IntakeState(
            self.received,
            self.bytes_received,
            {reason.name: count for reason, count in self.rejected.items()},
            [
                ProducerState(
                    each.id,
                    each.peer,
                    each.since,
                    each.bytes,
                    each.records,
                    each.rejected,
                    *each.framer.save(),
                )
                for each in self.producers.values()
            ],
            self.admission.counts.save(),
            self.producer_gaps.save(),
        )

    def restore(self, saved: IntakeState, connections: Mapping[int, socket.socket]) -> None:
        """Go on where another relay has stopped, with those producers that are still there."""
        self.received = saved.received
        self.bytes_received = saved.bytes_received
        for reason in Reason:
            self.rejected[reason] = saved.rejected.get(reason.name, 0)
        self.producer_gaps.restore(saved.producer_gaps)
        self.admission.counts.restore(saved.connections)
        for each in saved.producers:
            if each.id in connections:
                self.admission.enter(each.peer)
                producer = self._admit(each.id, connections[each.id], each.peer)
                producer.since = each.since
                producer.bytes = each.bytes_read
                producer.records = each.records
                producer.rejected = each.rejected
                producer.framer.restore(each.partial, each.skipping)
                self._account_partial(producer)
            elif each.partial:
                self.rejected[Reason.TORN] += 1

    def adopt(self, number: int, connection: socket.socket) -> None:
        """Read a producer of a relay that was killed, perhaps from the middle of a record on."""
        peer = peer_of(connection)
        self.admission.enter(peer)
        self._admit(number, connection, peer)

    def disconnect(self, producer: Producer) -> None:
        """End a connection; a record half received is a rejected one."""
        self._loop.forget(producer.socket.fileno())
        self.steady.pop(producer.socket.fileno(), None)
        self._held -= producer.held
        del self.producers[producer.id]
        if producer.framer.torn:
            self._reject(producer, [Reason.TORN])
        self.admission.leave(producer.peer)
        self._fdstore.close_connection(PRODUCER, producer.id, producer.socket)
        LOG.debug("producer disconnected: %s", producer.peer)

    def _welcome(self, connection: socket.socket, peer: Peer) -> None:
        self._admit(next(self._ids), connection, peer)
        LOG.debug("producer connected: %s", peer)

    def _admit(self, number: int, connection: socket.socket, peer: Peer) -> Producer:
        framer = Framer(self._max_record_size)
        producer = Producer(number, connection, peer, framer, self.read_size, self._monotonic())
        self._loop.watch(connection.fileno(), READ, partial(self._read, producer))
        self.producers[number] = producer
        if peer.uid in self._expensive:
            producer.read_size = SUSPECT_READ_SIZE
        self._update_steady(producer)
        self._fdstore.keep_producer(number, connection)
        return producer

    def _read(self, producer: Producer, events: int = READ) -> bool:
        """Read once; whether there may be more."""
        if not events & READ:
            # It has gone while it rests, which is told once. What it has sent is read afterwards.
            return False
        if self._size >= self._batch_size:
            self.flush()
            # Whom an earlier run has put behind may have read it by now.
            self._loop.serve_urgent()
        if self._expensive and self._must_wait(producer):
            return False
        try:
            data = self._receive(producer.socket, producer.read_size)
        except OSError as error:
            if error.errno in NOT_NOW:
                return False
            data = b""
        if not data:
            self.disconnect(producer)
            return False
        self.take(producer, data)
        if producer.peer.uid in self._expensive:
            self.flush()  # The next producer of the same user may have to wait for what it takes.
        return True

    def take(self, producer: Producer, data: bytes) -> None:
        """Keep what was read until the end of the turn."""
        producer.bytes += len(data)
        self.bytes_received += len(data)
        if producer.read_size < self.read_size:
            producer.read_size = min(2 * producer.read_size, self.read_size)
            self._update_steady(producer)
        lines = producer.framer.feed(data)
        if lines is not data:
            self._account_partial(producer)
        if lines:
            self._pieces.append((producer, lines))
            self._size += len(lines)

    def count(self, producer: Producer, size: int, records: int) -> None:
        """Count good records that were read, and have gone on, without the intake."""
        producer.bytes += size
        producer.records += records
        self.bytes_received += size
        self.received += records

    def _update_steady(self, producer: Producer) -> None:
        """See whether it is steady."""
        if producer.read_size == self.read_size and not producer.framer.within:
            self.steady[producer.socket.fileno()] = producer
        else:
            self.steady.pop(producer.socket.fileno(), None)

    def _account_partial(self, producer: Producer) -> None:
        """Take note of what has become of an unfinished record."""
        framer = producer.framer
        self._held += framer.held - producer.held
        producer.held = framer.held
        if framer.skipping:
            producer.read_size = SUSPECT_READ_SIZE
        self._update_steady(producer)
        if framer.given_up:
            framer.given_up = 0
            self._reject(producer, [Reason.TOO_LONG])
        if self._held > MAX_PARTIAL_BYTES:
            self._reclaim_partial()

    def _reclaim_partial(self) -> None:
        """Reject the longest unfinished record of the user that has the most of them."""
        by_user: Counter[int] = Counter()
        for each in self.producers.values():
            by_user[each.peer.uid] += each.held
        uid, _ = by_user.most_common(1)[0]
        mine = (each for each in self.producers.values() if each.peer.uid == uid)
        longest = max(mine, key=lambda each: each.held)
        self._held -= longest.held
        longest.held = 0
        longest.framer.skip()
        self._reject(longest, [Reason.NO_ROOM])

    def _reject(self, producer: Producer, reasons: list[Reason]) -> None:
        producer.rejected += len(reasons)
        self._distrust(producer)
        self._rest(producer, REST)
        self.rejected.update(reasons)
        self._log.warning(
            "rejected %d record(s) of producer %s: %s",
            len(reasons),
            producer.peer,
            ", ".join(sorted({reason.value for reason in reasons})),
        )

    def _rest(self, producer: Producer, seconds: float) -> None:
        """Do not read a producer for so many seconds, if it is still connected."""
        if producer.id in self.producers and not producer.paused:
            producer.paused = True
            self._loop.change(producer.socket.fileno(), NOTHING)
            self._loop.call_in(seconds, partial(self._rested, producer))

    def _rested(self, producer: Producer) -> None:
        producer.paused = False
        if producer.id in self.producers:
            self._loop.change(producer.socket.fileno(), READ)

    def _is_trusted(self, piece: tuple[Producer, bytes]) -> bool:
        return piece[0].read_size == self.read_size


def _joined(judged: Iterable[tuple[bytes, list[RoutingKey]]]) -> tuple[bytes, list[RoutingKey]]:
    runs, routing_keys = zip(*judged, strict=True)
    return b"".join(runs), list(chain.from_iterable(routing_keys))
