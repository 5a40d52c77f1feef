# SPDX-License-Identifier: Apache-2.0
"""What the producers of a trial emit: handlers of the library, or services on a broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from notif_relay import RelayHandler
from support.books import record
from support.central import Central
from support.waiting import wait_until

PRODUCERS = 4


@dataclass(frozen=True, slots=True)
class Size:
    """How much a trial does."""

    step: int
    """Number of records before, during and after a fault."""
    record_size: int
    """Size of a record in bytes, about."""
    rate: int | None = None
    """Records per second; None: as fast as possible, and only when the trial waits for them."""


SHORT = Size(step=400, record_size=1000)
"""Two steps are more than a socket takes, with the last write of a bridge: about 300 KiB."""


class Load(Protocol):
    """What a trial requires of its producers."""

    emitted: list[int]
    """Number of records of each producer, those that it drops included."""

    @property
    def dropped(self) -> int:
        """Number of records that the producers have dropped."""

    def emit(self, count: int) -> None:
        """Emit some records, or wait until they are emitted."""

    def announce(self) -> None:
        """Emit until every producer has announced what it has dropped."""

    def stop(self) -> None:
        """Stop emitting; without effect if that has happened."""

    def close(self) -> None:
        """Stop emitting, and disconnect the producers."""


class HandlerLoad:
    """The producers, which emit records in turn.

    Args:
        ingest: path of the relay's private socket.
        size: how much they emit.
    """

    def __init__(self, ingest: Path, size: Size) -> None:
        self.emitted = [0] * PRODUCERS
        """Number of records of each producer, those that it drops included."""
        self._size = size
        self._handlers = [RelayHandler(ingest) for _ in range(PRODUCERS)]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        if size.rate:
            self._thread.start()

    @property
    def dropped(self) -> int:
        """Number of records that the producers have dropped."""
        return sum(each.stats().dropped for each in self._handlers)

    def emit(self, count: int) -> None:
        """Emit some records, or wait until they are emitted."""
        if not self._size.rate:
            for _ in range(count // PRODUCERS):
                self._emit_one_each()
            return
        end = sum(self.emitted) + count
        while sum(self.emitted) < end:
            wait_until(self._progress(), "the producers emit records")

    def overflow(self) -> None:
        """Emit until every producer drops records."""
        for producer, handler in enumerate(self._handlers):
            dropped = handler.stats().dropped
            while handler.stats().dropped < dropped + 10:
                self._emit(producer)

    def announce(self) -> None:
        """Emit until every producer has announced what it has dropped."""
        for producer, handler in enumerate(self._handlers):
            sent = handler.stats().sent

            def has_emitted(producer: int = producer, sent: int = sent) -> bool:
                self._emit(producer)
                return self._handlers[producer].stats().sent == sent + 1

            wait_until(has_emitted, "the relay takes a record")

    def stop(self) -> None:
        """Stop emitting; without effect if that has happened."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def close(self) -> None:
        """Stop emitting, and disconnect the producers."""
        self.stop()
        for each in self._handlers:
            each.close()

    def _progress(self) -> Callable[[], bool]:
        before = sum(self.emitted)
        return lambda: sum(self.emitted) > before

    def _run(self) -> None:
        assert self._size.rate is not None
        batch = 5
        due = time.monotonic()
        while not self._stopped.is_set():
            for _ in range(batch):
                self._emit_one_each()
            due += batch * PRODUCERS / self._size.rate
            self._stopped.wait(max(0.0, due - time.monotonic()))

    def _emit_one_each(self) -> None:
        for producer in range(PRODUCERS):
            self._emit(producer)

    def _emit(self, producer: int) -> None:
        text = record(producer, self.emitted[producer], self._size.record_size)
        name = "oslo.messaging.notification"
        self._handlers[producer].handle(
            logging.LogRecord(name, logging.INFO, "", 0, text, None, None)
        )
        self.emitted[producer] += 1


class BusLoad:
    """Producers whose records are at the broker already when they count as emitted.

    Args:
        bus: the broker.
        size: how much they emit.
    """

    dropped = 0

    def __init__(self, bus: Central, size: Size) -> None:
        self.emitted = [0] * PRODUCERS
        self._bus = bus
        self._size = size
        self._due = time.monotonic()

    def emit(self, count: int) -> None:
        """Emit some records."""
        for _ in range(0, count, self._bus.batch):
            each = min(self._bus.batch, count) // PRODUCERS
            numbers = [range(first, first + each) for first in self.emitted]
            self._bus.publish(
                [
                    record(producer, number, self._size.record_size).encode()
                    for turn in zip(*numbers, strict=True)
                    for producer, number in enumerate(turn)
                ]
            )
            self.emitted = [first + each for first in self.emitted]
            if self._size.rate:
                self._due = max(self._due + each * PRODUCERS / self._size.rate, time.monotonic())
                time.sleep(max(0.0, self._due - time.monotonic()))

    def announce(self) -> None:
        """Do nothing: these producers drop nothing."""

    stop = close = announce
