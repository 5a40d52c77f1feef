# SPDX-License-Identifier: Apache-2.0
"""Logs which subscribers lose records, and when they have caught up or disconnected.

The start of a loss is rate-limited; if it was not logged, it is logged later, unless the subscriber
has caught up. Its end is logged only if the start was: a subscriber cannot flood the log, and each
loss in the log has an end. What was logged is saved with the subscriber, so that a restart does not
repeat it.
"""

import logging
from collections.abc import Mapping

from notif_relayd.context import Context
from notif_relayd.fanout.groups.loss_log import GroupLossLog
from notif_relayd.fanout.ring import Store
from notif_relayd.fanout.subscriber import Subscriber
from notif_relayd.net.ratelimit import INTERVAL

LOG = logging.getLogger(__name__)


class LossLog:
    """The messages about losses of all subscribers.

    Args:
        context: the loop and the log.
        store: the rings, which note the losses.
        subscribers: all subscribers, by connection number.
        groups: the messages about losses of groups.
    """

    def __init__(
        self,
        context: Context,
        store: Store,
        subscribers: Mapping[int, Subscriber],
        groups: GroupLossLog,
    ) -> None:
        self._call_in = context.loop.call_in
        self._log = context.log
        self._store = store
        self._losing = store.losing
        self._groups = groups
        self._subscribers = subscribers
        self._unnamed: set[int] = set()
        """Subscribers that lose records and are not in the log; `_resume` is scheduled if any."""

    def update(self) -> None:
        """Log the losses that the rings have noted."""
        if self._store.has_lost:
            self._store.has_lost = False
            self._groups.update()
        if not self._losing:
            return
        for number in sorted(self._losing):
            subscriber = self._subscribers[number]
            if subscriber.lost_before is None:
                self._start(subscriber)
        self._losing.clear()

    def _start(self, subscriber: Subscriber) -> None:
        lost = subscriber.dropped_while_behind
        is_logged = self._log.warning(
            "subscriber %s reads too slowly and loses records: %d lost so far",
            subscriber.peer,
            lost,
            subject=(subscriber.peer.uid, subscriber.id),
        )
        if is_logged:
            subscriber.lost_before = subscriber.dropped - lost
            return
        if not self._unnamed:
            self._call_in(INTERVAL, self._resume)
        self._unnamed.add(subscriber.id)

    def _resume(self) -> None:
        """Log the losses that were not logged and are not over."""
        unnamed, self._unnamed = self._unnamed, set()
        for number in sorted(unnamed & self._subscribers.keys()):
            subscriber = self._subscribers[number]
            if subscriber.lost_before is None and subscriber.dropped_while_behind:
                self._start(subscriber)

    def caught_up(self, subscriber: Subscriber) -> None:
        """Log the end of a loss, if its start was logged."""
        if subscriber.lost_before is not None:
            lost = subscriber.dropped - subscriber.lost_before
            LOG.info("subscriber %s has caught up: %d records were lost", subscriber.peer, lost)
            subscriber.lost_before = None

    def disconnected(self, subscriber: Subscriber) -> None:
        """Log that a subscriber will not catch up; call before its cursors are dropped."""
        if subscriber.lost_before is not None:
            lost = subscriber.dropped - subscriber.lost_before
            LOG.info(
                "subscriber %s disconnected and had not caught up: %d records were lost",
                subscriber.peer,
                lost,
            )
