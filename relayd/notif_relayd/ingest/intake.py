# SPDX-License-Identifier: Apache-2.0
"""Reads producers, validates their lines and publishes batches of valid records.

Each producer that has data is read once per iteration of the loop, so that a busy producer does
not starve the others. The lines of one iteration are validated and published as one batch: to join
them takes one copy, and it saves one send for each further producer and subscriber.
"""

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain, groupby, starmap
from operator import attrgetter

from notif_relay import records
from notif_relayd.access.admission import Admission
from notif_relayd.access.largest_holder import largest_holder
from notif_relayd.access.refusal_record import RefusalRecord
from notif_relayd.context import Context
from notif_relayd.ingest.expensive_time import MIN_EXPENSIVE_TIME, ExpensiveTime
from notif_relayd.ingest.producer import Producer
from notif_relayd.ingest.saved_state import IntakeState, ProducerState
from notif_relayd.net.acceptor import Acceptor
from notif_relayd.net.loop import PAUSED, READ, TRANSIENT_ERRORS
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
"""Bytes of one read from a suspect producer: one whose records were just rejected or expensive.

A rejected record takes many times as long as a valid one, and a read of `READ_SIZE` bytes may hold
50,000 of them. The size doubles with each read, unless the read is of a line that is too long.
"""

REJECT_PAUSE = 0.005
"""Seconds until a producer is read again after some of its records were rejected.

Without the pause, a producer that sends nothing else would keep the relay busy all the time. It is
half of the time that a handler waits for a full socket, so one invalid record does not cause valid
records after it to be dropped.
"""

BATCH_SIZE = 64 * 1024
"""Bytes of lines from which on they are published before the end of the iteration.

A batch and one more read are less than a subscriber's socket holds. So a subscriber that reads as
fast as records arrive gets each batch with one send. Further records wait in the sockets of the
producers and make the next read a longer one.
"""

MAX_PARTIAL_BYTES = 32 * 1024 * 1024
"""Bytes of partial records of all producers together. When they are exceeded, the longest partial
record of the user that holds the most bytes is rejected."""

MAX_DRAIN_READS = 64
"""Maximum number of reads from each producer when the relay stops; a full socket needs fewer."""


