# SPDX-License-Identifier: Apache-2.0
"""Producers, a relay, a bridge and a broker, and the faults that a trial lets them have.

Everything is real: the producers are handlers of the library, the relay has its descriptors stored
by a service manager, and the bridge is a process that reaches the broker through a proxy. After
each fault, the trial writes a mark to where the bridge sends, while the bridge cannot.

A trial has one of two directions: `OutTrial` has a bridge from the relay to the broker, and
`HubTrial` one from the broker to the relay.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from notif_relay.records import gap
from support.books import Books, mark
from support.bridge import Bridge, RealBridge
from support.bridge_inbound import RealInboundBridge
from support.central import Central
from support.relay import connect
from support.service_manager import ManagedRelay
from support.trial_load import PRODUCERS, BusLoad, HandlerLoad, Load, Size
from support.waiting import TIMEOUT, kill, wait_patiently, wait_until


class Trial:
    """The processes, and the books.

    Args:
        directory: for the files of the relay and the bridge.
        central: the broker.
        size: how much happens.
    """

    bridge: Bridge
    load: Load

    def __init__(self, directory: Path, central: Central, size: Size) -> None:
        self.central = central
        self.size = size
        self.books = Books(PRODUCERS, central.removes_duplicates)
        self.dropped = 0
        """Number of records that the producers have reported as dropped, at the end."""
        self.invented = 0
        """Number of those that did not exist."""
        self.discarded = 0
        """Number of messages that the broker may have discarded unread, at the end."""
        self.relay = ManagedRelay(directory)
        self._status = directory / "status.sock"

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
        self.dropped += self.load.dropped
        status = self.bridge.stop()
        self._read()
        self.books.finish(self.load.emitted)
        if status:
            self.books.errors.append(f"the exit status of the bridge is {status}")
        self.discarded = self.count_discarded()
        if self.discarded:
            self.books.errors.append(f"the broker has discarded {self.discarded} messages")

    def _read(self) -> None:
        for each in self.arrivals():
            self.books.note(each)

    def _figure(self, name: str) -> int:
        """Return a figure of the status of the bridge."""
        with connect(self._status) as sock, sock.makefile() as stream:
            return int(json.loads(stream.readline())[name])

    def _mark(self, fault: str) -> None:
        self.write(mark(fault))
        self.central.proxy.refuse(False)

    def arrivals(self) -> Iterable[bytes]:
        """Return what has arrived and was not returned before."""
        raise NotImplementedError

    def write(self, message: bytes) -> None:
        """Write a message to where the bridge sends."""
        raise NotImplementedError

    def count_discarded(self) -> int:
        """Return the number of messages that the broker may have discarded unread."""
        raise NotImplementedError

    def emit_without_broker(self, share: float) -> None:
        """Emit a part of the records of a step while the broker is away, if that is possible."""
        raise NotImplementedError

    def overflow(self) -> None:
        """Emit more than the relay's socket takes while it is stopped."""
        raise NotImplementedError

    def start_both(self) -> None:
        """Start the bridge and the relay."""
        raise NotImplementedError

    def report_loss(self) -> None:
        """Let a producer report records that it has dropped, if the producers write to a relay."""

    def cut_soon(self) -> None:
        """Let the proxy cut the connection within one of the next messages to be carried."""
        raise NotImplementedError

    def wait_under_way(self) -> None:
        """Wait until the bridge has sent a message that has not arrived, if it sends any."""

    # Faults

    def kill_bridge(self) -> None:
        """Kill the bridge while messages are under way, some of which never arrive."""
        self.emit(0.5)
        self.central.proxy.stall()
        self.emit(0.25)
        self.report_loss()
        self.wait_under_way()
        self.bridge.kill()
        self.central.proxy.refuse()
        self.central.proxy.stall(False)
        self._mark("bridge killed")
        self.emit(0.5)
        self.bridge.start()
        self.emit()

    def kill_broker(self) -> None:
        """Kill the broker while messages are under way."""
        self.emit(0.5)
        self.central.stop()
        self._restart_broker("broker killed")
        if self.size.rate is None and self.central.starts_slowly:
            # The pause until the bridge connects again has become long.
            assert self.bridge.stop() == 0
            self.bridge.start()
        self.emit()

    def restart_relay(self) -> None:
        """Restart the relay."""
        self.emit(0.5)
        assert self.relay.stop() == 0
        self.emit()
        self.overflow()
        self.relay.start()
        self.emit(0.5)

    def restart_relay_and_kill_bridge(self) -> None:
        """Kill the bridge while no relay runs, and start another one."""
        self.emit(0.5)
        assert self.relay.stop() == 0
        self.overflow()
        self.bridge.kill()
        self.central.proxy.refuse()
        self._mark("bridge killed without a relay")
        self.start_both()
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
        self.cut_soon()
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
        self.emit_without_broker(0.5)
        self.central.start()
        self._mark(fault)


