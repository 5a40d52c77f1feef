# SPDX-License-Identifier: Apache-2.0
"""Runs the pipeline: brings the reports of the threads into one queue.

The thread of the relay's reader and those of the target only add to the queue. The main thread
takes what has arrived meanwhile, tells the pipeline, and lets it advance once. So only this thread
uses the pipeline, the spool and ``Target.send``, and while it commits a transaction of the spool,
the next one collects. Without work, it waits for the queue without a timeout.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from collections.abc import Callable

from notif_relay import Notification
from notif_relayd_bridge.brokers.target import Target
from notif_relayd_bridge.configuration import Subscription
from notif_relayd_bridge.connection import Connection
from notif_relayd_bridge.outbound.interfaces import Storage
from notif_relayd_bridge.outbound.pipeline import Pipeline
from notif_relayd_bridge.outbound.reader import Reader

FLUSH_TIMEOUT = 5.0
"""Maximum time, in seconds, to wait for confirmations at the end."""

MAX_BATCH = 1000
"""Maximum number of notifications that are handled before the pipeline advances."""

QUIET_TIME = 1.0
"""With --once: the relay's group is empty if no notification has arrived for this time, in
seconds."""

ANSWER_TIMEOUT = 10.0
"""With --once: maximum time, in seconds, to wait for the relay and for the broker to answer."""

_Entry = Notification | Callable[[], None]
_Queue = queue.SimpleQueue[_Entry]


class TargetConnection(Connection):
    """The target as the pipeline sees it, and what the target reports.

    Args:
        target: the target.
        put: adds an entry to the queue.
    """

    def __init__(self, target: Target, put: Callable[[_Entry], None]) -> None:
        super().__init__(put)
        self.max_unconfirmed = target.max_unconfirmed
        self.pipeline: Pipeline
        self._target = target

    def send(self, notification: Notification) -> None:
        """Send a message, unless the connection has failed."""
        with self._lock:
            if self._is_usable:
                self._target.send(notification)

    def confirmed(self, count: int) -> None:
        """See `Events`."""
        self._put(functools.partial(self.pipeline.confirm, count))

    def refused(self, reason: str) -> None:
        """See `Events`."""
        self._put(functools.partial(self.pipeline.refuse, reason))


class Bridge:
    """A bridge from a relay to a broker.

    Args:
        subscription: what to read.
        target: where to send it.
        spool: where to keep it while that is not possible.
        once: whether to end when everything is sent.
    """

    def __init__(
        self, subscription: Subscription, target: Target, spool: Storage, *, once: bool = False
    ) -> None:
        self._queue: _Queue = queue.SimpleQueue()
        self._target = target
        self._connection = TargetConnection(target, self._queue.put)
        self.pipeline = Pipeline(self._connection, spool, time.monotonic)
        self._connection.pipeline = self.pipeline
        self._reader = Reader(
            subscription,
            not once,
            self._queue.put,
            functools.partial(self._queue.put, self._note_subscribed),
            lambda reason: self._queue.put(functools.partial(self._note_end, reason)),
        )
        self._once = once
        self._subscribed = False
        self._quiet_at = 0.0
        """With --once: time at which the relay's group is taken as empty."""
        self._answer_by = 0.0
        """With --once: time at which the broker must have answered."""
        self._stopping = False
        self._error = ""

    def run(self) -> str:
        """Run until `stop` is called; return why the bridge has failed, or an empty string."""
        self._answer_by = self._quiet_at = time.monotonic() + ANSWER_TIMEOUT
        self._target.start(self._connection)
        try:
            self._reader.start()
            while not (self._stopping or (self._once and self._is_drained())):
                self._step(self._deadline())
            self._flush()
        finally:
            self._target.close()
            self._reader.close()
        return self._error

    def stop(self) -> None:
        """Let `run` return; a signal handler may call this."""
        self._queue.put(self._note_stop)

    def report(self) -> dict[str, object]:
        """See `notif_relayd_bridge.status.Reporting`."""
        return self.pipeline.report()

    def _deadline(self) -> float | None:
        times = [self.pipeline.deadline]
        if self._once:
            now = time.monotonic()
            times += [each for each in (self._quiet_at, self._answer_by) if each > now]
        return min((each for each in times if each is not None), default=None)

    def _step(self, deadline: float | None) -> None:
        """Wait for entries of the queue until a time, and handle them."""
        timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
        notifications: list[Notification] = []
        with contextlib.suppress(queue.Empty):
            entry = self._queue.get(timeout=timeout)
            while True:
                if isinstance(entry, Notification):
                    notifications.append(entry)
                else:
                    entry()
                if len(notifications) == MAX_BATCH:
                    break
                entry = self._queue.get_nowait()
        if notifications:
            self.pipeline.receive(notifications)
            self._quiet_at = time.monotonic() + QUIET_TIME
        self.pipeline.advance()
        self._reader.release(self.pipeline.released)

    def _is_drained(self) -> bool:
        """Return whether nothing more can be sent; note an error if something remains."""
        now = time.monotonic()
        if now < self._quiet_at:
            return False
        if self.pipeline.idle:
            if not (self._subscribed or self._error):
                self._error = f"the relay has not answered within {ANSWER_TIMEOUT:.0f} s"
            return True
        if self.pipeline.connected and self.pipeline.spool_failed:
            if not self.pipeline.unconfirmed:
                self._error = self._error or "the spool cannot be used: see the log"
            return not self.pipeline.unconfirmed
        if self.pipeline.connected or (now < self._answer_by and not self.pipeline.failed):
            return False
        self._error = self._error or "the broker is not available; what was read is in the spool"
        return True

    def _flush(self) -> None:
        """Spool what is not confirmed, and wait for confirmations."""
        self._reader.stop()
        self.pipeline.stop()
        deadline = time.monotonic() + FLUSH_TIMEOUT
        self._step(time.monotonic())
        while self.pipeline.connected and self.pipeline.unconfirmed and time.monotonic() < deadline:
            self._step(deadline)
        self._target.close()
        while not self._queue.empty():
            self._step(time.monotonic())

    def _note_stop(self) -> None:
        self._stopping = True

    def _note_subscribed(self) -> None:
        self._subscribed = True
        self._quiet_at = time.monotonic() + QUIET_TIME

    def _note_end(self, reason: str) -> None:
        self._error = self._error or reason
        if self._once:
            self._quiet_at = time.monotonic()  # The spool can still be sent.
        else:
            self._stopping = True
