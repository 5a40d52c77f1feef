# SPDX-License-Identifier: Apache-2.0
"""The most frequent event types, counted by a subscriber.

The relay does not count event types: it would have to do so for every record, and the counts are
rarely needed. Therefore relayctl top subscribes, reads as fast as it can, and decodes one field of
each record.
"""

import contextlib
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator

import msgspec

from notif_relayctl.access import connect_failure

WINDOW = 10
"""Number of frames over which a rate is averaged, so that rare types do not flicker."""

MAX_EVENT_TYPES = 1000
"""Event types to keep for each frame; a producer can use a new one for each record."""

MAX_EVENT_TYPE_LENGTH = 256
"""Characters. Event types that differ only after them are counted as one."""

MAX_LINE = 16 * 1024 * 1024
"""Bytes of an incomplete record. If it is longer, the connection is closed. This limits the memory
of relayctl if a program other than the relay sends an endless line."""

READ_SIZE = 1024 * 1024
"""Bytes."""


class _Header(msgspec.Struct):
    event_type: str


class Busiest:
    """Subscribes to the public socket and counts event types.

    No method blocks. Call `read` when the socket is readable.
    """

    def __init__(self) -> None:
        self.problem: str | None = None
        """Why event types are not counted, as a sentence."""
        self._socket: socket.socket | None = None
        self._decoder = msgspec.json.Decoder(_Header)
        self._partial = b""
        self._counts: deque[tuple[float, Counter[str]]] = deque(maxlen=WINDOW)
        self._count: Counter[str] = Counter()
        self._since = time.monotonic()

    def connect(self, path: str) -> None:
        """Subscribe, unless connected already."""
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
        """Whether the subscription exists."""
        return self._socket is not None

    def fileno(self) -> int:
        """Return the descriptor of the socket; -1 if not connected."""
        return -1 if self._socket is None else self._socket.fileno()

    def read(self) -> None:
        """Count the records that have arrived; close the connection if the relay closed it."""
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
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > MAX_LINE:
            self.close()
        self._count.update(self._event_types(lines))
        self._count = Counter(dict(self._count.most_common(MAX_EVENT_TYPES)))

    def _event_types(self, lines: list[bytes]) -> Iterator[str]:
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield self._decoder.decode(line).event_type[:MAX_EVENT_TYPE_LENGTH]

    def next_frame(self) -> None:
        """End the count of this frame and begin the next."""
        now = time.monotonic()
        self._counts.append((now - self._since, self._count))
        self._count, self._since = Counter(), now

    def rates(self, number: int) -> list[tuple[str, float]]:
        """Return the `number` most frequent event types, each with its records per second."""
        seconds = sum(each for each, _ in self._counts)
        total: Counter[str] = sum((count for _, count in self._counts), Counter())
        return [(name, count / seconds) for name, count in total.most_common(number)]

    def close(self) -> None:
        """End the subscription."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._partial = None, b""
