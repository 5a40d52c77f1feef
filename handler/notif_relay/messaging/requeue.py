# SPDX-License-Identifier: Apache-2.0
"""Pauses of requeued messages.

A message broker delivers a requeued message at once, so a notification that cannot be handled keeps
a consumer busy. Here each message pauses longer than the time before.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from notif_relay.messaging.message import RelayedMessage

MIN_PAUSE = 0.1
"""First pause of a message, in seconds; each one is twice as long as the one before."""

MAX_PAUSE = 5.0
"""Maximum pause of a message, in seconds."""


TOGETHER = 0.01
"""Maximum difference, in seconds, between the times at which the pauses of messages end that are
passed on together. The messages of a batch are requeued one by one."""


def pause(attempts: int) -> float:
    """Return the pause, in seconds, of a message that was requeued ``attempts`` times."""
    return min(MAX_PAUSE, MIN_PAUSE * float(2 ** min(attempts - 1, 16)))


class PausedMessages:
    """Passes messages on after their pauses; a thread is started for the first one.

    Args:
        batch_size: maximum number of messages that are passed on together.
        on_due: called with messages whose pauses are over, in the thread.
        on_dropped: called with each message whose pause ``stop`` has ended.
    """

    def __init__(
        self,
        batch_size: int,
        on_due: Callable[[list[RelayedMessage]], object],
        on_dropped: Callable[[RelayedMessage], object],
    ) -> None:
        self._batch_size = batch_size
        self._on_due = on_due
        self._on_dropped = on_dropped
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, RelayedMessage]] = []
        """Time at which the pause ends, and a number that makes the order unique."""
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopping = False

    def add(self, message: RelayedMessage) -> None:
        """Let a message pause; drop it if ``stop`` was called."""
        message.attempts += 1
        with self._changed:
            if not self._stopping:
                due = time.monotonic() + pause(message.attempts)
                heapq.heappush(self._heap, (due, next(self._numbers), message))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="notif_relay requeue")
                    self._thread.daemon = True
                    self._thread.start()
                self._changed.notify_all()
                return
        self._on_dropped(message)

    def stop(self) -> None:
        """Drop all messages and end the thread."""
        with self._changed:
            self._stopping = True
            dropped = [message for _, _, message in self._heap]
            self._heap.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for message in dropped:
            self._on_dropped(message)

    def _run(self) -> None:
        while due := self._next_due():
            self._on_due(due)

    def _next_due(self) -> list[RelayedMessage]:
        """Wait for messages whose pauses are over; return none at the end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                due: list[RelayedMessage] = []
                if self._heap and self._heap[0][0] <= now:
                    last = self._heap[0][0] + TOGETHER
                    while self._heap and self._heap[0][0] <= last and len(due) < self._batch_size:
                        due.append(heapq.heappop(self._heap)[2])
                if due:
                    return due
                self._changed.wait(self._heap[0][0] - now if self._heap else None)
            return []
