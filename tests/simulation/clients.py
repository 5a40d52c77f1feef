# SPDX-License-Identifier: Apache-2.0
"""The relay's clients: producers, subscribers and relayctl, which act at random."""

from __future__ import annotations

import json
import math
import random
from collections import deque
from collections.abc import Callable

from simulation.group_model import HOLDS, Part
from simulation.kernel import Endpoint, Listener
from simulation.model import Model
from simulation.reader import TOO_MANY, Request
from simulation.vocabulary import FILTERS, TEMPLATES, Wanted

MAX_CLIENTS = 12
"""Producers and subscribers at a time, approximately."""

MAX_CONTROL_CLIENTS = 8
MAX_CONNECTION_ID = 30
"""Highest number of a connection that relayctl disconnects."""

ALL = 10_000
"""Bytes that are more than a client has to send or read."""

INVALID_REQUESTS = [
    b"null\n",
    b"{}\n",
    b'{"filter": []}\n',
    b'{"filter": {"event_type": []}}\n',
    b'{"group": "a b"}\n',
    b'{"group": "g", "window": 0}\n',
    b'{"done": -1}\n',
]


class Clients:
    """All clients.

    Args:
        rng: decides what the clients do.
        listeners: the listening sockets, by name.
        model: makes the records.
        invalid_lines: lines that producers send beside the records of the model.
    """

    def __init__(
        self,
        rng: random.Random,
        listeners: dict[str, Listener],
        model: Model,
        invalid_lines: list[bytes],
    ) -> None:
        self.orderly = rng.random() < 0.5
        """Whether producers mostly act as handlers do and send one or two whole records."""
        self._shares = rng.random() < 0.5
        """Whether subscribers mostly join the same group."""
        self.requests: dict[Endpoint, deque[Request]] = {}
        """By subscriber: requests without an answer."""
        self.answers: dict[Endpoint, bytes] = {}
        """By control connection: what the relay has answered."""
        self.disconnects = 0
        """Requests of relayctl to disconnect a client, which the relay may still act on."""
        self._random = rng
        self._listeners = listeners
        self._model = model
        self._invalid_lines = invalid_lines
        # The clients' ends of the connections, each with data that has not been sent.
        self._producers: dict[Endpoint, bytes] = {}
        self._subscribers: dict[Endpoint, bytes] = {}
        self._controls: dict[Endpoint, bytes] = {}

    def step(self, change_limits: Callable[[], None]) -> None:
        """Let one client do something, or change the relay's limits."""
        rare = [self._connect, self._disconnect, self._control, change_limits]
        frequent = [self._produce, self._produce, self._read, self._read, self._request]
        if self._shares:
            frequent.append(self._leave)
        action = self._random.choice(frequent if self._random.random() < 0.85 else rare)
        action()

    def finish(self) -> bool:
        """Let all clients send and read everything; return whether any data was transferred.

        Members of groups finish all that they got.
        """
        transferred = False
        for end in self._subscribers:
            if not self._subscribers[end] and not end.write_shut:
                self._finish_notifications(end)
        for group in (self._producers, self._subscribers, self._controls):
            for end in list(group):
                transferred |= self._send(group, end, ALL)
                data = _receive(end, ALL)
                if group is self._controls:
                    self.answers[end] += data
                transferred |= bool(data)
        return transferred

    def ask(self, method: str, **arguments: int) -> Endpoint | None:
        """Send a request to the control socket.

        Returns:
            The connection; `None` if the queue of the listening socket is full, which happens while
            a relay stops.
        """
        end = self._listeners["control"].connect(self._random.choice((50, 5000)))
        if end is not None:
            self._controls[end] = json.dumps({"method": method, **arguments}).encode() + b"\n"
            self.answers[end] = b""
        return end

    def close_controls(self) -> None:
        """Close all control connections."""
        for end in list(self._controls):
            self._controls.pop(end)
            end.release()

    def _connect(self) -> None:
        if len(self._producers) + len(self._subscribers) > MAX_CLIENTS:
            return
        name = self._random.choice(("public", "public", "ingest"))
        group = self._subscribers if name == "public" else self._producers
        end = self._listeners[name].connect(self._random.choice((40, 300, 2000, 20_000)))
        if end is not None:
            end.peer.uid = self._random.choice((0, 0, 0, 1))
            group[end] = b""
            self.requests[end] = deque()

    def _disconnect(self) -> None:
        """Close a connection, or shut down one direction."""
        group: dict[Endpoint, bytes] = self._random.choice((self._producers, self._subscribers))
        if group:
            end = self._random.choice(list(group))
            if self._random.random() < 0.3:
                end.shutdown_write()
                group[end] = b""
            else:
                del group[end]
                end.release()

    def _leave(self) -> None:
        """Close the connection of a member of a group, mostly when it has unfinished records."""
        members = [end for end in self._subscribers if (part := self._part(end)) and part.got]
        if members and self._random.random() < 0.2:
            end = self._random.choice(members)
            del self._subscribers[end]
            end.release()

    def _part(self, end: Endpoint) -> Part | None:
        """Return the part of a subscriber in the group that it is in, if any."""
        reader = self._model.readers.get(end.peer)
        return None if reader is None or reader.ended else reader.part

    def _produce(self) -> None:
        if not self._producers:
            self._connect()
            return
        end = self._random.choice(list(self._producers))
        if end.write_shut:
            del self._producers[end]
            end.release()
            return
        if not self._producers[end]:
            count = self._random.randint(1, 2 if self.orderly else 9)
            self._producers[end] = b"".join(self._line() for _ in range(count))
        in_parts = not self.orderly or self._random.random() < 0.05
        sizes = (1, 7, 100, 1000, ALL) if in_parts else (ALL,)
        self._send(self._producers, end, self._random.choice(sizes))

    def _line(self) -> bytes:
        if self._random.random() < (0.01 if self.orderly else 0.1):
            return self._random.choice(self._invalid_lines)
        paddings = (0,) * 20 if self.orderly else (0, 0)
        return self._model.make(
            self._random.randrange(len(TEMPLATES)), self._random.choice((*paddings, 3, 10, 25, 60))
        )

    def _read(self) -> None:
        if self._subscribers:
            end = self._random.choice(list(self._subscribers))
            _receive(end, self._random.choice((1, 10, 100, 1000, 100_000)))

    def _request(self) -> None:
        if not self._subscribers:
            return
        end = self._random.choice(list(self._subscribers))
        if end.write_shut:
            return
        if not self._subscribers[end] and self._random.random() < 0.5:
            choice = self._random.random()
            if choice < 0.05:
                self._ask(end, self._random.choice(INVALID_REQUESTS), Request(None))
            elif choice < 0.07:
                self._report(end, self._random.choice((0, 1, TOO_MANY)))
            elif choice < (0.9 if self._shares else 0.5) and self._part(end):
                self._finish_notifications(end, self._random.choice((0, 1, 0.3, 0.6)))
            else:
                wanted = self._random_request()
                blank = self._random.choice((b"", b"", b"\n"))
                self._ask(end, blank + wanted.line, Request(wanted))
        self._send(self._subscribers, end, self._random.choice((5, 40, 1000)))

    def _random_request(self) -> Wanted:
        number = self._random.randrange(len(FILTERS))
        window = self._random.choice((None, 1, 2, 5, 100))
        hold = self._random.choice(HOLDS)
        if self._shares and self._random.random() < 0.9:
            return Wanted(self._random.choice((0, 0, 0, number)), "g", window, hold)
        if self._random.random() < 0.5:
            return Wanted(number)
        return Wanted(number, self._random.choice(("g", "h", "i")), window, hold)

    def _finish_notifications(self, end: Endpoint, share: float = 1) -> None:
        """Report a share of the unfinished notifications of a member of a group, if any."""
        part = self._part(end)
        if part is not None and part.wanted.window is not None and not self.requests[end]:
            count = math.ceil((len(part.got) - part.done) * share)
            if count:
                self._report(end, part.done + count)

    def _report(self, end: Endpoint, count: int) -> None:
        self._ask(end, b'{"done": %d}\n' % count, Request(None, count))

    def _ask(self, end: Endpoint, line: bytes, request: Request) -> None:
        self._subscribers[end] = line
        self.requests[end].append(request)

    def _control(self) -> None:
        if len(self._controls) < MAX_CONTROL_CLIENTS:
            method = self._random.choice(("status", "producers", "subscribers", "disconnect"))
            if method == "disconnect":
                end = self.ask(method, id=self._random.randint(1, MAX_CONNECTION_ID))
                self.disconnects += end is not None
            else:
                self.ask(method)
        for end in list(self._controls):
            self._send(self._controls, end, 10)
            if self._random.random() < 0.2:
                del self._controls[end]
                end.release()

    def _send(self, group: dict[Endpoint, bytes], end: Endpoint, size: int) -> bool:
        """Send at most `size` bytes of the client's data; return whether any were sent."""
        try:
            sent = end.send(group[end][:size]) if group[end] else 0
        except BlockingIOError:
            return False
        except OSError:
            group[end] = b""
            return False
        group[end] = group[end][sent:]
        return sent > 0


def _receive(end: Endpoint, size: int) -> bytes:
    try:
        return end.recv(size)
    except OSError:
        return b""
