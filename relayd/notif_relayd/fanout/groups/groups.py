# SPDX-License-Identifier: Apache-2.0
"""All groups: who is in which one, what is sent to their members, and which groups are held.

A group belongs to a user: members of different users that name the same group are in different
groups. So no user can take records from another one.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from notif_relay import records
from notif_relay.group import GROUPS_LIMIT, HOLD_LIMIT, GroupRequest
from notif_relayd.access.quota import Quota, QuotaError
from notif_relayd.context import Context
from notif_relayd.escaping import printable
from notif_relayd.fanout.groups.errors import GroupError
from notif_relayd.fanout.groups.group import Group
from notif_relayd.fanout.groups.live_group import GroupKey, LiveGroup
from notif_relayd.fanout.groups.loss_log import GroupLossLog
from notif_relayd.fanout.groups.member import Member
from notif_relayd.fanout.groups.membership import Membership, member_of
from notif_relayd.fanout.groups.sender import GroupSender
from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.saved_state import (
    FanoutState,
    GroupState,
    MemberState,
    SubscriptionState,
)
from notif_relayd.fanout.streams import Streams
from notif_relayd.fanout.subscriber import Stream, Subscriber
from notif_relayd.net.loop import Deadline
from notif_relayd.records.filters import View
from notif_relayd.records.subscription_request import STREAM_COST, UNFINISHED_COST
from notif_relayd.settings import GroupLimits

MAX_NAME = 128
"""Maximum number of characters of each field that identifies a record in the log."""

GROUP_COST = 4096
"""Bytes charged for a group, without its streams and the records that wait in it."""


class Groups:
    """All groups.

    Args:
        context: the loop and the log.
        streams: the streams that groups read.
        store: where memory for records is charged.
        quota: limits the bytes of groups, with the filters and requests of their user.
        limits: limits of groups; may be replaced at any time.
        disconnect: ends the connection of a subscriber.
    """

    def __init__(
        self,
        context: Context,
        streams: Streams,
        store: Store,
        quota: Quota,
        limits: GroupLimits,
        disconnect: Callable[[Subscriber], None],
    ) -> None:
        self.limits = limits
        self.ended_dropped = 0
        """Records that groups which have ended missed."""
        self.ended_redelivered = 0
        """Records that groups which have ended handed out again."""
        self.undeliverable = 0
        """Number of records that were not handed out again, a part of `dropped`."""
        self._loop = context.loop
        self._monotonic = context.loop.kernel.monotonic
        self._log = context.log
        self._streams = streams
        self._store = store
        self._quota = quota
        self.sender = GroupSender(context.loop, disconnect, self._settle)
        self._groups: dict[GroupKey, LiveGroup] = {}
        self.losses = GroupLossLog(context, self._groups.values())
        """Logs which groups lose records."""
        self._by_user: Counter[int] = Counter()
        """Number of groups."""
        self._numbers = itertools.count(1)
        """Numbers of members."""
        self._due: Deadline | None = None
        """The scheduled call of `_end_expired`, if any."""

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[LiveGroup]:
        return iter(self._groups.values())

    @property
    def dropped(self) -> int:
        """Number of records that groups missed."""
        return self.ended_dropped + sum(each.group.dropped for each in self)

    @property
    def redelivered(self) -> int:
        """Number of records that were handed out again, counted each time."""
        return self.ended_redelivered + sum(each.group.redelivered for each in self)

    @property
    def held_ring_bytes(self) -> int:
        """Bytes of all rings from the oldest record on that a held group has yet to hand out.

        When this exceeds the limit of the rings, the group loses the record.
        """
        held = (each.group.segments for each in self if each.held_until is not None)
        oldest = {segment.oldest_chunk for segments in held for segment in segments}
        return self._store.size_from({chunk for chunk in oldest if chunk is not None})

    def join(
        self, subscriber: Subscriber, view: View, request: GroupRequest, charge: int
    ) -> Membership:
        """Add a member, which gets records after the answer to its request was sent.

        Args:
            subscriber: the subscriber.
            view: the records that it requested and may read.
            request: the group.
            charge: bytes charged to the user for the request.

        Raises:
            GroupError: a limit of groups does not permit it; nothing has changed.
            QuotaError: the user has too many bytes of filters and groups; nothing has changed.
        """
        limits = self.limits
        if request.hold > limits.max_hold:
            raise GroupError(
                f'"hold" is {request.hold:.15g} seconds; {HOLD_LIMIT}{limits.max_hold:.15g} '
                "seconds."
            )
        key = subscriber.peer.uid, request.name
        live = self._groups.get(key)
        if live is None:
            live = self._start(key, view)
        else:
            self._widen(live, view)
        live.held_until = None
        member = Member(view, request.window, attached=False, hold=request.hold)
        membership = Membership(
            live,
            next(self._numbers),
            member,
            Stream(frozenset((view,)), self._store),
            subscriber.id,
            charge,
        )
        live.group.join(membership.number, member)
        live.subscribers[membership.number] = subscriber
        return membership

    def leave(self, membership: Membership, *, completing: bool = False) -> None:
        """Remove a member; its unfinished records go to the others.

        If it has left before, the records of which it was not sent the rest are lost.

        Args:
            membership: the membership.
            completing: whether the subscriber stays connected, and is sent the rest of what its
                socket took in part.
        """
        live = membership.group
        if membership.left:
            self._note_owed(membership)
            return
        live.group.max_deliveries = self.limits.max_deliveries
        membership.leave(completing=completing)
        live.group.leave(membership.number)
        del live.subscribers[membership.number]
        self.sender.set_busy(live, membership.number)
        self._settle(live)
        if live.subscribers:
            self.sender.wake(live)
        else:
            self._hold(live, membership.member.hold)

    def _note_owed(self, membership: Membership) -> None:
        """Count the records that a member which has left will not get completely."""
        live, owed = membership.group, membership.owed
        membership.member.taken -= owed
        if self._groups.get(live.key) is live:
            live.group.note_lost(owed)
            self.sender.wake(live)
        else:
            self.ended_dropped += owed

    # Restart

    def save(self, streams: Mapping[Stream, int]) -> list[GroupState]:
        """Return the state of all groups; members are saved with their subscribers.

        Args:
            streams: the index of each stream in the saved state.
        """
        saved = [each.group.save(*each.key, each.held_until, streams, each.since) for each in self]
        for live, state in zip(self, saved, strict=True):
            state.lost_before = live.lost_before
        return saved

    def restore(self, saved: FanoutState, streams: Mapping[int, Stream]) -> None:
        """Take saved groups; `restore_member` adds the members, then `finish_restore` is called.

        Args:
            saved: the saved state.
            streams: the streams by their index in the saved state.
        """
        self.ended_dropped = saved.groups_dropped
        self.ended_redelivered = saved.groups_redelivered
        self.undeliverable = saved.groups_undeliverable
        for each in saved.groups:
            live = self._add((each.uid, each.name), each.since)
            live.group.restore(each, streams)
            live.held_until = each.held_until
            live.lost, live.lost_before = live.group.lost, each.lost_before
            for stream in live.group.segments.streams:
                stream.members += 1
                live.streams_cost += _cost(stream)

    def restore_member(self, saved: SubscriptionState, owner: int) -> Membership:
        """Return a saved membership; `attach_restored` must be called with its subscriber.

        Args:
            saved: the subscription.
            owner: number of the subscriber's connection.
        """
        state = saved.member
        assert state is not None  # noqa: S101 - the caller has checked it
        key = state.uid, state.name
        # A member that has left needs only the name of the group.
        live = (
            LiveGroup(key, Group(1, _ignore, self._streams.selector), "")
            if state.left
            else self._groups[key]
        )
        member = member_of(state)
        membership = Membership(
            live,
            next(self._numbers),
            member,
            Stream(frozenset((member.view,)), self._store),
            owner,
            saved.charge,
        )
        membership.restore_member(state)
        if not state.left:
            live.group.join(membership.number, membership.member)
        return membership

    def attach_restored(self, subscriber: Subscriber) -> None:
        """Note the subscriber of restored memberships."""
        for each in subscriber.subscriptions:
            if isinstance(each, Membership) and not each.left:
                each.group.subscribers[each.number] = subscriber

    def finish_restore(self, absent: Iterable[MemberState]) -> None:
        """Let the members leave whose connections have ended; end groups that are not held."""
        holds: dict[GroupKey, float] = {}
        for state in absent:
            self.ended_dropped += state.owed
            live = self._groups.get((state.uid, state.name))
            if live is not None and not state.left:
                number = next(self._numbers)
                live.group.join(number, member_of(state))
                live.group.leave(number)
                holds[live.key] = max(holds.get(live.key, 0.0), state.hold)
        for live in list(self):
            self._settle(live)
            if live.subscribers:
                live.held_until = None
            elif live.held_until is None:
                self._hold(live, holds.get(live.key, 0.0))
            else:
                self._schedule(live.held_until)

    # Groups

    def _start(self, key: GroupKey, view: View) -> LiveGroup:
        uid, _ = key
        if self._by_user[uid] >= self.limits.per_user:
            raise GroupError(
                f"uid {uid} {GROUPS_LIMIT} = {self.limits.per_user}; groups that "
                "are held count as well."
            )
        stream = self._streams.of(view)
        charge = GROUP_COST + _cost(stream)
        try:
            self._quota.charge(uid, charge)
        except QuotaError:
            self._streams.end_if_unused(stream)
            raise
        live = self._add(key, str(dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)))
        live.charge, live.streams_cost = charge, charge - GROUP_COST
        stream.members += 1
        live.group.segments.follow(stream)
        return live

    def _add(self, key: GroupKey, since: str) -> LiveGroup:
        group = Group(
            self.limits.max_deliveries,
            partial(self._note_undeliverable, key),
            self._streams.selector,
        )
        live = LiveGroup(key, group, since)
        self._groups[key] = live
        self._by_user[key[0]] += 1
        return live

    def _widen(self, live: LiveGroup, view: View) -> None:
        """Let a group read a stream that contains what a new member wants."""
        group, old = live.group, live.group.segments.last.stream
        covered = view in old.views or old.is_unfiltered
        if covered and not group.is_caught_up:
            return
        stream = self._streams.of(view, *group.views)
        if stream is old:
            return
        cost = _cost(stream)
        stream.members += 1
        try:
            self._quota.charge(live.key[0], cost)
        except QuotaError:
            self._streams.leave(stream)
            if covered:
                return
            raise
        live.charge += cost
        live.streams_cost += cost
        try:
            group.segments.follow(stream)
        except GroupError:
            self._streams.leave(stream)
            live.streams_cost -= cost
            self._settle(live)
            raise
        self.sender.change_stream(live, old)
        self._settle(live)

    def _settle(self, live: LiveGroup) -> None:
        """Leave streams that the group has finished; charge the user for what the group holds."""
        group, uid = live.group, live.key[0]
        self.losses.settle(live)
        for stream in group.segments.forget_finished():
            self._streams.leave(stream)
            live.streams_cost -= _cost(stream)
        while True:
            charge = GROUP_COST + live.streams_cost
            charge += group.waiting_runs * UNFINISHED_COST
            try:
                self._quota.charge(uid, charge - live.charge)
            except QuotaError:
                if not group.waiting_runs:
                    return  # the limit is lower than when the group began
                group.drop_waiting(1 + group.waiting_runs // 2)
                continue
            live.charge = charge
            return

    def _hold(self, live: LiveGroup, seconds: float) -> None:
        """Keep a group without members for some time, or end it."""
        hold = min(seconds, self.limits.max_hold)
        if hold:
            live.held_until = self._monotonic() + hold
            self._schedule(live.held_until)
        else:
            self._end(live)

    def _end(self, live: LiveGroup) -> None:
        uid, _ = live.key
        self.losses.ended(live)
        self.ended_dropped += live.group.dropped
        self.ended_redelivered += live.group.redelivered
        self.sender.deactivate(live, live.group.segments.last.stream)
        live.group.segments.release()
        for stream in live.group.segments.streams:
            self._streams.leave(stream)
        self._quota.release(uid, live.charge)
        del self._groups[live.key]
        self._by_user[uid] -= 1
        if not self._by_user[uid]:
            del self._by_user[uid]

    def _end_expired(self) -> None:
        """End the groups that were held for long enough."""
        self._due = None
        now = self._monotonic()
        for live in list(self):
            if live.held_until is not None and live.held_until <= now:
                self._end(live)
        held = [each.held_until for each in self if each.held_until is not None]
        if held:
            self._schedule(min(held))
        self._loop.changed = True

    def _schedule(self, moment: float) -> None:
        """Call `_end_expired` at `moment`, unless an earlier call is scheduled.

        There is one scheduled call at most: groups may be held and end without a limit.
        """
        if self._due is not None:
            if moment >= self._due[0]:
                return
            self._loop.cancel(self._due)
        self._due = self._loop.call_in(max(0.0, moment - self._monotonic()), self._end_expired)

    def _note_undeliverable(self, key: GroupKey, given_up: Iterator[bytes], count: int) -> None:
        self.undeliverable += count
        uid, name = key
        self._log.warning(
            "%d record(s) not delivered again: group %s of uid %d: %d members left without "
            "finishing them; the first is %s",
            count,
            name,
            uid,
            self.limits.max_deliveries,
            _name_of(next(given_up)),
            subject=key,
        )


def _ignore(_records: Iterator[bytes], _count: int) -> None:
    """Do nothing."""


def _name_of(record: bytes) -> str:
    """Return a text in one line that identifies a record; its producer may be hostile."""
    try:
        fields = dict(records.decode_pairs(record))
        names = ("event_type", "publisher_id", "message_id")
        return ", ".join(f"{key} {printable(str(fields.get(key))[:MAX_NAME])}" for key in names)
    except (ValueError, RecursionError):
        # The validator accepts records that Python does not decode, such as deeply nested ones.
        return f"a record that starts with {printable(record.decode()[:MAX_NAME])}"


def _cost(stream: Stream) -> int:
    """Return the bytes charged for a stream of a group."""
    filters = (each.requested for each in stream.views if each.requested is not None)
    return STREAM_COST + sum(each.cost for each in filters)
