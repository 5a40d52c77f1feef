# SPDX-License-Identifier: Apache-2.0
"""Reads the requests of subscribers and changes their filters.

A request takes as much time as many records, and it comes from a peer that may be hostile. So
requests are paced by user, and the memory that they need is charged to the user.

A subscriber has at most one request in progress. While that request waits, or until its filter is
in force, the relay does not read from the subscriber.
"""

import contextlib
from collections.abc import Callable, Mapping

from notif_relay import records
from notif_relay.request import MAX_REQUEST_SIZE
from notif_relayd.access.policy import Policy
from notif_relayd.access.quota import Quota, QuotaError
from notif_relayd.access.request_pacer import RequestPacer
from notif_relayd.context import Context
from notif_relayd.fanout.cursor import Cursor
from notif_relayd.fanout.groups.errors import GroupError
from notif_relayd.fanout.groups.groups import Groups
from notif_relayd.fanout.groups.membership import Membership
from notif_relayd.fanout.streams import Streams
from notif_relayd.fanout.subscriber import Subscriber, Subscription
from notif_relayd.net.loop import TRANSIENT_ERRORS
from notif_relayd.records import subscription_request
from notif_relayd.records.filters import View
from notif_relayd.records.subscription_request import UNFINISHED_COST

MAX_ERROR_LENGTH = 512
"""Characters of an error message for a subscriber; the remainder is cut off."""


