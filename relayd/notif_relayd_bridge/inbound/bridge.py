# SPDX-License-Identifier: Apache-2.0
"""Runs the inbound pipeline: brings what the source reports to the relay's private socket.

The threads of the source only add to a queue. The main thread takes what has arrived meanwhile,
tells the pipeline, and writes. It waits for the queue and for the relay's socket at once, without a
timeout unless there are records that the relay has not read.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import select
import time
from collections.abc import Callable

from notif_relayd_bridge.brokers.source import Source
from notif_relayd_bridge.connection import Connection
from notif_relayd_bridge.inbound.pipeline import Pipeline
from notif_relayd_bridge.inbound.writer import ConnectionLostError, Writer

FLUSH_TIMEOUT = 2.0
"""Maximum time, in seconds, to wait at the end until the relay has read what was written."""

MIN_CHECK_INTERVAL = 0.001
"""Interval, in seconds, after which the bridge finds out whether the relay has read what was
written. It doubles while the relay does not read."""

MAX_CHECK_INTERVAL = 0.5
"""Maximum of this interval, in seconds."""

MAX_BATCH = 1000
"""Maximum number of messages that are handled before the pipeline writes."""

QUIET_TIME = 1.0
"""With --once: the broker has no more messages if none has arrived for this time, in seconds."""

ANSWER_TIMEOUT = 10.0
"""With --once: maximum time, in seconds, to wait for the broker and for the relay."""

_Entry = bytes | Callable[[], None]


class Inbox:
    """A queue that can be waited for together with sockets."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._queue: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._is_armed = False

    def put(self, entry: _Entry) -> None:
        """Add an entry; any thread and a signal handler may call this."""
        self._queue.put(entry)
        if self._is_armed:
            self._is_armed = False
            os.eventfd_write(self.descriptor, 1)

    def arm(self) -> bool:
        """Let the next ``put`` wake the thread that waits; return whether the queue is empty."""
        self._is_armed = True
        return self._queue.empty()

    def disarm(self) -> None:
        """Let ``put`` only add to the queue."""
        self._is_armed = False
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)

    def take(self) -> list[_Entry]:
        """Return what the queue contains, at most `MAX_BATCH` entries."""
        found: list[_Entry] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < MAX_BATCH:
                found.append(self._queue.get_nowait())
        return found

    def close(self) -> None:
        """Release the descriptor; nothing may be added any more."""
        os.close(self.descriptor)


class SourceConnection(Connection):
    """The source as the pipeline sees it, and what the source reports.

    Args:
        source: the source.
        put: adds an entry to the queue.
    """

    def __init__(self, source: Source, put: Callable[[_Entry], None]) -> None:
        super().__init__(put)
        self.pipeline: Pipeline
        self.received = put
        """See `SourceEvents`."""
        self._source = source

    def acknowledge(self, count: int) -> None:
        """Acknowledge messages, unless the connection has failed."""
        with self._lock:
            if self._is_usable:
                self._source.acknowledge(count)

    def unreadable(self, reason: str) -> None:
        """See `SourceEvents`."""
        self._put(functools.partial(self.pipeline.refuse, reason))


