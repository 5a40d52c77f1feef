# SPDX-License-Identifier: Apache-2.0
"""Producers that send at a fixed rate, and subscribers that check the streams they receive.

Every record contains its producer and a sequence number; a record that the producer drops uses up a
number as well. Missing numbers in a subscriber's stream are therefore lost records. A gap record
between the last record before them and the first one after them must announce the loss.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support.relay import connect
from support.waiting import TIMEOUT, first_line, wait_until

PRODUCER = """
import logging, sys, threading, time
from notif_relay import RelayHandler

path, producer, rate = sys.argv[1], sys.argv[2], int(sys.argv[3])
handler = RelayHandler(path)
logger = logging.getLogger("oslo.messaging.notification")
logger.propagate = False
logger.addHandler(handler)
logger.setLevel("INFO")
TEXT = '{"event_type": "load", "priority": "INFO", "producer": %s, "number": %d, "payload": "' + (
    "x" * 100) + '"}'
BATCH = 20
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
print("ready", flush=True)
number = 0
due = time.monotonic()
while not stop.is_set():
    for number in range(number, number + BATCH):
        logger.info(TEXT % (producer, number))
    number += 1
    due += BATCH / rate
    time.sleep(max(0.0, due - time.monotonic()))
# Send until a record is accepted: a gap record for all dropped ones precedes it.
while True:
    sent = handler.stats().sent
    logger.info(TEXT % (producer, number))
    number += 1
    if handler.stats().sent == sent + 1:
        break
    time.sleep(0.01)
handler.close()
print(number, handler.stats().sent, handler.stats().dropped, flush=True)
"""

_LINE = re.compile(
    rb'(?:\{"event_type": "load", "priority": "INFO", "producer": (\d+), "number": (\d+),'
    rb' "payload": "x{100}"\}|([^\n]*))\n'
)


@dataclass(slots=True)
class ProducerTotals:
    """The counters of a producer at its end."""

    attempts: int
    sent: int
    dropped: int


@dataclass(slots=True)
class StreamChecker:
    """Check and count the records that one subscriber receives."""

    next: dict[int, int] = field(default_factory=dict)
    """The next expected number of each producer."""
    received: int = 0
    missing: int = 0
    """Number of records that were not received."""
    announced: int = 0
    """Sum of the lost records that gap records announce by number."""
    crash_gaps: int = 0
    """Gap records of a relay that has replaced a killed one."""
    torn_records: int = 0
    """Records that a crash has cut."""
    errors: list[str] = field(default_factory=list)
    """Unannounced losses, records out of order, and torn records without a crash."""
    _partial: bytes = b""
    _gaps: int = 0
    """Number of gap records so far."""
    _gaps_at: dict[int, int] = field(default_factory=dict)
    """The value of `_gaps` at the last record of each producer."""
    _unexplained: bytes | None = None
    """A line that is not a record; a crash must explain it."""

    def read(self, data: bytes) -> None:
        """Process the next bytes of the stream."""
        lines, newline, self._partial = (self._partial + data).rpartition(b"\n")
        for producer, number, other in _LINE.findall(lines + newline):
            if producer:
                self._count(int(producer), int(number))
            else:
                self._count_other(other)

    def finish(self) -> None:
        """Process the end of the stream."""
        if self._partial:
            self.errors.append(f"the stream ends within a record: {self._partial!r}")

    def _count(self, producer: int, number: int) -> None:
        self._report_unexplained()
        self.received += 1
        expected = self.next.get(producer, 0)
        if number < expected:
            self.errors.append(
                f"record {number} of producer {producer} is a duplicate or out of order"
            )
        elif number > expected:
            self.missing += number - expected
            if self._gaps == self._gaps_at.get(producer, 0):
                self.errors.append(
                    f"no gap record for {expected} to {number - 1} of producer {producer}"
                )
        self.next[producer] = number + 1
        self._gaps_at[producer] = self._gaps

    def _count_other(self, line: bytes) -> None:
        try:
            notification = json.loads(line)
            if notification["event_type"] == "notif_relayd.subscribed":
                return  # The relay repeats the answer to the request after a crash.
            payload = notification["payload"]
            assert notification["event_type"] == "notif_relayd.gap"
        except (ValueError, KeyError, AssertionError):
            self._report_unexplained()
            self._unexplained = line
            return
        self._gaps += 1
        if payload["reason"] == "relay_restarted" and payload["dropped"] is None:
            self.crash_gaps += 1
            self.torn_records += bool(self._unexplained)
            self._unexplained = None
        self._report_unexplained()
        self.announced += payload["dropped"] or 0

    def _report_unexplained(self) -> None:
        if self._unexplained is not None:
            self.errors.append(f"not a record: {self._unexplained!r}")
            self._unexplained = None


class Load:
    """Producers in processes of their own, and subscribers that read without pause.

    Args:
        public: Path of the public socket.
        ingest: Path of the private socket.
        subscribers: Number of subscribers, which connect at once.
    """

    def __init__(self, public: Path | str, ingest: Path | str, *, subscribers: int) -> None:
        self._ingest = ingest
        self._producers: list[subprocess.Popen[str]] = []
        self._sockets = [connect(public) for _ in range(subscribers)]
        for each in self._sockets:
            # A connection may still wait to be accepted; the answer shows that it has been.
            each.sendall(b'{"filter": {}}\n')
            answer = b""
            while not answer.endswith(b"\n"):
                answer += each.recv(4096)
        self.checkers = [StreamChecker() for _ in self._sockets]
        self._reader = threading.Thread(target=self._read_all)
        self._reader.start()

    def produce(self, producers: int, rate: int) -> None:
        """Start `producers` processes that send `rate` records per second each."""
        for producer in range(producers):
            command = [sys.executable, "-c", PRODUCER, str(self._ingest), str(producer), str(rate)]
            self._producers.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for each in self._producers:
            assert first_line(each) == "ready\n"

    def finish(self) -> list[ProducerTotals]:
        """Stop the producers, wait until every record has arrived, and close the subscribers."""
        outputs = [each.communicate(timeout=TIMEOUT)[0] for each in self._producers]
        produced = [ProducerTotals(*map(int, output.split())) for output in outputs]
        last = {producer: each.attempts for producer, each in enumerate(produced)}
        wait_until(
            lambda: all(each.next == last or each.errors for each in self.checkers),
            "every subscriber has read all records",
        )
        self.close()
        for each in self.checkers:
            each.finish()
        return produced

    def close(self) -> None:
        """Kill the producers that still run, and close the subscribers."""
        for each in self._producers:
            each.kill()
            each.communicate(timeout=TIMEOUT)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(2)
        self._reader.join(TIMEOUT)
        for sock in self._sockets:
            sock.close()

    def wait_received(self, more: int) -> None:
        """Wait until the first subscriber has read `more` additional records."""
        goal = self.checkers[0].received + more
        wait_until(lambda: self.checkers[0].received >= goal, f"{more} more records have arrived")

    def _read_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock, checker in zip(self._sockets, self.checkers, strict=True):
                selector.register(sock, selectors.EVENT_READ, (sock, checker))
            while selector.get_map():
                for key, _ in selector.select():
                    sock, checker = key.data
                    data = sock.recv(1 << 20)
                    if data:
                        checker.read(data)
                    else:
                        selector.unregister(sock)


@contextlib.contextmanager
def load(public: Path | str, ingest: Path | str, *, subscribers: int) -> Iterator[Load]:
    """Connect subscribers; at the end of the block, close them and the producers."""
    running = Load(public, ingest, subscribers=subscribers)
    try:
        yield running
    finally:
        running.close()
