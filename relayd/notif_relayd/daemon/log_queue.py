# SPDX-License-Identifier: Apache-2.0
"""Keeps the log from ever stopping the relay.

To write a line of the log is to wait for whoever takes it: a pipe that nobody reads, a journal
that hangs, a disk that does. Neither logging nor libsystemd can be told not to wait. So a thread of
its own does the waiting, behind a queue with an end: lines that it has no room for are dropped and
counted, and the next line that is written says how many. The thread sleeps while there is nothing.
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

CAPACITY = 1000
"""Lines that may wait: seconds of a log that hangs, and no memory to speak of."""

REPORT_INTERVAL = 10.0
"""Seconds between two complaints about a handler that fails."""

SEND_TIMEOUT = 2.0
"""Seconds that the log gets to take what is left at the end."""


class LogQueue:
    """Writes for all loggers, once it has taken over."""

    def __init__(self) -> None:
        self.dropped = 0
        """Lines that there was no room for since the last notice about that."""
        self._failed = 0
        """Lines that a handler has failed to write since then."""
        self._reported_at = -REPORT_INTERVAL
        self._queue: queue.Queue[tuple[logging.Handler, logging.LogRecord] | None] = queue.Queue(
            CAPACITY
        )
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def take_over(self) -> None:
        """Put every handler that is there now behind the queue."""
        for logger in _loggers():
            for handler in list(logger.handlers):
                if not isinstance(handler, _Queued):
                    logger.removeHandler(handler)
                    logger.addHandler(_Queued(self, handler))

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While handlers are being replaced; if that fails, the log is what it was."""
        before = [(each, each.handlers[:], each.level, each.propagate) for each in _loggers()]
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
        """Have `handler` handle `record`, if there is room."""
        try:
            self._queue.put_nowait((handler, record))
        except queue.Full:
            self.dropped += 1

    def close(self) -> bool:
        """Write what is left; whether that went through in time."""
        try:
            self._queue.put(None, timeout=SEND_TIMEOUT)
        except queue.Full:
            return False
        self._thread.join(SEND_TIMEOUT)
        return not self._thread.is_alive() and _flushed(sys.stderr)

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
        """Say on stderr that a handler fails, at most once every `REPORT_INTERVAL` seconds."""
        now = time.monotonic()
        if now - self._reported_at >= REPORT_INTERVAL and sys.stderr is not None:
            self._reported_at = now
            with contextlib.suppress(OSError, ValueError):  # It may be closed.
                sys.stderr.write(
                    f"a line of the log was lost: {type(handler).__name__} raised "
                    f"{printable(repr(error))}\n"
                )
                sys.stderr.flush()


class _Queued(logging.Handler):
    """In a handler's place."""

    def __init__(self, writer: LogQueue, handler: logging.Handler) -> None:
        super().__init__(handler.level)
        self._writer = writer
        self._handler = handler

    def emit(self, record: logging.LogRecord) -> None:
        # What the arguments are may be something else later, so that is settled now. Peers choose
        # some of them: none of their newlines and escape sequences reaches the log.
        record = copy.copy(record)
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - an argument's __str__ may raise anything
            message = f"{record.msg} (its arguments cannot be shown: {error!r})"
        record.msg, record.args = printable(message), None
        self._writer.write(self._handler, record)


def _flushed(stream: TextIO | None) -> bool:
    """Whether nothing is left in it; a stream that was closed at the start is none."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        return False
    return True


def _loggers() -> list[logging.Logger]:
    return [logging.getLogger(), *map(logging.getLogger, logging.Logger.manager.loggerDict)]


def _notice(dropped: int) -> logging.LogRecord:
    text = "%d lines of this log were dropped: it failed, or did not take them in time"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (dropped,), None)
