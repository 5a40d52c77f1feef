# SPDX-License-Identifier: Apache-2.0
"""The logging handler: the thin shell that makes a ``Sender`` a part of ``logging``.

oslo.messaging's log driver logs each notification as one message, its JSON. The handler passes
that message on as it is. What a service expects of a handler is here: it never raises into the
service, errors go to ``handleError``, one lock guards each record. How a record gets out, and
what happens if it cannot, is in ``sender.py``.
"""

import logging
import os
from dataclasses import dataclass

from notif_relay.paths import DEFAULT_INGEST_PATH
from notif_relay.records import MAX_RECORD_SIZE
from notif_relay.sender import DEFAULT_MAX_WAIT, Sender


@dataclass(frozen=True, slots=True)
class HandlerStats:
    """What a handler has done in this process: a forked child begins at zero."""

    sent: int
    """Records that the relay's socket took whole."""
    dropped: int
    """Records not sent because the socket was full, there was no relay, or they were too large."""
    reconnects: int
    """Connections made after the first one."""
    connected: bool
    """Whether a connection is held; that the relay has died shows only at the next record."""


class RelayHandler(logging.Handler):
    """Sends every message logged to it to the relay, as one record.

    Meant for the logger ``oslo.messaging.notification``, with ``propagate`` off. A formatter
    is not used: it could only break the JSON.

    A full socket or a missing relay is no error: records are dropped and counted, and the
    relay's subscribers are told the number by a gap record as soon as records get through
    again. A thread that logs while another one waits for the socket waits along.

    Args:
        path: the relay's private socket.
        max_wait: seconds that logging may take, once per congestion, before records are dropped.
        max_record_size: bytes of the longest record to send, its newline included. A longer one
            is dropped, counted, and reported through ``handleError``.

    Raises:
        TypeError, ValueError: an argument that can never work; the message names it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_INGEST_PATH,
        max_wait: float = DEFAULT_MAX_WAIT,
        max_record_size: int = MAX_RECORD_SIZE,
    ) -> None:
        # First, so that a bad argument leaves no half-made handler in logging's list.
        self._sender = Sender(path, max_wait, max_record_size)
        super().__init__()

    def handle(self, record: logging.LogRecord) -> bool:
        """Do what every handler does, in fewer calls where it has no filter to ask."""
        lock = self.lock
        if self.filters or lock is None:
            return super().handle(record)
        lock.acquire()
        try:
            self.emit(record)
        finally:
            lock.release()
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Send the message of ``record``, or drop it; called with the handler's lock held."""
        try:
            message = record.msg  # the log driver's, as it is: getMessage() would do nothing
            if record.args or type(message) is not str:
                message = record.getMessage()
            self._sender.send(message, record.process)
        except Exception:  # noqa: BLE001 (a handler's errors must not become the service's)
            self.handleError(record)

    def flush(self) -> None:
        """Send a half-sent record's rest and the gap record owed, waiting at most ``max_wait``."""
        self.acquire()
        try:
            self._sender.flush()
        finally:
            self.release()

    def close(self) -> None:
        """Flush and disconnect; a message logged later connects again."""
        self.acquire()
        try:
            self._sender.close()
        finally:
            self.release()
        super().close()

    def stats(self) -> HandlerStats:
        """The counters, all of the same instant."""
        self.acquire()
        try:
            sender = self._sender
            sender.check_process()
            return HandlerStats(
                sent=sender.sent,
                dropped=sender.dropped,
                reconnects=max(0, sender.connects - 1),
                connected=sender.connected,
            )
        finally:
            self.release()

    def __repr__(self) -> str:
        """As the standard handlers show theirs."""
        level = logging.getLevelName(self.level)
        return f"<{type(self).__name__} {self._sender.path} ({level})>"