class Intake:
    """All producers.

    Args:
        context: the loop, the log and the store of descriptors.
        limits: which processes may connect, and how many.
        max_record_size: bytes of the longest record, its newline included.
        publish: called with each batch of valid records and their routing keys; returns the
            processor time, in seconds, for new values and expensive payloads.
        read_size: bytes of one read from a producer that is not suspect.
        batch_size: bytes of lines from which on they are published at once.
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
        """By connection number."""
        self.steady: dict[int, Producer] = {}
        """By file descriptor: producers that are not suspect and whose next byte begins a record.

        The fast path may read them."""
        self.received = 0
        """Number of valid records."""
        self.bytes_received = 0
        self.rejected: Counter[Reason] = Counter()
        self.producer_gaps = ProducerGaps()
        self.read_size = read_size
        self._loop = context.loop
        self._receive = context.loop.kernel.receive
        self._monotonic = context.loop.kernel.monotonic
        self._log = context.log
        self._ids = context.ids
        self._fdstore = context.fdstore
        self._refusal = RefusalRecord(records.PRODUCER_NOT_ADMITTED, records.TOO_MANY_PRODUCERS)
        self._max_record_size = max_record_size
        self.validator = Validator(max_record_size, context.loop.kernel.thread_time)
        self.rules = self.validator.rules
        """What a plain valid record is, for the fast path."""
        self._publish = publish
        self._batch_size = batch_size
        self._unpublished: list[tuple[Producer, bytes]] = []
        """Whole lines that were read in this iteration, with their producers."""
        self._unpublished_size = 0
        """Bytes of these lines."""
        self._partial_size = 0
        """Bytes of partial records of all producers."""
        self._expensive_time = ExpensiveTime(context.loop.kernel.monotonic)

    def listen(self, listener: socket.socket) -> Acceptor:
        """Accept producers from a listening socket."""
        return Acceptor(
            self._loop, self._log, listener, self.admission, self._welcome, self._refusal.send
        )

    def flush(self) -> None:
        """Validate and publish the lines that were read; call at the end of each iteration."""
        if not self._unpublished:
            return
        unpublished, self._unpublished, self._unpublished_size = self._unpublished, [], 0
        # Lines of suspect producers are likely to be rejected or expensive. They are not joined
        # with others, which would have to wait for them.
        for trusted, lines_of_producers in groupby(unpublished, self._is_trusted):
            group = list(lines_of_producers)
            if trusted and len(group) > 1:
                self._flush_together(group)
            else:
                for producer, lines in group:
                    before = self.validator.seconds
                    seconds = self._publish_batch(*self._validate(producer, lines))
                    self.account(producer, seconds + self.validator.seconds - before)

    def _flush_together(self, group: list[tuple[Producer, bytes]]) -> None:
        before = self.validator.seconds
        seconds = self._publish_batch(*self._validate_together(group))
        if seconds + self.validator.seconds - before > MIN_EXPENSIVE_TIME:
            # As suspects they are handled one by one, which shows the producer that caused it.
            for producer, _ in group:
                self._suspect(producer)

    def _publish_batch(self, records: bytes, routing_keys: list[RoutingKey]) -> float:
        if not routing_keys:
            return 0.0
        self.received += len(routing_keys)
        return self._publish(records, routing_keys)

    def account(self, producer: Producer, seconds: float) -> None:
        """Charge the processor time of an expensive batch to the user of its producer.

        When a user has used up its share, its producers are not read until the debt is paid.

        Args:
            producer: the producer of all records of the batch.
            seconds: processor time for new values, expensive payloads, and decoding records as a
                whole.
        """
        if seconds > MIN_EXPENSIVE_TIME:
            uid = producer.peer.uid
            self._expensive_time.charge(uid, seconds)
            for each in self.producers.values():
                if each.peer.uid == uid:
                    self._suspect(each)

    def _suspect(self, producer: Producer) -> None:
        """Read little from a producer at a time, and do not join its lines with others."""
        producer.read_size = SUSPECT_READ_SIZE
        self._update_steady(producer)

    def _validate_together(
        self, group: list[tuple[Producer, bytes]]
    ) -> tuple[bytes, list[RoutingKey]]:
        """Return the valid records of several producers, and their routing keys."""
        verdict = self.validator.validate(b"".join([lines for _, lines in group]))
        if verdict.rejected:
            # The verdict does not name the producer, so the lines of each are validated again.
            return _join(starmap(self._validate, group))
        self.producer_gaps.add(verdict.gaps)
        for producer, lines in group:
            producer.records += len(list(split(lines)))
        return verdict.records, verdict.routing_keys

    def _validate(self, producer: Producer, lines: bytes) -> tuple[bytes, list[RoutingKey]]:
        """Return the valid records of one producer, and their routing keys."""
        verdict = self.validator.validate(lines)
        if verdict.rejected:
            self._reject(producer, verdict.rejected)
        if verdict.gaps:
            self.producer_gaps.add(verdict.gaps)
        producer.records += len(verdict.routing_keys)
        return verdict.records, verdict.routing_keys

    def drain(self) -> None:
        """Read and publish all that the producers have sent so far."""
        self._expensive_time.users.clear()
        for producer in list(self.producers.values()):
            for _ in range(MAX_DRAIN_READS):
                if not self._read(producer):
                    break
        self.flush()

    def close(self) -> None:
        """Disconnect every producer."""
        for producer in list(self.producers.values()):
            self.disconnect(producer)

    def save(self) -> IntakeState:
        """Return all that a successor needs to continue."""
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
            self.admission.stats.save(),
            self.producer_gaps.save(),
        )

    def restore(self, saved: IntakeState, connections: Mapping[int, socket.socket]) -> None:
        """Continue where another process has stopped.

        Args:
            saved: what `save` returned there.
            connections: the connections of producers, by connection number. A producer whose
                connection is missing is not restored.
        """
        self.received = saved.received
        self.bytes_received = saved.bytes_received
        for reason in Reason:
            self.rejected[reason] = saved.rejected.get(reason.name, 0)
        self.producer_gaps.restore(saved.producer_gaps)
        self.admission.stats.restore(saved.connections)
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
        """Read from a producer of a relay that was killed; the first line may be incomplete."""
        peer = peer_of(connection)
        self.admission.enter(peer)
        self._admit(number, connection, peer)

    def disconnect(self, producer: Producer) -> None:
        """End a connection and reject its partial record, if any."""
        self._loop.forget(producer.socket.fileno())
        self.steady.pop(producer.socket.fileno(), None)
        self._partial_size -= producer.partial_size
        # Before `_reject`, which pauses a producer that is still connected.
        del self.producers[producer.id]
        if producer.framer.has_partial:
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
        if peer.uid in self._expensive_time.users:
            producer.read_size = SUSPECT_READ_SIZE
        self._update_steady(producer)
        self._fdstore.keep_producer(number, connection)
        return producer

    def _read(self, producer: Producer, events: int = READ) -> bool:
        """Read once from a producer; return whether there may be more to read."""
        if not events & READ:
            # A hang-up of a paused producer, which is reported once. The remaining data, and the
            # end of the stream, are read after the pause.
            return False
        if self._unpublished_size >= self._batch_size:
            self.flush()
            # Re-entry into the loop: subscribers that fell behind in this iteration may have read
            # since, and catch up before the next batch. Only callbacks of subscribers are called;
            # they change neither `producer` nor anything else of the intake.
            self._loop.serve_urgent()
        if self._expensive_time.users:
            seconds = self._expensive_time.pause(producer.peer.uid)
            if seconds:
                self._pause(producer, seconds)
                return False
        try:
            data = self._receive(producer.socket, producer.read_size)
        except OSError as error:
            if error.errno in TRANSIENT_ERRORS:
                return False
            data = b""
        if not data:
            self.disconnect(producer)
            return False
        self.take(producer, data)
        if producer.peer.uid in self._expensive_time.users:
            # The time that this takes may be up to the next producer of the same user.
            self.flush()
        return True

    def take(self, producer: Producer, data: bytes) -> None:
        """Keep bytes that were read from a producer until `flush`."""
        producer.bytes += len(data)
        self.bytes_received += len(data)
        if producer.read_size < self.read_size:
            producer.read_size = min(2 * producer.read_size, self.read_size)
            self._update_steady(producer)
        lines = producer.framer.feed(data)
        if lines is not data:
            self._account_partial(producer)
        if lines:
            self._unpublished.append((producer, lines))
            self._unpublished_size += len(lines)

    def count(self, producer: Producer, size: int, records: int) -> None:
        """Count a batch of valid records that the fast path has read.

        Args:
            producer: the producer.
            size: bytes of the batch.
            records: number of records.
        """
        producer.bytes += size
        producer.records += records
        self.bytes_received += size
        self.received += records

    def _update_steady(self, producer: Producer) -> None:
        """Add a producer to the steady ones, or remove it."""
        if producer.read_size == self.read_size and not producer.framer.within_line:
            self.steady[producer.socket.fileno()] = producer
        else:
            self.steady.pop(producer.socket.fileno(), None)

    def _account_partial(self, producer: Producer) -> None:
        """Update what depends on the partial record of a producer."""
        framer = producer.framer
        self._partial_size += framer.partial_size - producer.partial_size
        producer.partial_size = framer.partial_size
        if framer.skipping:
            producer.read_size = SUSPECT_READ_SIZE
        self._update_steady(producer)
        if framer.oversized:
            framer.oversized = 0
            self._reject(producer, [Reason.TOO_LONG])
        if self._partial_size > MAX_PARTIAL_BYTES:
            self._reclaim_partial()

    def _reclaim_partial(self) -> None:
        """Reject the longest partial record of the user that holds the most bytes of them."""
        producer, _ = largest_holder(self.producers.values(), attrgetter("partial_size"))
        self._partial_size -= producer.partial_size
        producer.partial_size = 0
        producer.framer.skip()
        self._reject(producer, [Reason.NO_ROOM])

    def _reject(self, producer: Producer, reasons: list[Reason]) -> None:
        producer.rejected += len(reasons)
        self._suspect(producer)
        self._pause(producer, REJECT_PAUSE)
        self.rejected.update(reasons)
        self._log.warning(
            "rejected %d record(s) of producer %s: %s",
            len(reasons),
            producer.peer,
            ", ".join(sorted({reason.value for reason in reasons})),
            subject=(producer.peer.uid, producer.peer.pid),
        )

    def _pause(self, producer: Producer, seconds: float) -> None:
        """Do not read from a producer for some time, if it is still connected and not paused."""
        if producer.id in self.producers and not producer.paused:
            producer.paused = True
            self._loop.change(producer.socket.fileno(), PAUSED)
            self._loop.call_in(seconds, partial(self._resume, producer))

    def _resume(self, producer: Producer) -> None:
        producer.paused = False
        if producer.id in self.producers:
            self._loop.change(producer.socket.fileno(), READ)

    def _is_trusted(self, unpublished: tuple[Producer, bytes]) -> bool:
        producer, _ = unpublished
        return producer.read_size == self.read_size


def _join(validated: Iterable[tuple[bytes, list[RoutingKey]]]) -> tuple[bytes, list[RoutingKey]]:
    batches, routing_keys = zip(*validated, strict=True)
    return b"".join(batches), list(chain.from_iterable(routing_keys))