class Bridge:
    """A bridge from a broker to a relay.

    Args:
        name: the name of the bridge.
        path: path of the relay's private socket.
        max_record_size: maximum size of a record of the relay, in bytes.
        source: where the messages come from.
        once: whether to end when the broker has no more messages.
    """

    def __init__(
        self, name: str, path: str, max_record_size: int, source: Source, *, once: bool = False
    ) -> None:
        self._inbox = Inbox()
        self._poll = select.poll()
        self._poll.register(self._inbox.descriptor, select.POLLIN)
        self._source = source
        self._connection = SourceConnection(source, self._inbox.put)
        self.pipeline = Pipeline(name, max_record_size, self._connection, time.monotonic)
        self._connection.pipeline = self.pipeline
        self._writer = Writer(path, self._poll, time.monotonic)
        self._once = once
        self._quiet_at = 0.0
        """With --once: time at which the broker is taken as empty."""
        self._answer_by = 0.0
        """With --once: time at which the broker must have answered, and the relay have read."""
        self._check_at = 0.0
        """Time at which to find out again what the relay has read; the kernel does not report it.
        """
        self._check_interval = MIN_CHECK_INTERVAL
        self._stopping = False
        self._error = ""

    def run(self) -> str:
        """Run until `stop` is called; return why the bridge has failed, or an empty string."""
        self._answer_by = self._quiet_at = time.monotonic() + ANSWER_TIMEOUT
        self._writer.connect()  # The log then tells at once if that is not permitted.
        self._source.start(self._connection)
        try:
            while not (self._stopping or (self._once and self._is_drained())):
                self._step()
            self._flush()
        finally:
            self._source.close()
            self._writer.close()
            self._inbox.close()
        return self._error

    def stop(self) -> None:
        """Let `run` return; a signal handler may call this."""
        self._inbox.put(self._note_stop)

    def report(self) -> dict[str, object]:
        """See `notif_relayd_bridge.status.Reporting`."""
        return self.pipeline.report()

    def _step(self) -> None:
        """Wait for something to do, and do it."""
        if self._inbox.arm():
            self._wait(self._deadline())
        self._inbox.disarm()
        for entry in self._inbox.take():
            if isinstance(entry, bytes):
                self.pipeline.receive(entry)
            else:
                entry()
            self._quiet_at = time.monotonic() + QUIET_TIME
        self._write()

    def _wait(self, deadline: float | None) -> None:
        if deadline is None:
            self._poll.poll()
            return
        # Rounded up, so that the thread does not wake up just before the time.
        self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000 + 1)

    def _deadline(self) -> float | None:
        times = []
        if self.pipeline.unread:
            times.append(self._check_at)
        elif self.pipeline.unwritten and not self._writer.connected:
            times.append(self._writer.retry_at)
        if self._once:
            now = time.monotonic()
            times += [each for each in (self._quiet_at, self._answer_by) if each > now]
        return min(times, default=None)

    def _write(self) -> None:
        """Write what the relay's socket takes, and find out what the relay has read."""
        is_read = False
        try:
            self._writer.check()
            while self.pipeline.unwritten and self._writer.connect():
                data = self.pipeline.chunk()
                sent = self._writer.write(data)
                self.pipeline.write(sent)
                if sent < len(data):
                    break
            if self.pipeline.unread and self._writer.has_read():
                self.pipeline.read()
                is_read = True
        except ConnectionLostError:
            self.pipeline.restart()
        now = time.monotonic()
        if is_read:
            self._answer_by = now + ANSWER_TIMEOUT
            self._check_interval = MIN_CHECK_INTERVAL
        elif now >= self._check_at:
            self._check_interval = min(2 * self._check_interval, MAX_CHECK_INTERVAL)
        self._check_at = now + self._check_interval

    def _is_drained(self) -> bool:
        """Return whether nothing more arrives; note an error if something remains."""
        now = time.monotonic()
        if self.pipeline.connected and self.pipeline.idle:
            return now >= self._quiet_at
        if now < self._answer_by and not (self.pipeline.failed and self.pipeline.idle):
            return False
        missing = "the broker is" if self.pipeline.idle else "the relay is"
        problem = f"{missing} not available"
        if self.pipeline.idle and not self.pipeline.failed:  # For instance, no topic exists.
            problem = f"the broker was not ready within {ANSWER_TIMEOUT:.0f} s, see the log"
        self._error = f"{problem}; unacknowledged messages remain at the broker"
        return True

    def _flush(self) -> None:
        """Complete a record that the relay has a part of, and acknowledge what it reads."""
        deadline = time.monotonic() + FLUSH_TIMEOUT
        while self.pipeline.unread and time.monotonic() < deadline:
            self._wait(min(self._check_at, deadline))
            self._write()

    def _note_stop(self) -> None:
        self._stopping = True