class OutTrial(Trial):
    """A trial of a bridge from the relay to the broker."""

    load: HandlerLoad

    def __init__(self, directory: Path, central: Central, size: Size) -> None:
        super().__init__(directory, central, size)
        self.bridge = RealBridge(directory, self.relay, central.url, status_socket=self._status)
        with self.bridge.config.open("a") as file:
            file.write(central.sections)
        self.bridge.start()
        self.relay.wait_subscribed()
        self.bridge.wait_logged("connected to the broker")
        self.load = HandlerLoad(self.relay.ingest, size)

    def arrivals(self) -> Iterable[bytes]:
        return self.central.read()

    def write(self, message: bytes) -> None:
        self.central.write(message)

    def count_discarded(self) -> int:
        return self.central.skipped

    def emit_without_broker(self, share: float) -> None:
        self.emit(share)

    def overflow(self) -> None:
        if self.size.rate is None:
            self.load.overflow()

    def start_both(self) -> None:
        self.bridge.start()
        self.emit(0.5)
        self.relay.start()

    def report_loss(self) -> None:
        with self.relay.produce() as producer:
            producer.sendall(gap(1, "producer_congested"))
        self.dropped += 1
        self.invented += 1

    def wait_under_way(self) -> None:
        if self.size.rate is None:  # Otherwise, the bridge may be waiting for a connection.
            wait_until(lambda: self._figure("unconfirmed") > 0, "a message is sent")

    def cut_soon(self) -> None:
        del self.central.proxy.sent[:]
        self.central.proxy.cut_after = 2001

    def kill_broker_and_bridge(self) -> None:
        """Kill the broker, and the bridge while it spools records."""
        self.central.stop()
        self.emit(0.5)
        self.bridge.kill()
        self.bridge.start()
        self.emit(0.5)
        self._restart_broker("broker and bridge killed")
        self.emit()


class HubTrial(Trial):
    """A trial of a bridge from the broker to the relay of a hub, which has one subscriber."""

    def __init__(self, directory: Path, central: Central, size: Size) -> None:
        super().__init__(directory, central, size)
        self._found: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._subscriber = self.relay.subscribe()
        self._subscriber.socket.settimeout(None)  # for a thread that only waits
        self._reading = threading.Thread(target=self._receive)
        self._reading.start()
        self._marks = self.relay.produce()
        self.bridge = RealInboundBridge(
            directory,
            self.relay.ingest,
            central.url,
            status_socket=self._status,
            **central.source_options,
        )
        with self.bridge.config.open("a") as file:
            file.write(central.source_sections)
        self.bridge.start()
        self.bridge.wait_logged("connected to the broker")
        self.load = BusLoad(central, size)

    def close(self) -> None:
        super().close()
        self._reading.join(TIMEOUT)
        self._subscriber.close()
        self._marks.close()

    def _receive(self) -> None:
        with contextlib.suppress(ConnectionResetError):
            while line := self._subscriber.line():
                self._found.put(line)

    def arrivals(self) -> Iterable[bytes]:
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._found.get_nowait()

    def write(self, message: bytes) -> None:
        self._marks.sendall(message + b"\n")

    def count_discarded(self) -> int:
        return self.central.discarded()

    def emit_without_broker(self, share: float) -> None:
        """Do nothing: the producers write to the broker."""

    def overflow(self) -> None:
        self.emit(2)
        wait_patiently(lambda: self._figure("waiting") > 0, "the bridge cannot write")

    def start_both(self) -> None:
        # The relay first reads what the killed bridge has written. Otherwise, it may read from both
        # bridges in turn, and the books cannot tell the repetition from the rest.
        self.relay.start()
        wait_until(self._has_ended, "the relay has read from the killed bridge")
        self.bridge.start()
        self.emit(0.5)

    def _has_ended(self) -> bool:
        """Return whether no producer is connected but the one for the marks."""
        return int(self.relay.request("status")["producers"]) == 1

    def cut_soon(self) -> None:
        self.central.proxy.cut_answer_after = 2001


T = TypeVar("T", bound=Trial)


@contextlib.contextmanager
def trial(kind: type[T], directory: Path, central: Central, size: Size) -> Iterator[T]:
    """Context with a trial whose processes are ended at the end of the block."""
    running = kind(directory, central, size)
    try:
        yield running
    finally:
        running.close()
