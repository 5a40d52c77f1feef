# SPDX-License-Identifier: Apache-2.0
"""Producers under load, subscribers that keep up, and whether their books balance.

Every record has its producer and a number in it, and a producer's numbers have no hole: what it
dropped has a number too. So a hole in what a subscriber reads is a loss, and must have been
announced between the record before it and the record after it.
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

from support.running import DEADLINE, connect, first_line, wait_until

PRODUCER = """
import logging, sys, threading, time
from notif_relay import RelayHandler

path, which, rate = sys.argv[1], sys.argv[2], int(sys.argv[3])
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
        logger.info(TEXT % (which, number))
    number += 1
    due += BATCH / rate
    time.sleep(max(0.0, due - time.monotonic()))
# Until one is through: then what was dropped has been told.
while True:
    sent = handler.stats().sent
    logger.info(TEXT % (which, number))
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
class Produced:
    """What a producer did."""

    attempts: int
    sent: int
    dropped: int


@dataclass(slots=True)
class Books:
    """What one subscriber has read."""

    next: dict[int, int] = field(default_factory=dict)
    """For each producer, the number that comes next."""
    received: int = 0
    missing: int = 0
    """Records that are not there."""
    announced: int = 0
    """Records that gap records with a number spoke of."""
    crashes: int = 0
    """Gap records of a relay that took over from one that was killed."""
    torn: int = 0
    wrong: list[str] = field(default_factory=list)
    """What must not be: holes that nobody announced, records out of order, torn records."""
    _partial: bytes = b""
    _gaps: int = 0
    """Gap records so far."""
    _gaps_at: dict[int, int] = field(default_factory=dict)
    """For each producer, how many there had been at its last record."""
    _open_end: bytes | None = None
    """A line that is no record, whose explanation must follow."""

    def read(self, data: bytes) -> None:
        """Enter the next bytes of the stream."""
        lines, newline, self._partial = (self._partial + data).rpartition(b"\n")
        for producer, number, other in _LINE.findall(lines + newline):
            if producer:
                self._enter(int(producer), int(number))
            else:
                self._enter_other(other)

    def finish(self) -> None:
        """The stream has ended."""
        if self._partial:
            self.wrong.append(f"it ends in the middle of a record: {self._partial!r}")

    def _enter(self, producer: int, number: int) -> None:
        self._expect_no_open_end()
        self.received += 1
        expected = self.next.get(producer, 0)
        if number < expected:
            self.wrong.append(f"record {number} of producer {producer} again or too late")
        elif number > expected:
            self.missing += number - expected
            if self._gaps == self._gaps_at.get(producer, 0):
                self.wrong.append(f"no word of {expected} to {number - 1} of producer {producer}")
        self.next[producer] = number + 1
        self._gaps_at[producer] = self._gaps

    def _enter_other(self, line: bytes) -> None:
        try:
            notification = json.loads(line)
            if notification["event_type"] == "notif_relayd.subscribed":
                return  # the answer to the request, once more after a crash
            payload = notification["payload"]
            assert notification["event_type"] == "notif_relayd.gap"
        except (ValueError, KeyError, AssertionError):
            self._expect_no_open_end()
            self._open_end = line
            return
        self._gaps += 1
        if payload["reason"] == "relay_restarted" and payload["dropped"] is None:
            self.crashes += 1
            self.torn += bool(self._open_end)
            self._open_end = None
        self._expect_no_open_end()
        self.announced += payload["dropped"] or 0

    def _expect_no_open_end(self) -> None:
        if self._open_end is not None:
            self.wrong.append(f"no record: {self._open_end!r}")
            self._open_end = None


class Load:
    """Producers at a rate, in processes of their own, and subscribers that read all the time."""

    def __init__(self, public: Path | str, ingest: Path | str, *, subscribers: int) -> None:
        self._ingest = ingest
        self._producers: list[subprocess.Popen[str]] = []
        self._sockets = [connect(public) for _ in range(subscribers)]
        for each in self._sockets:
            # Connected, one may still be waiting to be let in; answered, one has been.
            each.sendall(b'{"filter": {}}\n')
            answer = b""
            while not answer.endswith(b"\n"):
                answer += each.recv(4096)
        self.books = [Books() for _ in self._sockets]
        self._reader = threading.Thread(target=self._read_all)
        self._reader.start()

    def produce(self, producers: int, rate: int) -> None:
        """Start so many, each at so many records a second."""
        for which in range(producers):
            command = [sys.executable, "-c", PRODUCER, str(self._ingest), str(which), str(rate)]
            self._producers.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        for each in self._producers:
            assert first_line(each) == "ready\n"

    def finish(self) -> list[Produced]:
        """Stop the producers, wait for what is still under way, and end the subscribers."""
        outputs = [each.communicate(timeout=DEADLINE)[0] for each in self._producers]
        produced = [Produced(*map(int, output.split())) for output in outputs]
        last = {which: each.attempts for which, each in enumerate(produced)}
        wait_until(
            lambda: all(each.next == last or each.wrong for each in self.books), "all is read"
        )
        self.close()
        for each in self.books:
            each.finish()
        return produced

    def close(self) -> None:
        """Leave nothing behind."""
        for each in self._producers:
            each.kill()
            each.communicate(timeout=DEADLINE)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(2)
        self._reader.join(DEADLINE)
        for sock in self._sockets:
            sock.close()

    def wait_received(self, more: int) -> None:
        """Wait until the first subscriber has read so many records more."""
        goal = self.books[0].received + more
        wait_until(lambda: self.books[0].received >= goal, f"{more} more records are read")

    def _read_all(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock, books in zip(self._sockets, self.books, strict=True):
                selector.register(sock, selectors.EVENT_READ, (sock, books))
            while selector.get_map():
                for key, _ in selector.select():
                    sock, books = key.data
                    data = sock.recv(1 << 20)
                    if data:
                        books.read(data)
                    else:
                        selector.unregister(sock)


@contextlib.contextmanager
def load(public: Path | str, ingest: Path | str, *, subscribers: int) -> Iterator[Load]:
    """Subscribers from the start; nothing is left of them, nor of the producers, at the end."""
    running = Load(public, ingest, subscribers=subscribers)
    try:
        yield running
    finally:
        running.close()
