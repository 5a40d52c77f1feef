# SPDX-License-Identifier: Apache-2.0
"""Sends records to the private socket and never blocks the service for long.

This file handles all failures between a producer and the relay: a full socket, a missing relay, a
lost connection, a fork. It is independent of logging. A ``Sender`` is not thread-safe; its owner
holds a lock, so that each record takes one lock and not two.

Three rules keep the stream of records valid:

- A record that was partly sent is completed before anything else is sent. If the connection ends
  first, the record is dropped, and no part of it is sent on the next connection.
- Missing records are announced before the stream continues: the gap record and the record after
  it are passed to the kernel in one send.
- A record waits for a full socket for at most ``max_wait``. After that, records are dropped
  without waiting until the socket is writable, that is until most of its buffer is free. With a
  slow relay, continuing at the first free byte would make every second record wait.
"""

import enum
import math
import os
import time
from collections.abc import Callable
from os import getpid

from notif_relay import records
from notif_relay.connection import NO_SIGNAL, Connection, checked_path
from notif_relay.errors import RecordTooLarge
from notif_relay.escaping import shown
from notif_relay.forks import fork_mark
from notif_relay.paths import DEFAULT_INGEST_PATH

DEFAULT_MAX_WAIT = 0.01
"""Maximum time in seconds that one record waits for a full socket."""

MAX_MAX_WAIT = 86_400.0
"""Maximum value of ``max_wait`` in seconds; sockets of Python cannot wait for more than 24 days."""

MIN_BACKOFF = 0.1
"""Time in seconds between the first two attempts to connect; it doubles with each attempt."""

MAX_BACKOFF = 1.0
"""Maximum time in seconds between two attempts to connect."""

MIN_RECORD_SIZE = len(b'{"event_type":"","priority":""}\n')
"""Size of the smallest valid record in bytes, including its newline."""


class _State(enum.Enum):
    DISCONNECTED = "there is no connection"
    READY = "connected, and nothing is pending"
    PENDING = "connected; the remainder of a record or a gap record has to be sent first"


# Module globals are faster to look up than attributes; send() looks them up for every record.
_DISCONNECTED, _READY, _PENDING = _State.DISCONNECTED, _State.READY, _State.PENDING


