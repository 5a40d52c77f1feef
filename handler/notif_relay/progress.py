# SPDX-License-Identifier: Apache-2.0
"""Which notifications a member of a group has finished, and when to report it to the relay.

A member with a window reports a number: that of the notifications since the relay's answer, in the
order in which it got them, that are all finished. So a notification that takes long delays the
report of later ones. Notifications may be finished in any order and by any thread.

A report is one line, and it covers all earlier ones. Few of them are sent:

- when all notifications that were received are finished;
- when those that were not reported are half of the window: a part large enough to be rare, and
  early enough that the relay need not pause;
- while the subscriber waits for data, when they are a 64th of the window. The relay may have no
  more room for this member, because a notification before them is not finished.

A report names the group by the time when it began, so that the next relay ignores it if the present
one crashes meanwhile.

A relay that is stopped reads nothing. These rules keep the lines that wait for it far below the
size of a socket's buffer, so that no report has to wait.
"""

import json
import threading
from collections.abc import Callable

from notif_relay import records
from notif_relay.notification import Notification

_PART = 2
"""Divisor of the window for a report while notifications are read."""

_WAITING_PART = 64
"""Divisor of the window for a report while the subscriber waits for data."""


class Progress:
    """The notifications that a member got since one answer of the relay.

    Args:
        window: maximum number of unfinished notifications.
        since: when the group began, according to the answer; None if it is not known.
        send: sends a line without waiting; returns False if it could not be sent.
        check_process: raises WrongProcess in a child process, which shares the connection.
    """

    def __init__(
        self,
        window: int,
        since: str | None,
        send: Callable[[bytes], bool],
        check_process: Callable[[], None],
    ) -> None:
        self._window = window
        self._group = {} if since is None else {records.GROUP_SINCE: since}
        self._send = send
        self._check_process = check_process
        # Reentrant, because a signal handler may finish a notification or close the subscriber.
        self._lock = threading.RLock()
        self._received = 0
        self._finished = 0
        """Number of notifications that are finished without an unfinished one before them."""
        self._finished_later: set[int] = set()
        """Numbers of finished notifications that follow an unfinished one."""
        self._reported = 0
        self._waiting = False
        self._ended = False

    def add(self, notification: Notification) -> Notification:
        """Number a notification that was received; return it."""
        notification.attach(self.finish, self._received)
        self._received += 1
        return notification

    def finish(self, number: int) -> None:
        """Note that a notification is finished; do nothing if it was before, or after the end.

        Args:
            number: the number of the notification, from 0.

        Raises:
            WrongProcess: this is a child process.
        """
        # First, because another thread of the parent may have held the lock during the fork.
        self._check_process()
        with self._lock:
            if self._ended or number < self._finished:
                return
            self._finished_later.add(number)
            while self._finished in self._finished_later:
                self._finished_later.remove(self._finished)
                self._finished += 1
            part = _WAITING_PART if self._waiting else _PART
            if (
                self._finished == self._received
                or (self._finished - self._reported) * part >= self._window
            ):
                self.report()

    def start_waiting(self) -> None:
        """Report what is finished, before the subscriber waits for data."""
        with self._lock:
            self._waiting = True
            self.report()

    def stop_waiting(self) -> None:
        """Note that the subscriber has stopped waiting for data."""
        self._waiting = False

    def report(self) -> None:
        """Report what is finished, unless it was reported."""
        with self._lock:
            if self._finished > self._reported:
                report = {"done": self._finished} | self._group
                if self._send(json.dumps(report).encode() + b"\n"):
                    self._reported = self._finished

    def end(self) -> None:
        """Ignore what is finished from now on: the connection has ended."""
        self._ended = True
