# SPDX-License-Identifier: Apache-2.0
"""Writes the log in a thread, so that the relay never waits for it.

A write to the log can block on a pipe that is not read, on the journal, or on a disk, and neither
logging nor libsystemd has a non-blocking mode. Lines wait in a bounded queue for the thread. Lines
that do not fit are dropped, and the next line that is written is followed by their number.
"""

import contextlib
import copy
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from notif_relayd.escaping import printable

MAX_QUEUED = 1000
"""Lines that may wait to be written: some hundred KiB, and several seconds of a busy log."""

REPORT_INTERVAL = 10.0
"""Minimum interval between two reports of a failing handler on standard error, in seconds."""

CLOSE_TIMEOUT = 2.0
"""Maximum time to write the remaining lines at the end, in seconds."""


class LogQueue:
    """Queue and thread between all loggers and their handlers; see `take_over`."""

    def __init__(self) -> None:
        self.dropped = 0
        """Lines that did not fit into the queue since the last line that reported drops."""
        self._failed = 0
        """Lines that a handler failed to write since then."""
        self._reported_at = -REPORT_INTERVAL
        self._queue: queue.Queue[tuple[logging.Handler, logging.LogRecord] | None] = queue.Queue(
            MAX_QUEUED
        )
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def take_over(self) -> None:
        """Replace each handler of each logger by one that puts records into the queue.

        Call this again after handlers have been added.
        """
        for logger in all_loggers():
            for handler in list(logger.handlers):
                if not isinstance(handler, _QueueingHandler):
                    logger.removeHandler(handler)
                    logger.addHandler(_QueueingHandler(self, handler))
                    if type(handler).handleError is logging.Handler.handleError:
                        # It would print a traceback for each line.
                        handler.handleError = _raise  # type: ignore[method-assign]

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Context in which loggers are reconfigured; an error restores their previous state."""
        before = [(each, each.handlers[:], each.level, each.propagate) for each in all_loggers()]
        try:
            yield
        except BaseException:
            for logger, handlers, level, propagate in before:
                logger.handlers[:] = handlers
                logger.setLevel(level)
                logger.propagate = propagate
            raise
        finally:
            self.take_over()

    def write(self, handler: logging.Handler, record: logging.LogRecord) -> None:
        """Queue a record for a handler, or drop the record if the queue is full."""
        try:
            self._queue.put_nowait((handler, record))
        except queue.Full:
            self.dropped += 1

    def close(self) -> bool:
        """Write the remaining lines; return whether this succeeded within `CLOSE_TIMEOUT`."""
        try:
            self._queue.put(None, timeout=CLOSE_TIMEOUT)
        except queue.Full:
            return False
        self._thread.join(CLOSE_TIMEOUT)
        return not self._thread.is_alive() and _flush(sys.stderr)

    def _write(self) -> None:
        while (each := self._queue.get()) is not None:
            handler, record = each
            try:
                handler.handle(record)
                if self.dropped or self._failed:
                    missing = self.dropped + self._failed
                    self.dropped = self._failed = 0
                    handler.handle(_notice(missing))
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
                self._failed += 1
                self._report(handler, error)

    def _report(self, handler: logging.Handler, error: BaseException) -> None:
        """Report a failing handler on standard error, at most once per `REPORT_INTERVAL`."""
        now = time.monotonic()
        if now - self._reported_at >= REPORT_INTERVAL and sys.stderr is not None:
            self._reported_at = now
            with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed.
                sys.stderr.write(
                    f"cannot write a log line: {type(handler).__name__} raised "
                    f"{printable(repr(error))}\n"
                )
                sys.stderr.flush()


class _QueueingHandler(logging.Handler):
    """Queues records for another handler."""

    def __init__(self, log_queue: LogQueue, handler: logging.Handler) -> None:
        super().__init__(handler.level)
        self._log_queue = log_queue
        self._handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        # Format the message now, because the arguments may change before the thread writes it.
        # Peers choose some arguments, so newlines and escape sequences are escaped, and characters
        # that the encoding of the output lacks.
        record = copy.copy(record)
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - an argument's __str__ may raise anything
            message = f"{record.msg} (cannot format its arguments: {error!r})"
        encoding = getattr(getattr(self._handler, "stream", None), "encoding", None)
        record.msg, record.args = printable(message, encoding), None
        self._log_queue.write(self._handler, record)


def _raise(record: logging.LogRecord) -> None:  # noqa: ARG001 (as in logging)
    """Raise the error that a handler reports."""
    error = sys.exc_info()[1]
    if error is not None:
        raise error


def _flush(stream: TextIO | None) -> bool:
    """Flush a stream; return whether this succeeded. `None` is a stream that was never open."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        return False
    return True


def all_loggers() -> list[logging.Logger]:
    """Return the root logger and every other logger."""
    return [logging.getLogger(), *map(logging.getLogger, logging.Logger.manager.loggerDict)]


def _notice(dropped: int) -> logging.LogRecord:
    text = "%d log lines were dropped: the log failed or did not accept them in time"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (dropped,), None)
