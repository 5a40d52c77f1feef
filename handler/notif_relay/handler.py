# SPDX-License-Identifier: Apache-2.0
"""The logging handler: makes a ``Sender`` available to ``logging``.

oslo.messaging's log driver logs each notification as one message, its JSON. The handler sends this
message unchanged. It adds what ``logging`` requires: it never raises an exception into the
service, passes errors to ``handleError``, and holds the handler's lock for each record.
``sender.py`` implements sending and dropping.
"""

import logging
import os
from dataclasses import dataclass
from threading import get_ident

from notif_relay.errors import InvalidRecord, RecordTooLarge
from notif_relay.paths import DEFAULT_INGEST_PATH
from notif_relay.records import MAX_RECORD_SIZE
from notif_relay.refusal import RefusalLog
from notif_relay.sender import DEFAULT_MAX_WAIT, Sender
from notif_relay.validity import UsualForm, check, describe
from notif_relay.warning_limit import WarningLimit


@dataclass(frozen=True, slots=True)
class HandlerStats:
    """Counters of a handler in this process; a forked child starts at zero."""

    sent: int
    """Number of records that the socket accepted completely."""
    dropped: int
    """Number of records not sent (full socket, no relay, record too large or invalid)."""
    reconnects: int
    """Number of connections made after the first one."""
    connected: bool
    """Whether a connection is open; the end of the relay is detected at the next record."""


class RelayHandler(logging.Handler):
    """Send every logged message to the relay as one record.

    Attach the handler to the logger ``oslo.messaging.notification`` and set ``propagate`` to 0.
    Formatters are ignored, because they would only break the JSON.

    A full socket or a missing relay is not an error: records are dropped and counted. When
    records can be sent again, a gap record with the number of dropped records is sent first. If
    the relay refuses the process, the logger ``notif_relay.refusal`` logs a warning with the
    relay's reason.

    A message that the relay would reject is dropped and counted, and the logger
    ``notif_relay.handler`` logs a warning of one line for it: a message that is too large or not
    JSON, also because of NaN or infinity, or whose ``event_type`` or ``priority`` is not a string.
    There are at most 30 warnings in a minute. In messages of the log driver's form, other
    errors in the JSON are found by the relay only.

    While one thread waits for the socket, other threads that log wait for the handler's lock.

    Args:
        path: path of the relay's private socket.
        max_wait: maximum time that logging may take, in seconds, once per congestion; from 0 to
            86,400. After that, records are dropped.
        max_record_size: maximum size of a record in bytes, including its newline. A longer record
            is dropped, counted and logged.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = DEFAULT_INGEST_PATH,
        max_wait: float = DEFAULT_MAX_WAIT,
        max_record_size: int = MAX_RECORD_SIZE,
    ) -> None:
        # First, so that an invalid argument leaves no incomplete handler in logging's list.
        self._sender = Sender(path, max_wait, max_record_size, on_refusal=RefusalLog(str(path)))
        self._max_record_size = max_record_size
        self._usual = UsualForm()
        self._warnings = WarningLimit()
        self._reporting: int | None = None
        """The thread that logs a warning; not a flag, which a fork could leave set for ever."""
        super().__init__()

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit the record as ``logging.Handler`` does; with fewer calls if there is no filter."""
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
        """Send the message of ``record`` or drop it; call with the handler's lock held.

        For an invalid record, log a warning. It does not contain the record, which may have
        megabytes.
        """
        try:
            message = record.msg  # from the log driver; getMessage() would return it unchanged
            if record.args or type(message) is not str:
                message = record.getMessage()
            # The usual case is written out, because a call would take twice the time.
            start, head, end = self._usual.last
            rest = message[end:]
            if (
                message[start:end] != head
                or "N" in rest  # NaN; in a copy, because a call of rfind() would take longer
                or "I" in rest  # Infinity
                or message[-1] != "}"
            ):
                self._check(message, record.name)
            self._sender.send(message, record.process)
        except (InvalidRecord, RecordTooLarge) as error:
            problem = str(error)
        except UnicodeEncodeError as error:
            problem = f"a record was dropped: {error.reason}"
        except Exception:  # noqa: BLE001 (a logging handler must not raise into the service)
            if hasattr(record, "process"):
                self.handleError(record)
            else:  # a program made or changed this record; nothing has been sent
                record.process = None
                self.emit(record)
            return
        else:
            return
        # Not in an exception handler: oslo.log appends the exception being handled to a message.
        self._report(record, problem)

    def _check(self, message: str, logger: str) -> None:
        # The log driver has a logger for each type of event. A long message is left to the sender,
        # which refuses it without decoding it.
        if self._usual.matches(message, logger) or len(message) >= self._max_record_size:
            return
        try:
            check(message)
        except InvalidRecord:
            self._sender.count_invalid()
            raise

    def _report(self, record: logging.LogRecord, problem: str) -> None:
        # If the handler is attached to the root logger, it gets its own warnings as well.
        if (
            self._reporting == get_ident()
            or record.name == RefusalLog.__module__
            or not self._warnings.allows()
        ):
            return
        self._reporting = get_ident()
        try:
            # Not at import: logging.config disables the loggers that exist before it is called.
            logger = logging.getLogger(__name__)
            if logger.disabled:
                logger = logging.getLogger()
            logger.warning(
                "%s: %s (%d records dropped so far)",
                describe(record.getMessage()),
                problem,
                self._sender.dropped,
            )
        finally:
            self._reporting = None

    def flush(self) -> None:
        """Send a partial record's remainder and a pending gap record.

        This waits for at most ``max_wait`` seconds.
        """
        self.acquire()
        try:
            self._sender.flush()
        finally:
            self.release()

    def close(self) -> None:
        """Flush and disconnect. A message that is logged later connects again."""
        self.acquire()
        try:
            self._sender.close()
        finally:
            self.release()
        super().close()

    def stats(self) -> HandlerStats:
        """Return a consistent snapshot of the counters."""
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
        """Return the same form as the standard handlers."""
        level = logging.getLevelName(self.level)
        return f"<{type(self).__name__} {self._sender.path} ({level})>"
