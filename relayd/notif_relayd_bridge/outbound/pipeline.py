# SPDX-License-Identifier: Apache-2.0
"""Decides which notifications are sent, which are spooled, and when each is finished.

A notification of the relay is finished, ``done()``, when the broker has confirmed it or the spool
has committed it. A row of the spool is removed when the broker has confirmed it. Nothing else
finishes a message, so each is delivered at least once, or counted in a gap record. Rows are removed
before later notifications are finished. So a process that is killed has delivered everything up to
some message, and the next one repeats the end of it and goes on.

The messages have one order: first the rows of the spool, then the notifications that wait in
memory. Notifications bypass the spool only while all of its rows have been sent. They are spooled
if the broker is not connected, or if one has waited for `SLOW_AFTER` or `FULL_AFTER`. Those that
are sent and unconfirmed are then spooled as well, in front of those that wait: if the connection
fails later, everything is sent again from the spool in its order.

If the broker refuses a message, a gap record takes its place. The message is finished when the
broker has confirmed this record. A refused gap record counts with its own number.

The pipeline knows no sockets, threads or brokers. Inputs only change its state. The caller calls
`Pipeline.advance` after one or more inputs and at the time `Pipeline.deadline`; `advance` then
sends, spools everything that has arrived meanwhile in one transaction, and removes rows.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

from notif_relay import Gap, Notification, records
from notif_relay.warning_limit import WarningLimit
from notif_relayd.escaping import printable
from notif_relayd_bridge.errors import SpoolError
from notif_relayd_bridge.marker import is_brought_in
from notif_relayd_bridge.outbound.attempts import Attempts
from notif_relayd_bridge.outbound.interfaces import MAX_HELD_BYTES, Sender, Storage
from notif_relayd_bridge.spool.missing import Missing

LOG = logging.getLogger(__name__)

SLOW_AFTER = 2.0
"""Maximum time, in seconds, that a notification waits in memory for a broker that is connected. A
relay with the default ring and 4,000 notifications of 1 KiB per second loses none in this time."""

FULL_AFTER = 0.25
"""The same while the reader has paused because of `MAX_HELD_BYTES`: the ring of the relay fills."""

MAX_UNCONFIRMED_BYTES = 8 * 1024 * 1024
"""Maximum size of the unconfirmed messages; one message more may exceed it."""

PAGE = 32
"""Maximum number of rows that are read from the spool at once. They are in memory, so at most 32
MiB with the default max_record_size of the relay."""

MAX_LOGGED = 200
"""Maximum number of characters of an event type or a reason in the log."""

MIN_REMOVED_ROWS = 256
"""Number of rows that are removed in one transaction while others are unconfirmed. A transaction
for each confirmation would take longer than most brokers. A process that is killed sends at most so
many confirmed messages again."""

_NOT_SPOOLED = 0
_GAP = -1
"""In place of a row: a gap record for refused messages."""

_Sent = tuple[int, Notification]
"""Row of the spool and message; `_NOT_SPOOLED` or `_GAP` instead of a row."""


@dataclass(slots=True)
class Counters:
    """What a pipeline has done since its start."""

    confirmed: int = 0
    """Messages that the broker has confirmed."""
    repeated: int = 0
    """Messages that were unconfirmed when the connection failed, and are sent again."""
    refused: int = 0
    """Messages that the broker has refused."""
    skipped: int = 0
    """Notifications that are not sent because a bridge has brought them in."""
    spooled: int = 0
    """Notifications that were committed to the spool."""


class Pipeline:
    """The messages between the relay and a broker.

    Args:
        target: sends the messages.
        spool: may contain rows of a previous process.
        clock: returns the time in seconds, which does not go back.
    """

    def __init__(self, target: Sender, spool: Storage, clock: Callable[[], float]) -> None:
        self.counters = Counters()
        self.released = 0
        """Total size of the notifications of the relay that are finished, in bytes."""
        self._received = 0
        """Total size of all that were received, in bytes."""
        self._target = target
        self._spool = spool
        self._clock = clock
        self._connected = False
        self._has_failed = False
        """Whether the target has reported a failure since it was connected last."""
        self._stopping = False
        self._warning_limit = WarningLimit(clock)
        self._waiting: deque[tuple[float, Notification]] = deque()
        """Notifications of the relay that are neither sent nor spooled, with their arrival time."""
        self._sent: deque[_Sent] = deque()
        """Unconfirmed messages, in the order in which they were sent."""
        self._sent_bytes = 0
        self._direct = 0
        """Number of notifications in ``_sent`` and ``_refused`` that are not spooled."""
        self._answered: list[Notification] = []
        """Notifications to finish when the rows before them are removed."""
        self._page: deque[tuple[int, bytes]] = deque()
        """Rows that were read from the spool and are not sent."""
        self._cursor = 0 if spool.count else spool.last
        """The last row that was read from the spool, or that was sent before it was spooled."""
        self._answered_row = self._cursor
        """The last row that the broker has confirmed or refused."""
        self._removed_row = self._cursor
        self._refused: deque[_Sent] = deque()
        """Refused messages that no confirmed gap record counts, the oldest first."""
        self._announced = 0
        """Number of refused messages that the gap record in ``_sent`` counts."""
        self._writes = Attempts(clock)
        self._reads = Attempts(clock)
        """Of the spool."""

    @property
    def connected(self) -> bool:
        """Whether the target is connected."""
        return self._connected

    @property
    def failed(self) -> bool:
        """Whether the target has failed and has not been connected since."""
        return self._has_failed

    @property
    def unconfirmed(self) -> int:
        """Number of unconfirmed messages."""
        return len(self._sent)

    @property
    def spool_failed(self) -> bool:
        """Whether the spool cannot be read or written."""
        return self._writes.are_failing or self._reads.are_failing

    @property
    def idle(self) -> bool:
        """Whether nothing waits, neither here nor in the spool."""
        return not (self._waiting or self._sent or self._refused or self._spool.count)

    def report(self) -> dict[str, object]:
        """Return the figures for the status of the bridge; any thread may call this.

        Each is a plain number, so that a request does not wake the main thread. Of the unconfirmed
        messages, those in the spool count there only.
        """
        return {
            "connected": self._connected,
            **asdict(self.counters),
            "unconfirmed": self._direct,
            "waiting": len(self._waiting),
            "spool": {**self._spool.report(), "failed": self.spool_failed},
        }

    @property
    def deadline(self) -> float | None:
        """The time for the next call of ``advance`` if there is no input before."""
        times: list[float | None] = []
        if self._waiting:
            times.append(max(self._slow_at, self._writes.next_at or 0.0))
        elif self._has_rows_to_remove():
            # Rows that could not be removed would be sent again by the next process.
            times.append(self._writes.next_at)
        if self._has_room() and self._has_rows():
            times.append(self._reads.next_at)
        return min((each for each in times if each is not None), default=None)

    def receive(self, notifications: Iterable[Notification]) -> None:
        """Take notifications from the relay."""
        now = self._clock()
        for notification in notifications:
            self._received += len(notification.raw)
            if is_brought_in(notification.raw):
                self.counters.skipped += 1
                self._finish(notification)
            else:
                self._waiting.append((now, notification))

    def connect(self) -> None:
        """Note that the target is connected."""
        LOG.info("connected to the broker")
        self._connected = True
        self._has_failed = False

    def confirm(self, count: int) -> None:
        """Note that the oldest unconfirmed messages are confirmed.

        Args:
            count: number of messages.
        """
        for _ in range(count):
            row, notification = self._pop_sent()
            if row == _NOT_SPOOLED:
                self._note_answered(notification)
            elif row == _GAP:
                self._finish_announced()
            else:
                self._answered_row = row
        self.counters.confirmed += count

    def refuse(self, reason: str) -> None:
        """Note that the broker refuses the oldest unconfirmed message.

        Args:
            reason: why, for the log.
        """
        row, notification = self._pop_sent()
        self.counters.refused += 1
        if self._warning_limit.allows():
            LOG.warning(
                "the broker has refused %d messages; the last one, %d bytes, event type %s: %s",
                self.counters.refused,
                len(notification.raw),
                printable(notification.event_type[:MAX_LOGGED]),
                printable(reason[:MAX_LOGGED]),
            )
        if row == _GAP:
            self._finish_announced()  # A gap record in its place would be refused as well.
            return
        if row > 0:
            self._answered_row = row
        self._refused.append((row, notification))

    def fail(self, reason: str) -> None:
        """Note that the connection is lost; all unconfirmed messages will be sent again.

        Args:
            reason: why, for the log, which contains the first of several failures.
        """
        if not self._has_failed:
            reason = printable(reason[:MAX_LOGGED])
            LOG.warning("waiting for the broker, and spooling notifications: %s", reason)
        self._connected = False
        self._has_failed = True
        self.counters.repeated += len(self._sent)
        unfinished = [*self._refused, *self._sent]
        self._sent.clear()
        self._sent_bytes = 0
        self._direct = 0
        self._refused.clear()
        self._announced = 0
        now = self._clock()
        again = [(now, each) for row, each in unfinished if row == _NOT_SPOOLED]
        self._waiting.extendleft(reversed(again))
        rows = [row for row, _ in unfinished if row > 0]
        if rows:
            self._answered_row = rows[0] - 1
        self._page.clear()
        self._cursor = self._answered_row

    def stop(self) -> None:
        """Send nothing from now on; the next ``advance`` spools what is not confirmed."""
        self._stopping = True

    def advance(self) -> None:
        """Remove confirmed rows, send as much as possible, and spool what has to be spooled."""
        self._remove_answered()
        self._finish_answered()
        if self._stopping:
            self._store()
            return
        if self._refused and not self._announced and self._has_room():
            self._announce_refused()
        if self._has_rows():
            self._store()
            self._send_rows()
        if not self._has_rows():
            self._send_waiting()
            if self._waiting and self._is_slow():
                self._store()

    def _has_room(self) -> bool:
        return (
            self._connected
            and len(self._sent) < self._target.max_unconfirmed
            and self._sent_bytes < MAX_UNCONFIRMED_BYTES
        )

    def _has_rows(self) -> bool:
        """Return whether there are rows that are not sent."""
        return bool(self._page) or (self._cursor < self._spool.last and self._spool.count > 0)

    @property
    def _slow_at(self) -> float:
        """When what waits is spooled, although the broker is connected."""
        limit = FULL_AFTER if self._received - self.released >= MAX_HELD_BYTES else SLOW_AFTER
        return self._waiting[0][0] + limit

    def _is_slow(self) -> bool:
        return self._has_failed or self._clock() >= self._slow_at

    def _send(self, row: int, notification: Notification) -> None:
        self._sent.append((row, notification))
        self._sent_bytes += len(notification.raw)
        self._target.send(notification)

    def _pop_sent(self) -> _Sent:
        sent = self._sent.popleft()
        self._sent_bytes -= len(sent[1].raw)
        return sent

    def _send_waiting(self) -> None:
        while self._waiting and self._has_room():
            self._direct += 1
            self._send(_NOT_SPOOLED, self._waiting.popleft()[1])

    def _send_rows(self) -> None:
        while self._has_room() and self._has_rows():
            if self._page:
                row, record = self._page.popleft()
                self._send(row, Notification(record))
            elif not self._read_page():
                return

    def _read_page(self) -> bool:
        """Read rows that are not sent; return whether that was possible."""
        if not self._reads.is_due:
            return False
        try:
            self._page.extend(self._spool.head(self._cursor, PAGE))
        except SpoolError as error:
            if self._reads.fail():
                LOG.error("the spool cannot be read, and its records wait: %s", error)
            return False
        if self._reads.succeed():
            LOG.info("the spool can be read again")
        self._cursor = self._page[-1][0] if self._page else self._spool.last
        return True

    def _announce_refused(self) -> None:
        self._announced = len(self._refused)
        missing = Missing()
        for _, each in self._refused:
            missing.add(len(each.raw), each.raw)
        self._send(_GAP, Gap(records.gap(missing.number, "undeliverable")))

    def _finish_announced(self) -> None:
        for _ in range(self._announced):
            row, notification = self._refused.popleft()
            if row == _NOT_SPOOLED:
                self._note_answered(notification)
        self._announced = 0

    def _note_answered(self, notification: Notification) -> None:
        self._direct -= 1
        self._answered.append(notification)

    def _finish_answered(self) -> None:
        for notification in self._answered:
            self._finish(notification)
        self._answered.clear()

    def _finish(self, notification: Notification) -> None:
        notification.done()
        self.released += len(notification.raw)

    @property
    def _removable_row(self) -> int:
        """The last row that is finished, as are all rows before it."""
        return next((row - 1 for row, _ in self._refused if row > 0), self._answered_row)

    def _has_rows_to_remove(self) -> bool:
        row = self._removable_row
        is_end = not self._sent or self._stopping or row == self._spool.last
        return row - self._removed_row >= (1 if is_end else MIN_REMOVED_ROWS)

    def _remove_answered(self) -> None:
        if not self._has_rows_to_remove() or not self._writes.is_due:
            return
        row = self._removable_row
        try:
            self._spool.remove_up_to(row)
        except SpoolError as error:
            self._note_failure(error)
        else:
            self._note_success()
            self._removed_row = row

    def _store(self) -> None:
        """Commit the notifications in memory to the spool in their order, and finish them."""
        if not (self._waiting or self._direct) or not self._writes.is_due:
            return
        sent: list[Notification] = []
        if self._direct:
            both = (*self._refused, *self._sent)
            sent = [each for row, each in both if row == _NOT_SPOOLED]
        notifications = [*sent, *(each for _, each in self._waiting)]
        keep = self._spool.last + len(sent) if sent else self._cursor
        try:
            self._spool.add([each.raw for each in notifications], keep)
        except SpoolError as error:
            self._note_failure(error)
            return
        self._note_success()
        if sent:
            rows = itertools.count(self._spool.last - len(notifications) + 1)
            self._refused = deque((row or next(rows), each) for row, each in self._refused)
            self._sent = deque((row or next(rows), each) for row, each in self._sent)
            self._direct = 0
            self._cursor = keep
        self._waiting.clear()
        self.counters.spooled += len(notifications)
        for each in notifications:
            self._finish(each)

    def _note_failure(self, error: SpoolError) -> None:
        if self._writes.fail():
            LOG.error("spooling stops, and notifications remain in the relay: %s", error)

    def _note_success(self) -> None:
        if self._writes.succeed():
            LOG.info("the spool can be written again")
