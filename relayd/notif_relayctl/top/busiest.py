# SPDX-License-Identifier: Apache-2.0
"""Which event types come most often, as a subscriber like any other sees it.

The relay does not count event types: it would have to for every record, and for nobody most of
the time. So relayctl top subscribes, reads what it can, and decodes one field of each record.
"""

import contextlib
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator

import msgspec

from notif_relayctl.access import connect_failure

WINDOW = 10
"""Counts, one for each frame, over which a rate is averaged: a rare type is not to flicker."""

MOST = 1000
"""Event types to remember of one frame; producers might make up a new one for each record."""

MAX_EVENT_TYPE_LENGTH = 256
"""Characters of an event type that are kept; types that begin alike count as one."""

MAX_LINE = 16 * 1024 * 1024
"""Bytes of a record that is not complete yet. A longer one ends the connection, which bounds the
memory of relayctl where something else than the relay sends a line without an end."""

READ_SIZE = 1024 * 1024
"""Bytes."""


class _Header(msgspec.Struct):
    event_type: str


class Busiest:
    """Subscribes to the public socket and counts event types.

    Nothing here waits: `read` is to be called when the socket is readable.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        """Why nothing is counted, in a sentence."""
        self._socket: socket.socket | None = None
        self._decoder = msgspec.json.Decoder(_Header)
        self._rest = b""
        self._counts: deque[tuple[float, Counter[str]]] = deque(maxlen=WINDOW)
        self._count: Counter[str] = Counter()
        self._since = time.monotonic()

    def connect(self, path: str) -> None:
        """Subscribe, unless that is done already."""
        if self._socket is not None:
            return
        public = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            public.connect(path)
        except OSError as error:
            public.close()
            self.problem = str(connect_failure(path, error))
        else:
            self.problem = None
            self._socket = public

    @property
    def connected(self) -> bool:
        """Whether there is anything to wait for."""
        return self._socket is not None

    def fileno(self) -> int:
        """What to wait for before `read`; -1 unless connected."""
        return -1 if self._socket is None else self._socket.fileno()

    def read(self) -> None:
        """Count what has come."""
        if self._socket is None:
            return
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            self.close()
        self._count.update(self._event_types(lines))
        self._count = Counter(dict(self._count.most_common(MOST)))

    def _event_types(self, lines: list[bytes]) -> Iterator[str]:
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield self._decoder.decode(line).event_type[:MAX_EVENT_TYPE_LENGTH]

    def run_once(self) -> None:
        """End one count and begin another."""
        now = time.monotonic()
        self._counts.append((now - self._since, self._count))
        self._count, self._since = Counter(), now

    def rates(self, number: int) -> list[tuple[str, float]]:
        """The busiest so many event types, and how many of each come in a second."""
        seconds = sum(each for each, _ in self._counts)
        total: Counter[str] = sum((count for _, count in self._counts), Counter())
        return [(name, count / seconds) for name, count in total.most_common(number)]

    def close(self) -> None:
        """Subscribe no more."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._rest = None, b""
