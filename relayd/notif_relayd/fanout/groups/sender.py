# SPDX-License-Identifier: Apache-2.0
"""Sends records to the members of groups.

A group is *active* while it has a member that is *ready*: the socket of the member took all that
was sent to it, and its window has room. When a batch is published, each active group that has
handed out everything before sends the batch to one of its members directly, as to a subscriber
without a group. Everything else goes through the ring: see `group`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from notif_relayd.fanout.groups.division import Batch
from notif_relayd.fanout.groups.hand_out import HandOut, share
from notif_relayd.fanout.groups.live_group import GroupKey, LiveGroup
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.membership import Membership
from notif_relayd.fanout.subscriber import Stream, Subscriber
from notif_relayd.net.loop import TRANSIENT_ERRORS, Loop


class GroupSender:
    """Sends to the members of all groups.

    Args:
        loop: watches sockets for room.
        disconnect: ends the connection of a subscriber.
        settle: called with a group after records were handed out; see `Groups`.
    """

    def __init__(
        self,
        loop: Loop,
        disconnect: Callable[[Subscriber], None],
        settle: Callable[[LiveGroup], None],
    ) -> None:
        self._loop = loop
        self._disconnect = disconnect
        self._settle = settle
        self.active: dict[Stream, dict[GroupKey, LiveGroup]] = {}
        """Groups with a ready member, by the stream that they read."""

    def change_stream(self, live: LiveGroup, old: Stream) -> None:
        """Note that a group goes on in another stream."""
        self.deactivate(live, old)
        if live.ready:
            self.active.setdefault(live.group.segments.last.stream, {})[live.key] = live

    def note_drained(self, subscriber: Subscriber, membership: Membership) -> None:
        """Send to a member whose socket took all that was sent to it.

        The subscriber may be disconnected afterwards.
        """
        membership.member.attached = True
        membership.note_progress()
        self.serve_member(subscriber, membership)

    def serve_member(self, subscriber: Subscriber, membership: Membership) -> None:
        """Send the next records to a member whose socket may have room.

        The subscriber may be disconnected afterwards.
        """
        live = membership.group
        if membership.left or membership.cursor is not None or not membership.member.attached:
            return
        if membership.member.room > 0:
            live.ready[membership.number] = subscriber
            self.active.setdefault(live.group.segments.last.stream, {})[live.key] = live
            takers = _takers(live, membership.member)
            hand_out = live.group.take(membership.member, takers=takers)
            if hand_out is not None:
                self._send(live, subscriber, membership, hand_out)
        elif membership.has_more:
            self._set_more(subscriber, membership, more=False)
        self._settle(live)
        self.wake(live)

    def add_recipients(
        self, stream: Stream, recipients: list[Subscriber], max_records: list[int]
    ) -> None:
        """Add the members that get the next batch of a stream, one of each group that can.

        Args:
            stream: the stream.
            recipients: where the members are added.
            max_records: where the maximum number of records that each of them may get is added.
        """
        for live in self.active.get(stream, {}).values():
            subscriber, member, room = _next_of(live)
            if room > 0:
                recipients.append(subscriber)
                max_records.append(1 if _may_divide(live, member) else room)

    def send_direct(
        self, stream: Stream, batch: Batch, sent: Sequence[tuple[Subscriber, int]]
    ) -> Sequence[tuple[Subscriber, int]]:
        """Send a batch to one member of each group that can get it as a whole.

        Args:
            stream: the stream of the batch.
            batch: the records.
            sent: the members that the batch was sent to before, with the results.

        Returns:
            All members that the batch was sent to, each with the bytes that its socket took, or the
            negative error number.
        """
        groups = self.active[stream]
        if len(sent) == len(groups):
            return sent
        results, count = list(sent), len(batch)
        served = {_membership_of(subscriber).group.key for subscriber, _ in sent}
        for key, live in groups.items():
            if key in served:
                continue
            subscriber, member, room = _next_of(live, batch)
            if room < count or share(_takers(live, member), count) < count:
                continue
            try:
                result = subscriber.socket.send(batch.data)
            except OSError as error:
                result = -(error.errno or errno.EIO)
            results.append((subscriber, result))
        return results

    def keep(self, stream: Stream, size: int, direct: Sequence[tuple[Subscriber, int]]) -> None:
        """Let the ring of a stream keep a batch if a group will not have finished it.

        Args:
            stream: the stream of the batch.
            size: bytes of the batch.
            direct: the members that the batch was sent to, with the results.
        """
        groups = self.active[stream]
        if len(direct) < len(groups):
            sent = {_membership_of(subscriber).group.key for subscriber, _ in direct}
            for key, live in groups.items():
                if key not in sent:
                    live.group.segments.keep()
        for subscriber, result in direct:
            membership = _membership_of(subscriber)
            if result != size or membership.member.window is not None:
                membership.group.group.segments.keep()

    def note_direct(
        self,
        stream: Stream,
        size: int,
        count: int,
        direct: Sequence[tuple[Subscriber, int]],
    ) -> bool:
        """Note what the sockets of members took of a batch that is in the ring, if it must be.

        Args:
            stream: the stream of the batch.
            size: bytes of the batch.
            count: the number of records.
            direct: the members that the batch was sent to, with the results.

        Returns:
            Whether all active groups of the stream have handed out the batch.
        """
        is_handed_out = len(direct) == len(self.active.get(stream, ()))
        for subscriber, result in direct:
            membership = _membership_of(subscriber)
            if result == size:
                subscriber.bytes += size
                membership.group.group.note_direct(membership.member, count)
                self._serve_others(subscriber, membership)
                continue
            live = membership.group
            hand_out = live.group.take(membership.member, direct=True)
            assert hand_out is not None  # noqa: S101 - the group was caught up and the batch is new
            self._note_sent(live, subscriber, membership, hand_out, result)
            self.wake(live)
            is_handed_out = False
        return is_handed_out

    def serve(self, stream: Stream, batch: Batch) -> None:
        """Hand out the records that were appended to the ring of a stream.

        Args:
            stream: the stream.
            batch: the last records that were appended.
        """
        for live in list(self.active.get(stream, {}).values()):
            if live.group.has_read_all:
                continue
            by_member = {_membership_of(each).member: each for each in live.ready.values()}
            hand_outs = live.group.divide(by_member, batch)
            for member, hand_out in hand_outs:
                membership = _membership_of(by_member[member])
                if not membership.left:
                    self._send(live, by_member[member], membership, hand_out)
            if not live.group.segments.at_end:
                self._serve_each(live)
            elif not (hand_outs or live.group.is_caught_up):
                self._settle(live)  # the batch waits: no ready member wants it
                continue
            self._settle(live)
            self.wake(live)

    def _serve_each(self, live: LiveGroup) -> None:
        """Hand out records to one ready member after the other."""
        for number, subscriber in list(live.ready.items()):
            if live.group.is_caught_up:
                break
            if number in live.ready:
                membership = _membership_of(subscriber)
                takers = _takers(live, membership.member)
                hand_out = live.group.take(membership.member, takers=takers)
                if hand_out is not None:
                    self._send(live, subscriber, membership, hand_out)

    def _send(
        self, live: LiveGroup, subscriber: Subscriber, membership: Membership, hand_out: HandOut
    ) -> None:
        try:
            result = subscriber.socket.sendmsg([hand_out.head, *hand_out.data])
        except OSError as error:
            result = -(error.errno or errno.EIO)
        self._note_sent(live, subscriber, membership, hand_out, result)

    def _note_sent(
        self,
        live: LiveGroup,
        subscriber: Subscriber,
        membership: Membership,
        hand_out: HandOut,
        result: int,
    ) -> None:
        """Note the bytes that a socket took of a hand-out, or the negative error number."""
        head, data = hand_out.head, hand_out.data
        sent = max(0, result)
        subscriber.bytes += sent
        remainder = live.group.note_sent(membership.member, hand_out, sent)
        if result < 0 and -result not in TRANSIENT_ERRORS:
            self._disconnect(subscriber)
        elif remainder:
            self.set_busy(live, membership.number)
            subscriber.fall_behind().send_first(remainder)
            self._loop.change(subscriber.socket.fileno(), subscriber.events)
        elif sent < len(head) + sum(map(len, data)):
            self.set_busy(live, membership.number)
            self._set_more(subscriber, membership, more=True)
        else:
            self._serve_others(subscriber, membership)

    def _serve_others(self, subscriber: Subscriber, membership: Membership) -> None:
        """Let other members get the next records.

        A member whose window is full costs nothing until it has finished records.
        """
        live = membership.group
        if membership.member.room <= 0:
            self.set_busy(live, membership.number)
            if membership.has_more:
                self._set_more(subscriber, membership, more=False)
        elif len(live.ready) > 1:
            live.ready[membership.number] = live.ready.pop(membership.number)

    def wake(self, live: LiveGroup) -> None:
        """Watch for room in the sockets of the members for which there is something.

        If there is nothing, let the ring keep nothing.
        """
        is_caught_up = live.group.is_caught_up
        for subscriber in live.ready.values():
            membership = _membership_of(subscriber)
            more = not is_caught_up and live.group.has_work_for(membership.member)
            if more != membership.has_more:
                self._set_more(subscriber, membership, more=more)
        self._rest(live)

    def _set_more(self, subscriber: Subscriber, membership: Membership, *, more: bool) -> None:
        membership.has_more = more
        self._loop.change(subscriber.socket.fileno(), subscriber.events)

    def _rest(self, live: LiveGroup) -> None:
        """Let the ring keep nothing for a group whose members get records directly."""
        if live.ready and live.subscribers:
            live.group.rest()

    def set_busy(self, live: LiveGroup, number: int) -> None:
        """Stop handing out records to a member until its socket or its window has room."""
        live.ready.pop(number, None)
        if not live.ready:
            live.group.segments.keep()
            self.deactivate(live, live.group.segments.last.stream)

    def deactivate(self, live: LiveGroup, stream: Stream) -> None:
        groups = self.active.get(stream, {})
        groups.pop(live.key, None)
        if not groups:
            self.active.pop(stream, None)


def _next_of(live: LiveGroup, batch: Batch | None = None) -> tuple[Subscriber, Member, int]:
    """Return the member that gets the next batch, and how many records can be sent to it directly.

    The group must be active.

    Args:
        live: the group.
        batch: the batch, if it is known. If it is a single record, any ready member may get it.
    """
    first = next(iter(live.ready.values()))
    for subscriber in (first,) if batch is None or len(batch) > 1 else live.ready.values():
        member = _membership_of(subscriber).member
        room = live.group.direct_room(member, batch)
        if room > 0:
            return subscriber, member, room
    return first, _membership_of(first).member, 0


def _may_divide(live: LiveGroup, member: Member) -> bool:
    """Return whether `_takers` can be more than 1."""
    return len(live.ready) > 1 and member.is_idle


def _takers(live: LiveGroup, member: Member) -> int:
    """Return the number of members among which a few records for a member are divided.

    The members that have finished everything share them, because each record may take long. Under
    load a member has unfinished records, and gets the next ones at once: one call for all of them
    takes less processor time.
    """
    if not _may_divide(live, member):
        return 1
    return sum(_membership_of(each).member.is_idle for each in live.ready.values())


def _membership_of(subscriber: Subscriber) -> Membership:
    membership = subscriber.subscription
    assert isinstance(membership, Membership)  # noqa: S101 - only members are in a group
    return membership
