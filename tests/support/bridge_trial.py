# SPDX-License-Identifier: Apache-2.0
"""Producers, a relay, a bridge and a broker, and the faults that a trial lets them have.

Everything is real: the producers are handlers of the library, the relay has its descriptors stored
by a service manager, and the bridge is a process that reaches the broker through a proxy. After
each fault, the trial writes a mark to the broker, while the bridge cannot reach it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from notif_relay import RelayHandler
from support.books import Books, mark, record
from support.bridge import RealBridge
from support.central import Central
from support.service_manager import ManagedRelay
from support.waiting import kill, wait_patiently, wait_until

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


SHORT = Size(step=400, record_size=300)


class Load:
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
        """Disconnect the producers."""
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


class Trial:
    """The processes, and the books.

    Args:
        directory: for the files of the relay and the bridge.
        central: the broker.
        size: how much happens.
    """

    def __init__(self, directory: Path, central: Central, size: Size) -> None:
        self.central = central
        self.size = size
        self.books = Books(PRODUCERS)
        self.dropped = 0
        """Number of records that the producers have dropped, at the end."""
        self.relay = ManagedRelay(directory)
        self.bridge = RealBridge(directory, self.relay, central.url)
        with self.bridge.config.open("a") as file:
            file.write(central.sections)
        self.bridge.start()
        self.relay.wait_subscribed()
        self.bridge.wait_logged("connected to the broker")
        self.load = Load(self.relay.ingest, size)

    def close(self) -> None:
        """End everything, and copy the log of the bridge to standard error."""
        self.load.close()
        kill(self.bridge.process)
        self.relay.close()
        sys.stderr.write(self.bridge.log.read_text())

    def emit(self, share: float = 1.0) -> None:
        """Emit a part of the records of a step."""
        self.load.emit(int(self.size.step * share))

    def settle(self) -> None:
        """Wait until everything has arrived that was emitted or is announced as lost."""
        self.load.announce()

        def has_arrived() -> bool:
            self._read()
            return self.books.has_arrived(self.load.emitted)

        with contextlib.suppress(AssertionError):  # The books state what is missing.
            wait_patiently(has_arrived, "everything has arrived")

    def finish(self) -> None:
        """Stop emitting, wait until everything has arrived, and close the books."""
        self.load.stop()
        self.settle()
        self.dropped = self.load.dropped
        status = self.bridge.stop()
        self._read()
        self.books.finish(self.load.emitted)
        if status:
            self.books.errors.append(f"the exit status of the bridge is {status}")

    def _read(self) -> None:
        for each in self.central.read():
            self.books.note(each)

    # Faults

    def kill_bridge(self) -> None:
        """Kill the bridge while messages are under way."""
        self.emit(0.5)
        self.bridge.kill()
        self.central.proxy.refuse()
        self._mark("bridge killed")
        self.emit(0.5)
        self.bridge.start()
        self.emit()

    def kill_broker(self) -> None:
        """Kill the broker; records are spooled until it is back."""
        self.emit(0.5)
        self.central.stop()
        self._restart_broker("broker killed")
        self.emit()

    def kill_broker_and_bridge(self) -> None:
        """Kill the broker, and the bridge while it spools records."""
        self.central.stop()
        self.emit(0.5)
        self.bridge.kill()
        self.bridge.start()
        self.emit(0.5)
        self._restart_broker("broker and bridge killed")
        self.emit()

    def restart_relay(self) -> None:
        """Restart the relay; producers drop what their sockets do not take meanwhile."""
        self.emit(0.5)
        assert self.relay.stop() == 0
        self.emit()
        if self.size.rate is None:
            self.load.overflow()
        self.relay.start()
        self.emit(0.5)

    def restart_relay_and_kill_bridge(self) -> None:
        """Kill the bridge and start another one while no relay runs."""
        self.emit(0.5)
        assert self.relay.stop() == 0
        self.bridge.kill()
        self.central.proxy.refuse()
        self._mark("bridge killed without a relay")
        self.bridge.start()
        self.emit(0.5)
        self.relay.start()
        self.emit()

    def stall(self) -> None:
        """Let the network transport nothing for a while."""
        self.central.proxy.stall()
        self.emit()
        self.central.proxy.stall(False)
        self.emit(0.5)

    def reset(self) -> None:
        """Reset the connections."""
        self.emit(0.5)
        self.central.proxy.refuse()
        self._mark("connection reset")
        self.emit()

    def cut(self) -> None:
        """Cut the connection within a message."""
        proxy = self.central.proxy
        proxy.was_cut.clear()
        proxy.refuses_after_cut = True
        del proxy.sent[:]
        proxy.cut_after = 2001
        self.emit(0.5)
        wait_patiently(proxy.was_cut.is_set, "the connection is cut")
        proxy.refuse()
        self._mark("cut within a message")
        self.emit()

    def fail_in_turn(self) -> None:
        """Let each kind of fault happen, one after the other, and close the books."""
        for fault in (
            self.cut,
            self.kill_bridge,
            self.restart_relay,
            self.reset,
            self.kill_broker,
            self.restart_relay_and_kill_bridge,
            self.stall,
        ):
            fault()
            self.settle()
        self.finish()

    def _restart_broker(self, fault: str) -> None:
        self.central.proxy.refuse()
        self.emit(0.5)
        self.central.start()
        self._mark(fault)

    def _mark(self, fault: str) -> None:
        self.central.write(mark(fault))
        self.central.proxy.refuse(False)


@contextlib.contextmanager
def trial(directory: Path, central: Central, size: Size) -> Iterator[Trial]:
    """Context with a trial whose processes are ended at the end of the block."""
    running = Trial(directory, central, size)
    try:
        yield running
    finally:
        running.close()