class RequestHandler:
    """Handles the requests of all subscribers.

    Args:
        context: the loop and the store of descriptors.
        policy: which subscribers may read which records.
        streams: the streams that subscribers read.
        groups: the groups that subscribers join.
        quota: limits the bytes of filters and unfinished requests.
        subscribers: all subscribers, by connection number.
        disconnect: ends the connection of a subscriber.
    """

    def __init__(
        self,
        context: Context,
        policy: Policy,
        streams: Streams,
        groups: Groups,
        quota: Quota,
        subscribers: Mapping[int, Subscriber],
        disconnect: Callable[[Subscriber], None],
    ) -> None:
        self._loop = context.loop
        self._receive = context.loop.kernel.receive
        self._fdstore = context.fdstore
        self._policy = policy
        self._streams = streams
        self._groups = groups
        self._quota = quota
        self._subscribers = subscribers
        self._disconnect = disconnect
        self._pacer = RequestPacer(context.loop.call_in, context.loop.kernel, self._serve_paced)

    def schedule(self, subscriber: Subscriber, *, readable: bool = False) -> None:
        """Read or handle the next request now, or as soon as the user's share allows it.

        Do nothing but update the watched events if there is no request, or if the last request is
        not in force yet. The subscriber may be disconnected afterwards.

        Args:
            subscriber: a connected subscriber.
            readable: whether its socket has data to read.
        """
        if subscriber.pending is None and (readable or subscriber.request.is_complete()):
            subscriber.waiting = True
            membership = subscriber.subscription
            if isinstance(membership, Membership) and membership.prompt:
                self._serve(subscriber.id)
                return
            if not self._pacer.enter(subscriber.peer.uid, subscriber.id):
                return
        self._loop.change(subscriber.socket.fileno(), subscriber.events)

    def handle(self, subscriber: Subscriber, line: bytes) -> None:
        """Handle a request at once; the caller updates the watched events."""
        try:
            self._start_change(subscriber, subscription_request.parse(line))
        except (subscription_request.RequestError, GroupError, QuotaError) as error:
            self._refuse(subscriber, error)

    def finish_change(self, subscriber: Subscriber, pending: Subscription) -> None:
        """Put a new filter in force.

        Args:
            subscriber: a subscriber that was sent all records of its current subscription.
            pending: its pending subscription.
        """
        self._quota.release(subscriber.peer.uid, subscriber.subscription.charge)
        self._streams.leave(subscriber.switch(pending))
        self.schedule(subscriber)

    def forget(self, subscriber: Subscriber) -> None:
        """Drop the requests of a subscriber that is being disconnected."""
        self._pacer.leave(subscriber.peer.uid, subscriber.id)
        self._quota.release(subscriber.peer.uid, subscriber.charge)

    def finish_last(self, subscriber: Subscriber) -> None:
        """Note which notifications a subscriber has finished before its connection ends.

        Everything else that it has written is ignored.
        """
        membership = subscriber.subscription
        if not isinstance(membership, Membership) or membership.left:
            return
        membership.note_progress()
        data = b""
        with contextlib.suppress(OSError):
            data = self._receive(subscriber.socket, MAX_REQUEST_SIZE)
        lines = (subscriber.request.save() + data).split(b"\n")
        with contextlib.suppress(GroupError):
            for done in map(subscription_request.parse_done, lines):
                # Repeated reports would take time that is not charged to the user.
                if done is None or not membership.finish(done):
                    return

    def discard_input(self, subscriber: Subscriber) -> None:
        """Read what a subscriber has written after a request that was refused.

        If a connection is closed with unread data, the peer's next read fails.
        """
        with contextlib.suppress(OSError):
            self._receive(subscriber.socket, MAX_REQUEST_SIZE)

    def _serve_paced(self, number: int) -> float:
        """Do the same as `_serve`; return the processor time that the request takes later.

        When a pattern is added, groups decode again what they have yet to hand out.
        """
        selector = self._streams.selector
        before = selector.forgotten_seconds
        self._serve(number)
        return selector.forgotten_seconds - before

    def _serve(self, number: int) -> None:
        """Read from a subscriber unless a request is complete; handle one request at most."""
        subscriber = self._subscribers[number]
        subscriber.waiting = False
        try:
            if not subscriber.request.is_complete() and not self._read(subscriber):
                return
            line = self._finish_notifications(subscriber)
        except (subscription_request.RequestError, GroupError, QuotaError) as error:
            self._refuse(subscriber, error)
        else:
            if line is not None:
                self.handle(subscriber, line)
        if number in self._subscribers:
            self.schedule(subscriber)

    def _next_line(self, subscriber: Subscriber) -> bytes | None:
        size = len(subscriber.request)
        line = subscriber.request.next_line()
        self._quota.release(subscriber.peer.uid, size - len(subscriber.request))
        return line

    def _finish_notifications(self, subscriber: Subscriber) -> bytes | None:
        """Handle all requests that report finished notifications; return the first other one.

        Such requests take as little time as a record. They are not paced as long as each of them
        reports at least one notification.

        Raises:
            RequestError, GroupError: the subscriber has sent something invalid.
        """
        line = self._next_line(subscriber)
        membership = subscriber.subscription
        if not isinstance(membership, Membership) or membership.left:
            return line
        membership.note_progress()
        lines = finished = 0
        while line is not None and (done := subscription_request.parse_done(line)) is not None:
            lines += 1
            finished += membership.finish(done)
            line = self._next_line(subscriber)
        membership.prompt = line is None and finished >= lines > 0
        if finished and line is None:
            self._groups.sender.serve_member(subscriber, membership)
        return line

    def _read(self, subscriber: Subscriber) -> bool:
        """Read from a subscriber; return whether it is still connected.

        Raises:
            QuotaError: its user has too many bytes of filters and unfinished requests.
        """
        try:
            data = self._receive(subscriber.socket, subscriber.request.remaining)
        except OSError as error:
            if error.errno in TRANSIENT_ERRORS:
                return True
            self._disconnect(subscriber)
            return False
        subscriber.listening = bool(data)
        if not data and not subscriber.request.is_blank():
            data = b"\n"  # the end of input ends a request as well
        if not subscriber.ending:
            self._quota.charge(subscriber.peer.uid, len(data))
            subscriber.request.feed(data)
        return True

    def _start_change(self, subscriber: Subscriber, request: subscription_request.Request) -> None:
        """Let the requested filter follow the one in force.

        Raises:
            GroupError: a limit of groups, or of the bytes for windows, does not permit it.
            QuotaError: the user has too many bytes of filters and unfinished requests.
        """
        charge = request.charge
        wanted = None if request.filter.is_empty else request.filter
        view = View(wanted, self._policy.allowed(subscriber.peer))
        try:
            self._quota.charge(subscriber.peer.uid, charge)
        except QuotaError as error:
            if request.group is None or request.group.window is None:
                raise
            raise GroupError(
                f"{error}; a window takes {UNFINISHED_COST} bytes for each record."
            ) from None
        since = ""
        if request.group is None:
            pending: Subscription = Subscription(self._streams.of(view), subscriber.id, charge)
        else:
            try:
                pending = membership = self._groups.join(subscriber, view, request.group, charge)
            except (GroupError, QuotaError):
                self._quota.release(subscriber.peer.uid, charge)
                raise
            since = membership.group.since
        self._fdstore.keep_request(subscriber.id, request.line)
        self._stop(subscriber).stop()
        subscriber.pending = pending
        pending.fall_behind().insert(request.answer(view.notice, since))

    def _stop(self, subscriber: Subscriber) -> Cursor:
        """Return the cursor of a subscriber that is to get nothing more of its subscription."""
        cursor = subscriber.subscription.cursor or subscriber.fall_behind()
        if isinstance(subscriber.subscription, Membership):
            self._groups.leave(subscriber.subscription, completing=True)
        return cursor

    def _refuse(self, subscriber: Subscriber, error: ValueError) -> None:
        """Send the remainder of the current record and an error, and then end the connection."""
        self._quota.release(subscriber.peer.uid, len(subscriber.request))
        subscriber.request.clear()
        cursor = self._stop(subscriber)
        sentence = f"{error}." if isinstance(error, QuotaError) else str(error)
        # The message may quote the request, and stays in memory until the subscriber reads it.
        cursor.stop_with(records.error(sentence[:MAX_ERROR_LENGTH]))
