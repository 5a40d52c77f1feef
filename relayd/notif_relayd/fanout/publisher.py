# SPDX-License-Identifier: Apache-2.0
"""Sends batches of records to the subscribers.

A batch is sent whole to the socket of every current subscriber. If a socket does not take all of
it, the subscriber falls behind: it gets a cursor in a ring and costs nothing until the kernel
reports that its socket takes data again. So a batch costs one send for each subscriber that keeps
up, and nothing for the others.

Subscribers with the same filter share a stream, whose records are selected once for all of them.
Subscribers without a filter get each batch as it is; the filters of others do not affect them.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from notif_relayd.access.largest_holder import largest_holder
from notif_relayd.context import Context
from notif_relayd.fanout.delivery import Outcome, note_sends, send_batch
from notif_relayd.fanout.groups.division import Batch
from notif_relayd.fanout.groups.groups import Groups
from notif_relayd.fanout.loss_log import LossLog
from notif_relayd.fanout.shared_pages import SharedPages
from notif_relayd.fanout.streams import Streams
from notif_relayd.fanout.subscriber import Stream, Subscriber
from notif_relayd.records.framing import split
from notif_relayd.records.validator import RoutingKey

MAX_TORN_BYTES = 32 * 1024 * 1024
"""Bytes of torn records of all users together. When they are exceeded, subscribers of the user that
holds the most are disconnected."""


class Publisher:
    """Sends batches to all subscribers.

    Args:
        context: the loop and the log.
        streams: the streams of all subscribers.
        groups: the groups of subscribers.
        losses: logs losses.
        subscribers: all subscribers, by connection number.
        disconnect: ends the connection of a subscriber.
    """

    def __init__(
        self,
        context: Context,
        streams: Streams,
        groups: Groups,
        losses: LossLog,
        subscribers: Mapping[int, Subscriber],
        disconnect: Callable[[Subscriber], None],
    ) -> None:
        self.discarded = 0
        """Number of records that were published while there was no subscriber."""
        self._loop = context.loop
        self._log = context.log
        self._streams = streams
        self._groups = groups
        self._members = groups.sender
        self._losses = losses
        self._subscribers = subscribers
        self._disconnect = disconnect
        self._pages = SharedPages()

    def fast_recipients(self, limit: int) -> tuple[list[Subscriber], list[int], int]:
        """Return the subscribers to which the fast path sends each batch before `publish`.

        Args:
            limit: the number of subscribers that the fast path can serve.

        Returns:
            The current subscribers of the unfiltered stream and the members of groups that get its
            next batch, none if they are more than `limit`; the maximum number of records that each
            of them may get; and the size of a batch, in bytes, from which on the fast path must not
            send it.
        """
        stream = self._streams.unfiltered
        if stream is None:
            return [], [], 0
        recipients = list(stream.current.values())
        max_records = [sys.maxsize] * len(recipients)
        threshold = self._pages.threshold(len(recipients))
        if self._members.active:
            self._members.add_recipients(stream, recipients, max_records)
        if len(recipients) > limit:
            return [], [], 0
        return recipients, max_records, threshold

    def publish(
        self,
        batch: bytes,
        routing_keys: list[RoutingKey],
        recipients: Sequence[Subscriber] = (),
        results: Sequence[int | None] = (),
    ) -> float:
        """Send records to the subscribers that read them; without subscribers, discard them.

        Args:
            batch: the records.
            routing_keys: one for each record.
            recipients: what `fast_recipients` returned just before the fast path sent the batch.
            results: for each recipient the bytes that its socket took, the negative error number,
                or `None` if it may not get so many records; empty if the fast path did not send the
                batch.

        Returns:
            Processor time, in seconds, to match values that are not remembered with patterns,
            and for payloads that take longer than usual: what a producer can make expensive.
        """
        if not self._subscribers and not self._groups:
            self.discarded += len(routing_keys)
            return 0.0
        before = self._streams.seconds
        unfiltered = self._streams.unfiltered
        if unfiltered is not None:
            whole = Batch(batch, routing_keys)
            if results:
                plain = len(unfiltered.current)
                outcome = note_sends(len(batch), recipients[:plain], results[:plain])
                members = zip(recipients[plain:], results[plain:], strict=True)
                sent = [(each, result) for each, result in members if result is not None]
                self._finish(unfiltered, whole, outcome, sent)
            else:
                self._send(unfiltered, whole)
        lines: list[bytes] = []
        for stream, places in self._streams.select(routing_keys, batch):
            lines = lines or list(split(batch))
            some = b"".join([lines[place] for place in places])
            self._send(stream, Batch(some, [routing_keys[place] for place in places]))
        return self._streams.seconds - before

    def _send(self, stream: Stream, batch: Batch) -> None:
        """Send a batch to the current subscribers of a stream."""
        send = self._pages.sender(batch.data, len(stream.current))
        outcome = send_batch(len(batch.data), stream.current.values(), send)
        self._finish(stream, batch, outcome, [])

    def _finish(
        self,
        stream: Stream,
        batch: Batch,
        outcome: Outcome,
        sent: Sequence[tuple[Subscriber, int]],
    ) -> None:
        """Keep a batch that was sent if a subscriber or a group has yet to get a part of it.

        Args:
            stream: the stream of the batch.
            batch: the records.
            outcome: the current subscribers whose sockets did not take the whole batch.
            sent: the members of groups that the batch was sent to, with the results.
        """
        late, failed = outcome
        size, count = len(batch.data), len(batch)
        grouped = stream in self._members.active
        direct: Sequence[tuple[Subscriber, int]] = ()
        if grouped:
            direct = self._members.send_direct(stream, batch, sent)
            self._members.keep(stream, size, direct)
        if late or stream.ring.places:
            stream.ring.append(batch.data, count)
            self._losses.update()
        else:
            stream.ring.skip(count)
        for subscriber, unsent in late:
            subscriber.fall_behind().rewind(unsent)
            self._loop.change(subscriber.socket.fileno(), subscriber.events)
        for subscriber in failed:
            self._disconnect(subscriber)
        if grouped and not self._members.note_direct(stream, size, count, direct):
            self._members.serve(stream, batch)
        if self._streams.store.torn > MAX_TORN_BYTES:
            self._reclaim_torn()

    def _reclaim_torn(self) -> None:
        """Disconnect subscribers of the user that holds the most bytes of torn records."""
        while self._streams.store.torn > MAX_TORN_BYTES:
            largest, held = largest_holder(self._subscribers.values(), attrgetter("torn_share"))
            self._log.warning(
                "connection ended: %s: stopped reading in the middle of a record; %d bytes of such "
                "records are kept for uid %d, and the limit of all users together is %d",
                largest.peer,
                held,
                largest.peer.uid,
                MAX_TORN_BYTES,
                subject=(largest.peer.uid, largest.peer.pid),
            )
            self._disconnect(largest)