class Sender:
    """Send records to the relay that listens at ``path``; connect when there is a record to send.

    Args:
        path: path of the private socket.
        max_wait: maximum time in seconds that a record waits for a full socket, once per
            congestion; from 0 to ``MAX_MAX_WAIT``.
        max_record_size: maximum size of a record in bytes, including its newline.
        clock: returns the current time in seconds, for deadlines and the connect backoff.
        on_refusal: called with the relay's sentence when it has refused a connection for another
            reason than the connection before.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    __slots__ = (
        "_attempted_at",
        "_backoff",
        "_clock",
        "_connection",
        "_fork_mark",
        "_gap_reason",
        "_max_record_size",
        "_max_wait",
        "_missing",
        "_new_refusal",
        "_on_refusal",
        "_pid",
        "_remainder",
        "_remainder_is_record",
        "_sending",
        "_state",
        "connects",
        "dropped",
        "path",
        "refusal",
        "sent",
    )

    _connection: Connection  # not set before the first connection

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_INGEST_PATH,
        max_wait: float = DEFAULT_MAX_WAIT,
        max_record_size: int = records.MAX_RECORD_SIZE,
        clock: Callable[[], float] = time.monotonic,
        on_refusal: Callable[[str], None] | None = None,
    ) -> None:
        self.path = checked_path(path)
        self._max_wait = _checked_max_wait(max_wait)
        self._max_record_size = _checked_max_record_size(max_record_size)
        self._clock = clock
        self._on_refusal = on_refusal
        self._reset()

    def _reset(self) -> None:
        self._pid = getpid()
        self._fork_mark = fork_mark()
        self._state = _DISCONNECTED
        self._sending = False
        self._remainder = b""  # unsent part of a record or gap record that was partly sent
        self._remainder_is_record = False
        self._missing: int | None = 0  # records for the next gap record, None if unknown
        self._gap_reason: records.GapReason = "producer_congested"
        self._attempted_at = -math.inf
        self._backoff = MIN_BACKOFF
        self._new_refusal = ""  # to be reported
        self.refusal = ""
        """Why the relay has refused the last connection that ended, empty if it did not."""
        self.sent = 0
        """Number of records that the socket accepted completely."""
        self.dropped = 0
        """Number of records that were dropped, invalid ones included."""
        self.connects = 0
        """Number of connections made."""

    @property
    def connected(self) -> bool:
        """Whether a connection is open; its loss is detected when the next record is sent."""
        return self._state is not _DISCONNECTED

    def send(self, notification: str, process: int | None = None) -> None:
        """Send the JSON of a notification as one record, or drop it.

        A full socket or a missing relay is not an error. While neither can be used, the
        notification is dropped unchecked. In JSON a newline can only be white space: one at the
        end terminates the record, any other is replaced by a space.

        Args:
            notification: the JSON text.
            process: id of the current process if the caller knows it, as logging does. It saves
                a call of ``getpid``, unless the process has forked.

        Raises:
            RecordTooLarge: the record exceeds ``max_record_size`` and was dropped.
            UnicodeEncodeError: the text cannot be encoded as UTF-8; the record was dropped.
        """
        if process != self._pid or not self._fork_mark[0]:
            self.check_process()
        if self._state is not _READY and self._must_drop():
            self._drop()
            return
        try:
            if "\n" in notification:
                notification = notification.removesuffix("\n").replace("\n", " ")
            record = (notification + "\n").encode()
            size = len(record)
            if size > self._max_record_size:
                raise RecordTooLarge(size, self._max_record_size)
        except (RecordTooLarge, UnicodeEncodeError):
            self.dropped += 1
            raise
        if self._sending:
            # Re-entry: a signal handler or finalizer has interrupted send() in this thread,
            # possibly in the middle of a record.
            self._drop()
            return
        self._sending = True
        try:
            # Fast path, taken by almost every record: one system call and few Python calls.
            sent = 0
            if self._state is _READY:
                try:
                    sent = self._connection.send(record, NO_SIGNAL)
                except BlockingIOError:
                    pass
                except OSError as error:
                    self._handle_lost_connection(error)
                if sent == size:
                    self.sent += 1
                    return
            self._send_slowly(record, sent)
        except BaseException:
            # An asynchronous exception may have been raised after the socket accepted part of
            # the record and before this was noted. Only a new connection is certain to start at
            # a record boundary.
            self._disconnect()
            self._drop()
            raise
        finally:
            self._sending = False

    def count_invalid(self) -> None:
        """Count a notification that is not passed to ``send``, because it is invalid."""
        self.check_process()
        self.dropped += 1

    def flush(self) -> None:
        """Send a partial record's remainder and a pending gap record.

        This waits for at most ``max_wait`` seconds.
        """
        self.check_process()
        if self._sending or not (self._remainder or self._missing != 0):
            return
        self._sending = True
        try:
            self._send_slowly(b"", 0)
        except BaseException:
            self._disconnect()  # for the same reason as in send()
            raise
        finally:
            self._sending = False

    def close(self) -> None:
        """Flush and disconnect. The next record connects immediately, without a backoff.

        If a gap record is pending, this connects for it, also during a backoff: the process may
        end.
        """
        # Long enough ago to connect, but not to reset the backoff.
        self._attempted_at = min(self._attempted_at, self._clock() - 1.5 * MAX_BACKOFF)
        self.flush()
        # If a signal handler that interrupted send() calls this, send() still uses the connection.
        if self._state is not _DISCONNECTED and not self._sending:
            self._disconnect()
            self._attempted_at = -math.inf

    def finish(self, timeout: float) -> None:
        """Flush, wait until the relay has read everything, and disconnect.

        Args:
            timeout: maximum time in seconds to wait after the flush.

        Raises:
            TimeoutError: the relay has not read everything yet, but still can.
            OSError: the relay closed the connection without reading everything.
        """
        self.flush()
        if self._state is not _DISCONNECTED:
            try:
                self._connection.finish(timeout)
            except TimeoutError:
                raise
            except OSError:
                self._note_refusal()
                raise
            finally:
                self._disconnect()

    def check_process(self) -> None:
        """Reset the sender in a child process.

        The connection, the pending data and the counters belong to the parent. Forks made in C,
        as by uWSGI, are detected as well.
        """
        if getpid() != self._pid:
            self._reset_in_child()

    def _reset_in_child(self) -> None:
        if self._state is not _DISCONNECTED:
            self._connection.close()  # no shutdown: the parent continues to use the socket
        self._reset()

    def _must_drop(self) -> bool:
        """Return whether a record cannot be sent: the backoff lasts, or the socket is full."""
        if self._state is _DISCONNECTED:
            return self._clock() - self._attempted_at < self._backoff
        return not self._connection.is_writable()

    def _send_slowly(self, record: bytes, sent: int) -> None:
        """Send pending data and ``record``; connect and wait as necessary.

        Args:
            record: the record; empty for a flush.
            sent: number of bytes of ``record`` that were already sent.
        """
        now = self._clock()
        deadline = now + self._max_wait
        # At most two iterations: the second follows a lost connection, and _connect() makes at
        # most one attempt at one time.
        while self._state is not _DISCONNECTED or self._connect(now):
            try:
                if self._state is _READY or sent:
                    sent = self._connection.send_until(deadline, self._clock, record, sent)
                else:
                    if record:  # during a congestion only a flush waits
                        deadline = now
                    sent = self._send_pending(record, deadline)
            except OSError as error:
                self._handle_lost_connection(error)
                sent = 0
            else:
                self._account(record, sent)
                break
        else:
            if record:
                self._drop()
        if self._new_refusal:
            self._report_refusal()

    def _send_pending(self, record: bytes, deadline: float) -> int:
        """Send the remainder, the gap record and ``record`` at once.

        Returns:
            The number of bytes of ``record`` that were sent; negative if pending data is left.
        """
        remainder = self._remainder
        announced = self._missing
        gap = records.gap(announced, self._gap_reason) if announced != 0 else b""
        data = remainder + gap + record
        sent = self._connection.send_until(deadline, self._clock, data) - len(remainder)
        if sent < 0:
            self._remainder = remainder[sent:]
            return sent
        if remainder:
            self._remainder = b""
            self.sent += self._remainder_is_record
        if gap and sent:
            # Not set to 0: a signal handler may have dropped a record in the meantime.
            self._missing = (self._missing or 0) - (announced or 0)
            self._gap_reason = "producer_congested"
            if sent < len(gap):
                self._remainder, self._remainder_is_record = gap[sent:], False
        return sent - len(gap)

    def _account(self, record: bytes, sent: int) -> None:
        """Update state and counters after ``sent`` bytes of ``record`` were sent.

        A negative number means that pending data is left; see ``_send_pending``.
        """
        if sent == len(record):
            self._state = _READY if self._missing == 0 else _PENDING
            self.sent += bool(record)
            return
        self._state = _PENDING
        if sent > 0:
            self._remainder, self._remainder_is_record = record[sent:], True
        elif record:
            self._drop()

    def _drop(self) -> None:
        self.dropped += 1
        if self._missing is not None:
            self._missing += 1
        if self._state is _READY:
            self._state = _PENDING

    def _connect(self, now: float) -> bool:
        """Connect unless the backoff lasts; return whether there is a connection.

        Successful attempts are limited as well: a relay that accepts connections and closes them
        is as useless as none. The backoff is reset only after a long time without an attempt.
        """
        since = now - self._attempted_at
        if since < self._backoff:
            return False
        recent = since <= 2 * MAX_BACKOFF
        self._backoff = min(2 * self._backoff, MAX_BACKOFF) if recent else MIN_BACKOFF
        self._attempted_at = now
        try:
            self._connection = Connection(self.path)
        except OSError as error:
            if isinstance(error, PermissionError):
                self._gap_reason = "permission_denied"
            return False
        self.connects += 1
        if self._missing == 0:
            self._state = _READY
        else:
            self._state = _PENDING
            if self._gap_reason != "permission_denied":
                self._gap_reason = "relay_restarted"
        return True

    def _handle_lost_connection(self, error: OSError) -> None:
        """Disconnect after a send failed.

        If the relay left data unread, the number of lost records is unknown.
        """
        if self._connection.peer_left_data_unread(error):
            self._missing = None
        self._note_refusal()
        self._disconnect()

    def _note_refusal(self) -> None:
        sentence = self._connection.refusal()
        if sentence != self.refusal:
            self.refusal = self._new_refusal = sentence
        if sentence.startswith(records.PRODUCER_NOT_ADMITTED):
            self._gap_reason = "permission_denied"

    def _report_refusal(self) -> None:
        sentence, self._new_refusal = self._new_refusal, ""
        if self._on_refusal is not None:
            self._on_refusal(sentence)

    def _disconnect(self) -> None:
        """Close the connection and drop a record that was partly sent."""
        if self._state is _DISCONNECTED:
            return
        self._state = _DISCONNECTED
        self._connection.close()
        if self._remainder:
            if self._remainder_is_record:
                self._drop()
            else:
                self._missing = None  # the lost gap record contained the number
            self._remainder = b""


def _checked_max_wait(max_wait: float) -> float:
    if not isinstance(max_wait, int | float) or isinstance(max_wait, bool):
        raise TypeError(f"max_wait must be a number of seconds, not {shown(max_wait)}")
    if not 0 <= max_wait <= MAX_MAX_WAIT:
        raise ValueError(
            f"max_wait must be from 0 to {MAX_MAX_WAIT:.0f} seconds, not {shown(max_wait)}"
        )
    return max_wait


def _checked_max_record_size(max_record_size: int) -> int:
    if not isinstance(max_record_size, int) or isinstance(max_record_size, bool):
        raise TypeError(f"max_record_size must be an integer (bytes), not {shown(max_record_size)}")
    if max_record_size < MIN_RECORD_SIZE:
        raise ValueError(
            f"max_record_size must be at least {MIN_RECORD_SIZE} bytes, the size of the smallest"
            f" valid record, not {shown(max_record_size)}"
        )
    return max_record_size
