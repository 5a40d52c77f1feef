# SPDX-License-Identifier: Apache-2.0
"""Relays in a world that a seed makes up: who connects, what they do, what fails, and when.

The relay is the real one, `Relay.run` and all; only its kernel and its service manager are not.
The world moves whenever the relay sleeps, a few steps at a time, and then the relay finds what
has become of it, as on a machine with one processor. A schedule has its restarts and crashes, too.
At its end the faults cease, everybody reads what there is, and the books must balance.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

from notif_relayd.access.policy import Policy
from notif_relayd.handover.inherit import Inherited
from notif_relayd.handover.state import StateError, decode
from notif_relayd.ingest.intake import Intake
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.records import subscription_request
from notif_relayd.relay import Manager, Relay, Sockets
from notif_relayd.settings import ConnectionLimits, Limits
from notif_relayd.systemd.fdstore import PRODUCER, STATE, SUBSCRIBER
from simulation.kernel import (
    Bell,
    End,
    Epoll,
    FastPath,
    Files,
    Kernel,
    Killed,
    Listener,
    Memfd,
    Observer,
    ServiceManager,
    Socket,
)
from simulation.model import FILTERS, KINDS, Asked, Reckoning, check

MAX_RECORD_SIZE = 300
MAX_CLIENTS = 12
MAX_SLEEPS = 20_000
"""In one schedule: a relay that turns more often turns for nothing."""

BAD_LINES = [
    b"\n",
    b"[]\n",
    b"{}\n",
    b'{"event_type": "a.x", "priority": 1}\n',
    b'{"event_type": "a.x", "priority": "INFO"}}\n',
    b'{"event_type": "a.x", "priority": "\xff"}\n',
    b"x" * MAX_RECORD_SIZE + b"\n",
]
BAD_REQUESTS = [b"\n", b"{}\n", b'{"filter": []}\n', b'{"filter": {"event_type": []}}\n']


class _Calendar:
    """In place of the module datetime, as far as records need it: one moment, with microseconds."""

    timezone = dt.timezone
    datetime = SimpleNamespace(now=lambda zone: dt.datetime(2026, 1, 1, 0, 0, 0, 1, zone))


class _Signals:
    """In place of real ones."""

    def __init__(self, kernel: Kernel) -> None:
        self.stop = False
        self.bell = Bell()
        self._number = kernel.open(self.bell)

    def fileno(self) -> int:
        return self._number

    def handle(self, _events: int) -> None:
        self.bell.rung = False
        self.stop = True


class Simulation:
    """One schedule.

    Args:
        seed: decides everything.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._steps = self.random.choice((50, 150, 300))
        """Of the world, before it comes to rest."""
        self._limits = self._some_limits()
        self._kernel = Kernel(self.random, self.random.choice((0.0, 0.02, 0.1)), sleep=self._sleep)
        self.shortcut = FastPath(self._kernel)
        self._compiled = self.random.random() < 0.5
        """Whether relays have their compiled part."""
        self._tidy = self.random.random() < 0.5
        """Whether producers mostly do what handlers do: send whole good records, one or few."""
        self._faulty = self._kernel.faults > 0
        self._observer = Observer(self._accepted, self._received, self._sent, self._closed)
        self._books = Reckoning(MAX_RECORD_SIZE)
        self._listeners = {name: Listener(name) for name in ("public", "ingest", "control")}
        for listener in self._listeners.values():
            listener.holders = 1  # the service manager
        self._manager = ServiceManager(self._kernel, self.random.choice((0, 5, 100, 100, 100)))
        # The clients' ends, and what each of them has still to send.
        self._producers: dict[End, bytes] = {}
        self._subscribers: dict[End, bytes] = {}
        self._controls: dict[End, bytes] = {}
        self._asked: dict[End, deque[Asked]] = {}
        self._answers: dict[End, bytes] = {}
        self._turned_away = 0
        self._audit: Iterator[None] | None = None
        self._sleeps = 0
        self._over = False
        self.restarts = self.kills = 0
        self.states: list[bytes] = []
        """What relays have left to the next."""

    def run(self) -> None:
        """Go through it.

        Raises:
            WrongError: the relay has done what it must not.
        """
        with self._instead_of_linux():
            inherited = Inherited()
            while not self._over:
                try:
                    self._live(inherited)
                except Killed:
                    self.kills += 1
                else:
                    self.restarts += 1
                inherited = self._pass_on()

    @property
    def calls(self) -> int:
        """Calls that relays have made."""
        return self._kernel.calls

    @property
    def delivered(self) -> int:
        """Records that subscribers have got in whole."""
        return self._books.delivered_ever

    @contextlib.contextmanager
    def _instead_of_linux(self) -> Iterator[None]:
        now = self._kernel.monotonic
        clock = SimpleNamespace(monotonic=now, thread_time=now)
        files = Files(self._kernel)
        instead: dict[str, object] = {
            "net.loop.select": SimpleNamespace(epoll=lambda: Epoll(self._kernel)),
            "net.ancillary.kernel_refuses": lambda: True,
            "systemd.fdstore.os": files,
            "systemd.fdstore.fcntl": files,
            "control.report.os": SimpleNamespace(getpid=lambda: 1),
            "relay.Intake": partial(Intake, read_size=1000, batch_size=1500),
            "fastpath.WHY_NOT": "" if self._compiled else "no compiler",
            "fastpath._native": self.shortcut,
        }
        for name, module in sys.modules.items():
            if name.startswith("notif_relayd.") and getattr(module, "time", None) is time:
                instead[f"{name.partition('.')[2]}.time"] = clock
        with contextlib.ExitStack() as stack:
            for name, each in instead.items():
                stack.enter_context(mock.patch(f"notif_relayd.{name}", each))
            # How long the relay's own records are must not depend on the host or the moment.
            stack.enter_context(mock.patch("socket.gethostname", return_value="host"))
            stack.enter_context(mock.patch("notif_relay.records.dt", _Calendar))
            logging.disable()
            stack.callback(logging.disable, logging.NOTSET)
            yield

    def _live(self, inherited: Inherited) -> None:
        """The life of one process."""
        listeners: dict[str, Any] = {
            name: Socket(self._kernel, self._observer, listener)
            for name, listener in self._listeners.items()
        }
        self._signals: Any = _Signals(self._kernel)
        manager: Any = self._manager
        if self.random.random() < 0.5:
            self._kernel.lives = self.random.randint(1, 500)
        try:
            self._relay = Relay(
                self._limits,
                Policy(),
                Sockets(**listeners),
                Manager(manager, self._manager.room, inherited),
                self._signals,
                RateLimitedLog(logging.getLogger("simulation"), self._kernel.monotonic),
            )
        except OSError:
            # No room in epoll: the service manager starts it again.
            self.kills += 1
        else:
            self._relay.run()

    def _pass_on(self) -> Inherited:
        """End the process; what the service manager gives to the next."""
        self._kernel.exit()
        inherited = Inherited()
        kept: dict[End, int] = {}
        filters: dict[int, bytes] = {}
        stored = [(n, each) for n, several in self._manager.store.items() for each in several]
        for name, description in stored:
            inherited.names.append(name)
            if name == STATE:
                assert isinstance(description, Memfd)
                self.states.append(bytes(description.content))
                with contextlib.suppress(StateError):
                    inherited.state = decode(self.states[-1])
            elif isinstance(description, Memfd):
                number = int(name[1:])
                filters[number] = bytes(description.content)
                inherited.requests[number] = self._kernel.open(description)
            else:
                mine: Any = {PRODUCER: inherited.producers, SUBSCRIBER: inherited.subscribers}
                mine[name[0]][int(name[1:])] = Socket(self._kernel, self._observer, description)
        ends: dict[int, End] = {n: s.description for n, s in inherited.subscribers.items()}  # type: ignore[attr-defined]
        for number, request in filters.items():
            with contextlib.suppress(subscription_request.RequestError, KeyError):
                kept[ends[number]] = FILTERS.index(subscription_request.parse(request).asked)
        if inherited.state is None:
            self._books.killed(kept, not self._faulty)
        producers = [each.description for each in inherited.producers.values()]  # type: ignore[attr-defined]
        self._books.keep_only(producers, list(ends.values()), kept)
        return inherited

    # What the relay does.

    def _accepted(self, listener: Listener, end: End) -> None:
        if listener.path == "public":
            full = len(self._books.readers) >= self._limits.subscribers.max_connections
            self._books.subscriber_came(end, self._asked[end.peer])
        elif listener.path == "ingest":
            full = self._books.producers >= self._limits.producers.max_connections
            self._books.producer_came(end)
        else:
            full = True
        end.doomed = end.doomed or full

    def _received(self, end: End, data: bytes) -> None:
        if end in self._books.readers:
            self._books.ask(end, data)
        elif self._books.is_producer(end):
            self._books.take(end, data)

    def _sent(self, end: End, data: bytes) -> None:
        if end in self._books.readers:
            self._books.give(end, data)

    def _closed(self, end: End) -> None:
        if self._signals.stop and not self._manager.room:
            end.doomed = True
        if end in self._books.readers:
            reason = end.doomed or end.may_not_send or end.error or self._books.readers[end].ended
            self._justify(reason, "subscriber")
            self._books.subscriber_went(end)
        elif self._books.is_producer(end):
            reason = end.doomed or (end.no_more_to_read and not end.queue)
            self._justify(reason, "producer")
            self._books.producer_went(end)

    def _justify(self, reason: object, who: str) -> None:
        if not reason:
            # relayctl may have asked for it.
            self._turned_away -= 1
            check(self._turned_away >= 0, f"a {who}'s connection was ended for no reason")

    # What the world does.

    def _sleep(self, idle: bool) -> bool:
        self._sleeps += 1
        check(self._sleeps < MAX_SLEEPS, "the relay does not come to rest")
        self._books.new_turn()
        if self._steps > 0:
            for _ in range(1 if self._tidy else self.random.randint(1, 4)):
                self._steps -= 1
                self._step()
            return True
        self._kernel.faults = 0.0
        self._kernel.lives = None
        if self._settle():
            return True
        if not idle:
            return False
        if self._audit is None:
            self._audit = self._balance()
        next(self._audit)
        return True

    def _settle(self) -> bool:
        """Have everybody send and read what there is; whether there was anything."""
        moved = False
        for mine in (self._producers, self._subscribers, self._controls):
            for end in list(mine):
                moved |= self._send(mine, end, 10_000)
                data = self._take(end, 10_000)
                if mine is self._controls:
                    self._answers[end] += data
                moved |= bool(data)
        return moved

    def _balance(self) -> Iterator[None]:
        """Compare what the relay says of itself with the books, and end it."""
        asked = [end for method in ("status", "subscribers") if (end := self._ask(method))]
        yield
        status, subscribers = (json.loads(self._answers[each])["result"] for each in asked)
        for end in list(self._controls):
            self._controls.pop(end)
            end.release()
        yield
        books, manager = self._books, self._manager
        readers = list(books.readers.values())
        for each in readers:
            books.expect_end(each)
        expected = {
            "bytes_received": books.bytes_received,
            "producers": books.producers,
            "records_received": books.received,
            "records_rejected": books.rejected_now,
            "ring_bytes": 0,
            "subscribers": len(readers),
        }
        found = {name: status[name] for name in expected}
        check(found == expected, f"{found}, but {expected}")
        surplus = status["records_delivered"] - books.delivered
        check(0 <= surplus <= books.uncertain, f"{surplus} records were delivered too many")
        told = sorted((s["records"], s["dropped"], s["bytes"], s["lag"]) for s in subscribers)
        due = sorted((each.delivered, each.dropped, each.bytes, 0) for each in readers)
        check(told == due, f"{told}, but {due}")
        open_ends = [each for each in self._kernel.files.values() if isinstance(each, End)]
        check(len(open_ends) == len(readers) + books.producers, "descriptors have leaked")
        for name, (connection, *_) in manager.store.items():
            check(connection in open_ends, f"{name} is still in the store")
        self._over = True
        self._signals.bell.rung = True
        yield

    def _ask(self, method: str, **about: int) -> End | None:
        """Be relayctl, unless too many wait already: nobody is let in while a relay stops."""
        end = self._listeners["control"].connect(self.random.choice((50, 5000)))
        if end is not None:
            self._controls[end] = json.dumps({"method": method, **about}).encode() + b"\n"
            self._answers[end] = b""
        return end

    def _step(self) -> None:
        rare = [self._come, self._hang_up, self._inquire, self._change_limits]
        often = [self._produce, self._produce, self._read, self._read, self._request]
        act = self.random.choice(often if self.random.random() < 0.85 else rare)
        act()
        if self.random.random() < 0.015:
            self._signals.bell.rung = True

    def _some_limits(self) -> Limits:
        return Limits(
            ring_size=self.random.choice((0, 600, 3000, 100_000)),
            max_record_size=MAX_RECORD_SIZE,
            producers=ConnectionLimits("max_producers", self.random.choice((1, 3, 10)), 1000, 1e9),
            subscribers=ConnectionLimits(
                "max_subscribers", self.random.choice((1, 3, 10)), 1000, 1e9
            ),
            max_filter_bytes_per_user=1 << 20,
        )

    def _change_limits(self) -> None:
        self._limits = self._some_limits()
        self._relay.apply(self._limits)

    def _come(self) -> None:
        if len(self._producers) + len(self._subscribers) > MAX_CLIENTS:
            return
        where = self.random.choice(("public", "public", "ingest"))
        mine = self._subscribers if where == "public" else self._producers
        end = self._listeners[where].connect(self.random.choice((40, 300, 2000, 20_000)))
        if end is not None:
            mine[end] = b""
            self._asked[end] = deque()

    def _hang_up(self) -> None:
        mine: dict[End, bytes] = self.random.choice((self._producers, self._subscribers))
        if mine:
            end = self.random.choice(list(mine))
            if self.random.random() < 0.3:
                end.finish()
                mine[end] = b""
            else:
                del mine[end]
                end.release()

    def _produce(self) -> None:
        if not self._producers:
            self._come()
            return
        end = self.random.choice(list(self._producers))
        if end.may_not_send:
            del self._producers[end]
            end.release()
            return
        if not self._producers[end]:
            number = self.random.randint(1, 2 if self._tidy else 9)
            self._producers[end] = b"".join(self._line() for _ in range(number))
        untidy = not self._tidy or self.random.random() < 0.05
        sizes = (1, 7, 100, 1000, 10_000) if untidy else (10_000,)
        self._send(self._producers, end, self.random.choice(sizes))

    def _line(self) -> bytes:
        if self.random.random() < (0.01 if self._tidy else 0.1):
            return self.random.choice(BAD_LINES)
        padding = (0,) * 20 if self._tidy else (0, 0)
        return self._books.make(
            self.random.randrange(len(KINDS)), self.random.choice((*padding, 3, 10, 25, 60))
        )

    def _read(self) -> None:
        if self._subscribers:
            self._take(
                self.random.choice(list(self._subscribers)),
                self.random.choice((1, 10, 100, 1000, 100_000)),
            )

    def _request(self) -> None:
        if not self._subscribers:
            return
        end = self.random.choice(list(self._subscribers))
        if end.may_not_send:
            return
        if not self._subscribers[end] and self.random.random() < 0.5:
            if self.random.random() < 0.1:
                line, wanted = self.random.choice(BAD_REQUESTS), None
            else:
                wanted = self.random.randrange(len(FILTERS))
                line = json.dumps({"filter": FILTERS[wanted]}).encode() + b"\n"
            self._subscribers[end] = line
            self._asked[end].append(Asked(wanted))
        self._send(self._subscribers, end, self.random.choice((5, 40, 1000)))

    def _inquire(self) -> None:
        if len(self._controls) < 8:
            method = self.random.choice(("status", "producers", "subscribers", "disconnect"))
            if method == "disconnect":
                asked = self._ask(method, id=self.random.randint(1, 30))
                self._turned_away += asked is not None
            else:
                self._ask(method)
        for end in list(self._controls):
            self._send(self._controls, end, 10)
            if self.random.random() < 0.2:
                del self._controls[end]
                end.release()

    def _send(self, mine: dict[End, bytes], end: End, size: int) -> bool:
        """Send some of what is to be sent, as far as it goes; whether anything went."""
        try:
            sent = end.send(mine[end][:size]) if mine[end] else 0
        except BlockingIOError:
            return False
        except OSError:
            mine[end] = b""
            return False
        mine[end] = mine[end][sent:]
        return sent > 0

    def _take(self, end: End, size: int) -> bytes:
        try:
            return end.recv(size)
        except OSError:
            return b""
