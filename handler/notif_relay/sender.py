# SPDX-License-Identifier: Apache-2.0
"""One producer's way to the private socket: how records get out without ever waiting long.

This file owns all that can go wrong between a producer and the relay: a full socket, no relay, a
relay that goes away, a fork. It knows nothing of logging, so that anything may produce records
through it. It is not thread-safe: its user holds a lock, and one with a lock of its own would
take two for every record.

Three rules keep the stream of records whole:

- A record that is half sent is finished before anything else is written. If the connection ends
  first, the record is void, and nothing of it goes out on the next one.
- Whatever is missing from the stream is told before it goes on: a gap record and the record
  after it leave in one send.
- Only a socket that takes records is ever waited for, at most ``max_wait`` for one record. If
  that was not enough, records are dropped without waiting until the socket is writable. At its
  first free byte would be too early: with a slow relay every second record would wait.

A record should cost a service little more than the system call that carries it. ``send`` is all
the way that nearly every one goes, and calls nothing that it can do without; ``_insist`` has the
rest.
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
from notif_relay.forks import fork_mark
from notif_relay.paths import DEFAULT_INGEST_PATH

DEFAULT_MAX_WAIT = 0.01
"""Seconds that one record may wait for a full socket."""

FIRST_PAUSE = 0.1
LAST_PAUSE = 1.0
"""Seconds between two attempts to connect: the first pause doubles until it is the last one."""

SMALLEST_RECORD = len(b'{"event_type":"","priority":""}\n')


class _State(enum.Enum):
    AWAY = "there is no connection"
    READY = "connected, and nothing is owed"
    BEHIND = "connected; a rest or a gap record is owed, and goes first once the socket is writable"


# As globals they are found faster than as attributes, and every record asks.
_AWAY, _READY, _BEHIND = _State.AWAY, _State.READY, _State.BEHIND


class Sender:
    """Sends records to the relay that listens at ``path``, and connects when there is one to send.

    Args:
        path: the private socket.
        max_wait: seconds that a record may wait for a full socket, once per congestion.
        max_record_size: bytes of the longest record to send, its newline included.
        clock: seconds, for deadlines and for the pauses between attempts to connect.

    Raises:
        TypeError, ValueError: an argument that can never work; the message names it.
    """

    __slots__ = (
        "_attempted_at",
        "_clock",
        "_connection",
        "_mark",
        "_max_record_size",
        "_max_wait",
        "_missed",
        "_pause",
        "_pid",
        "_reason",
        "_rest",
        "_rest_is_record",
        "_sending",
        "_state",
        "connects",
        "dropped",
        "path",
        "sent",
    )

    _connection: Connection  # unless AWAY

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_INGEST_PATH,
        max_wait: float = DEFAULT_MAX_WAIT,
        max_record_size: int = records.MAX_RECORD_SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = checked_path(path)
        self._max_wait = _checked_max_wait(max_wait)
        self._max_record_size = _checked_max_record_size(max_record_size)
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._pid = getpid()
        self._mark = fork_mark()
        self._state = _AWAY
        self._sending = False
        self._rest = b""  # of a record or gap record that is half sent
        self._rest_is_record = False
        self._missed: int | None = 0  # records to tell of in a gap record, None if unknown
        self._reason: records.GapReason = "producer_congested"
        self._attempted_at = -math.inf
        self._pause = FIRST_PAUSE
        self.sent = 0
        """Records that the socket took whole."""
        self.dropped = 0
        """Records given to ``send`` that it never will."""
        self.connects = 0
        """Connections made."""

    @property
    def connected(self) -> bool:
        """Whether a connection is held; that its peer has died shows only at the next record."""
        return self._state is not _AWAY

    def send(self, notification: str, process: int | None = None) -> None:
        """Send a notification's JSON as one record, or drop it.

        A full socket or a missing relay is no error, and nothing else is looked at meanwhile. A
        newline can only be white space in JSON: one at the end ends the record, any other
        becomes a space.

        Args:
            notification: its JSON.
            process: the id of the process that made it, if known, as logging does. It saves
                asking for the id of this one, unless there was a fork since.

        Raises:
            RecordTooLarge: it is over ``max_record_size``; the record is dropped.
            UnicodeEncodeError: it cannot be written as UTF-8; the record is dropped.
        """
        if process != self._pid or not self._mark[0]:
            self.check_process()
        if self._state is not _READY and self._is_stuck():
            self._drop()
            return
        try:
            if "\n" in notification:
                notification = notification.removesuffix("\n").replace("\n", " ")
            record = (notification + "\n").encode()
            if len(record) > self._max_record_size:
                raise RecordTooLarge(len(record), self._max_record_size)
        except (RecordTooLarge, UnicodeEncodeError):
            self.dropped += 1
            raise
        if self._sending:
            # A signal handler or finalizer has interrupted a send in this very thread, perhaps
            # in the middle of a record.
            self._drop()
            return
        self._sending = True
        try:
            out = 0
            if self._state is _READY:
                try:
                    out = self._connection.send(record, NO_SIGNAL)
                except BlockingIOError:
                    pass
                except OSError as error:
                    self._lose(error)
                if out == len(record):
                    self.sent += 1
                    return
            self._insist(record, out)
        except BaseException:
            # Thrown in from outside, perhaps between the socket's taking half a record and our
            # taking note of it: only a new connection surely stands at the start of a record.
            self._hang_up()
            self._drop()
            raise
        finally:
            self._sending = False

    def flush(self) -> None:
        """Send what is owed, a record's rest or a gap record, waiting at most ``max_wait``."""
        self.check_process()
        if self._sending or not (self._rest or self._missed != 0):
            return
        self._sending = True
        try:
            self._insist(b"", 0)
        except BaseException:
            self._hang_up()  # as in send()
            raise
        finally:
            self._sending = False

    def close(self) -> None:
        """Flush and disconnect. The next record connects again, as if it were the first."""
        self.flush()
        # Not if this is a signal handler that has interrupted send(), which will go on.
        if self._state is not _AWAY and not self._sending:
            self._hang_up()
            self._attempted_at = -math.inf

    def check_process(self) -> None:
        """Begin anew in a child process: what is connected, owed and counted is its parent's.

        A fork made in C, as by uWSGI, is noticed as well.
        """
        if getpid() != self._pid:
            self._begin_in_child()

    def _begin_in_child(self) -> None:
        if self._state is not _AWAY:
            self._connection.close()  # no shutdown: the parent goes on using it
        self._begin()

    def _is_stuck(self) -> bool:
        """Whether a record can only be dropped: no attempt to connect is due, or no room is."""
        if self._state is _AWAY:
            return self._clock() - self._attempted_at < self._pause
        return not self._connection.is_writable()

    def _insist(self, record: bytes, out: int) -> None:
        """Send ``record``, of which ``out`` bytes are out, with all that it may take.

        An empty record stands for a flush.
        """
        now = self._clock()
        deadline = now + self._max_wait
        # Round again only after a loss, and then at most once: there is one attempt to connect
        # at one time.
        while self._state is not _AWAY or self._connect(now):
            try:
                if self._state is _READY or out:
                    out = self._connection.send_until(deadline, self._clock, record, out)
                else:
                    if record:  # only a flush waits in a congestion
                        deadline = now
                    out = self._send_owed_and(record, deadline)
            except OSError as error:
                self._lose(error)
                out = 0
            else:
                self._note(record, out)
                return
        if record:
            self._drop()

    def _send_owed_and(self, record: bytes, deadline: float) -> int:
        """Send what is owed and ``record`` in one go, and return what ``_note`` asks for."""
        rest = self._rest
        told = self._missed
        gap = records.gap(told, self._reason) if told != 0 else b""
        out = self._connection.send_until(deadline, self._clock, rest + gap + record) - len(rest)
        if out < 0:
            self._rest = rest[out:]
            return out
        if rest:
            self._rest = b""
            self.sent += self._rest_is_record
        if gap and out:
            # Not simply 0: a signal handler may have been refused meanwhile.
            self._missed = (self._missed or 0) - (told or 0)
            self._reason = "producer_congested"
            if out < len(gap):
                self._rest, self._rest_is_record = gap[out:], False
        return out - len(gap)

    def _note(self, record: bytes, out: int) -> None:
        """Take note that ``out`` bytes of ``record`` are out; below zero: not all that is owed."""
        if out == len(record):
            self._state = _READY if self._missed == 0 else _BEHIND
            self.sent += bool(record)
            return
        self._state = _BEHIND
        if out > 0:
            self._rest, self._rest_is_record = record[out:], True
        elif record:
            self._drop()

    def _drop(self) -> None:
        self.dropped += 1
        if self._missed is not None:
            self._missed += 1
        if self._state is _READY:
            self._state = _BEHIND

    def _connect(self, now: float) -> bool:
        """Whether there is a connection now. Attempts are limited, failing ones or not.

        A relay that takes connections and drops them is no better than none, so the pause goes
        back to the first one only when there was no attempt for a good while.
        """
        since = now - self._attempted_at
        if since < self._pause:
            return False
        self._pause = FIRST_PAUSE if since > 2 * LAST_PAUSE else min(2 * self._pause, LAST_PAUSE)
        self._attempted_at = now
        try:
            self._connection = Connection(self.path)
        except OSError:
            return False
        self.connects += 1
        if self._missed == 0:
            self._state = _READY
        else:
            self._state = _BEHIND
            self._reason = "relay_restarted"
        return True

    def _lose(self, error: OSError) -> None:
        """The connection has failed; how many records went with it nobody can tell."""
        if self._connection.was_left_unread(error):
            self._missed = None
        self._hang_up()

    def _hang_up(self) -> None:
        """Disconnect; what is half sent is void."""
        if self._state is _AWAY:
            return
        self._state = _AWAY
        self._connection.close()
        if self._rest:
            if self._rest_is_record:
                self._drop()
            else:
                self._missed = None  # the number was in the gap record
            self._rest = b""


def _checked_max_wait(max_wait: float) -> float:
    if not isinstance(max_wait, int | float):
        raise TypeError(f"max_wait must be a number of seconds, not {max_wait!r}")
    if not 0 <= max_wait < math.inf:
        raise ValueError(f"max_wait must be a number of seconds, 0 or more, not {max_wait!r}")
    return max_wait


def _checked_max_record_size(max_record_size: int) -> int:
    if not isinstance(max_record_size, int):
        raise TypeError(f"max_record_size must be a number of bytes, not {max_record_size!r}")
    if max_record_size < SMALLEST_RECORD:
        raise ValueError(
            f"max_record_size must be at least {SMALLEST_RECORD} bytes, the length of the"
            f" smallest record there is, not {max_record_size!r}"
        )
    return max_record_size
