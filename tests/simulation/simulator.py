# SPDX-License-Identifier: Apache-2.0
"""Runs the relay with random clients, errors, restarts and crashes, all decided by a seed.

The relay is the real one, including `Relay.run`; its kernel and its service manager are simulated.
Clients act whenever the relay sleeps, as on a host with one processor. At the end of a schedule no
more errors occur and every client sends and reads everything; the relay must then be in the state
that the model expects.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from notif_relayd.access.policy import Policy
from notif_relayd.fastpath import FastPath
from notif_relayd.handover.inherit import Inherited
from notif_relayd.handover.state import decode
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.records import subscription_request
from notif_relayd.relay import Manager, Platform, Relay, Sockets
from notif_relayd.settings import ConnectionLimits, GroupLimits, Limits
from notif_relayd.systemd.fdstore import PRODUCER, STATE, SUBSCRIBER
from simulation.clients import Clients
from simulation.group_model import MAX_DELIVERIES
from simulation.kernel import Endpoint, Kernel, Killed, Listener, Memfd, Observer, Socket
from simulation.model import Model
from simulation.system import Native, ServiceManager, Signals, system_calls
from simulation.vocabulary import FILTERS, Wanted, check

MAX_RECORD_SIZE = 300
READ_SIZE = 1000
BATCH_SIZE = 1500

MAX_SLEEPS = 20_000
"""Sleeps of the relay in one schedule; with more, it iterates without need."""

MAX_CALLS = 500
"""System calls after which a process is killed, at most."""

INVALID_LINES = [
    b"\n",
    b"[]\n",
    b"{}\n",
    b'{"event_type": "a.x", "priority": 1}\n',
    b'{"event_type": "a.x", "priority": "INFO"}}\n',
    b'{"event_type": "a.x", "priority": "\xff"}\n',
    b"x" * MAX_RECORD_SIZE + b"\n",
]


class _FixedTime:
    """Replaces the module `datetime` in the library: the time is constant."""

    timezone = dt.timezone
    datetime = SimpleNamespace(now=lambda zone: dt.datetime(2026, 1, 1, 0, 0, 0, 1, zone))


class Simulation:
    """One schedule.

    Args:
        seed: decides everything that happens.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._steps = self.random.choice((50, 150, 300))
        """Actions that remain until the end of the schedule."""
        self._limits = self._random_limits()
        self._kernel = Kernel(self.random, self.random.choice((0.0, 0.02, 0.1)), sleep=self._sleep)
        self.native = Native(self._kernel)
        self._compiled = self.random.random() < 0.5
        """Whether the relay has the compiled module."""
        self._faultless = not self._kernel.faults
        self._observer = Observer(self._accepted, self._received, self._sent, self._closed)
        self._model = Model(MAX_RECORD_SIZE, self._kernel.monotonic)
        self._listeners = {name: Listener(name) for name in ("public", "ingest", "control")}
        for listener in self._listeners.values():
            listener.holders = 1  # The service manager.
        self._clients = Clients(self.random, self._listeners, self._model, INVALID_LINES)
        self._manager = ServiceManager(self._kernel, self.random.choice((0, 5, 100, 100, 100)))
        self._final_checks: Iterator[None] | None = None
        self._sleeps = 0
        self._over = False
        self.restarts = 0
        """Processes that ended orderly."""
        self.kills = 0
        """Processes that were killed, or could not start."""
        self.states: list[bytes] = []
        """States that processes left."""

    def run(self) -> None:
        """Run the schedule.

        Raises:
            ModelError: the relay has done what it must not do.
        """
        with _reproducible_records():
            inherited = Inherited()
            while not self._over:
                try:
                    self._run_process(inherited)
                except Killed:
                    self.kills += 1
                else:
                    self.restarts += 1
                inherited = self._hand_over()

    @property
    def calls(self) -> int:
        """System calls of all processes."""
        return self._kernel.calls

    @property
    def delivered(self) -> int:
        """Whole records that subscribers received."""
        return self._model.delivered_ever

    def _run_process(self, inherited: Inherited) -> None:
        listeners: dict[str, Any] = {
            name: Socket(self._kernel, self._observer, listener)
            for name, listener in self._listeners.items()
        }
        self._signals = Signals(self._kernel)
        signals: Any = self._signals
        manager: Any = self._manager
        if self.random.random() < 0.5:
            self._kernel.calls_left = self.random.randint(1, MAX_CALLS)
        try:
            self._relay = Relay(
                self._limits,
                Policy(),
                Sockets(**listeners),
                Manager(manager, self._manager.capacity, inherited),
                Platform(
                    signals,
                    lambda: FastPath(self.native) if self._compiled else None,
                    system_calls(self._kernel),
                    READ_SIZE,
                    BATCH_SIZE,
                ),
                RateLimitedLog(logging.getLogger("simulation"), self._kernel.monotonic),
            )
        except OSError:
            # The process cannot start: epoll cannot watch its listening sockets.
            self.kills += 1
        else:
            self._relay.run()

    def _hand_over(self) -> Inherited:
        """End the process; return what the service manager passes to the next one."""
        self._kernel.exit()
        inherited = Inherited()
        requests: dict[int, bytes] = {}
        ends: dict[str, dict[int, Endpoint]] = {PRODUCER: {}, SUBSCRIBER: {}}
        sockets: dict[str, dict[int, Any]] = {
            PRODUCER: inherited.producers,
            SUBSCRIBER: inherited.subscribers,
        }
        stored = [(n, each) for n, several in self._manager.store.items() for each in several]
        for name, description in stored:
            inherited.names.append(name)
            if name == STATE:
                assert isinstance(description, Memfd)
                self.states.append(bytes(description.content))
                inherited.state = decode(self.states[-1])
                continue
            kind, number = name[0], int(name[1:])
            if isinstance(description, Memfd):
                requests[number] = bytes(description.content)
                inherited.requests[number] = self._kernel.open(description)
            else:
                ends[kind][number] = cast("Endpoint", description)
                sockets[kind][number] = Socket(self._kernel, self._observer, description)
        self._update_model(inherited, ends, requests)
        return inherited

    def _update_model(
        self,
        inherited: Inherited,
        ends: dict[str, dict[int, Endpoint]],
        requests: dict[int, bytes],
    ) -> None:
        subscribers = ends[SUBSCRIBER]
        stored: dict[Endpoint, Wanted] = {}
        interrupted: set[Endpoint] = set()
        for number in requests.keys() & subscribers.keys():
            with contextlib.suppress(subscription_request.RequestError):
                request = subscription_request.parse(requests[number])
                group = request.group
                stored[subscribers[number]] = Wanted(
                    FILTERS.index(dict(request.requested)),
                    *(() if group is None else (group.name, group.window, group.hold)),
                )
            if requests[number].startswith(b"!"):  # See `fdstore.FdStore.keep_request`.
                interrupted.add(subscribers[number])
        if inherited.state is None:
            self._model.killed(stored, interrupted, self._faultless)
        self._model.keep_only(list(ends[PRODUCER].values()), list(subscribers.values()), stored)

    # What the relay's process does.

    def _accepted(self, listener: Listener, end: Endpoint) -> None:
        if listener.path == "public":
            full = len(self._model.readers) >= self._limits.subscribers.max_connections
            self._model.subscriber_accepted(end, self._clients.requests[end.peer])
        elif listener.path == "ingest":
            full = self._model.producers >= self._limits.producers.max_connections
            self._model.producer_accepted(end)
        else:
            full = True
        end.may_close = end.may_close or full

    def _received(self, end: Endpoint, data: bytes) -> None:
        if end in self._model.readers:
            self._model.subscriber_read(end, data)
        elif self._model.is_producer(end):
            self._model.producer_read(end, data)

    def _sent(self, end: Endpoint, data: bytes) -> None:
        if end in self._model.readers:
            self._model.subscriber_sent(end, data)

    def _closed(self, end: Endpoint) -> None:
        if self._signals.stop and not self._manager.capacity:
            end.may_close = True
        if end in self._model.readers:
            reader = self._model.readers[end]
            self._check_close(end.may_close or end.write_shut or end.error or reader.ended)
            self._model.subscriber_ended(end)
        elif self._model.is_producer(end):
            self._check_close(end.may_close or (end.read_shut and not end.queue))
            self._model.producer_ended(end)

    def _check_close(self, has_reason: object) -> None:
        """Check that the relay has a reason to close a connection, or relayctl requested it."""
        if not has_reason:
            self._clients.disconnects -= 1
            check(self._clients.disconnects >= 0, "a connection was closed without a reason")

    # What happens while the relay sleeps.

    def _sleep(self, without_timeout: bool) -> bool:
        self._sleeps += 1
        check(self._sleeps < MAX_SLEEPS, "the relay does not become idle")
        self._model.start_iteration()
        if self._steps > 0:
            for _ in range(1 if self._clients.orderly else self.random.randint(1, 4)):
                self._steps -= 1
                self._clients.step(self._change_limits)
                if self.random.random() < 0.015:
                    self._signals.pending.is_set = True
            return True
        self._kernel.faults = 0.0
        self._kernel.calls_left = None
        if self._clients.finish():
            return True
        if not without_timeout:
            return False
        if self._final_checks is None:
            self._final_checks = self._check_final_state()
        next(self._final_checks)
        return True

    def _random_limits(self) -> Limits:
        return Limits(
            ring_size=self.random.choice((0, 600, 3000, 100_000)),
            max_record_size=MAX_RECORD_SIZE,
            producers=self._random_connection_limits("max_producers"),
            subscribers=self._random_connection_limits("max_subscribers"),
            max_filter_bytes_per_user=1 << 20,
            groups=GroupLimits(per_user=2, max_deliveries=MAX_DELIVERIES),
        )

    def _random_connection_limits(self, option: str) -> ConnectionLimits:
        return ConnectionLimits(
            option, self.random.choice((1, 3, 10)), per_user=1000, rate=1_000_000_000
        )

    def _change_limits(self) -> None:
        self._limits = self._random_limits()
        self._relay.apply(self._limits)

    def _check_final_state(self) -> Iterator[None]:
        """Compare the relay with the model and stop it; the relay runs at each yield."""
        methods = ("status", "subscribers", "groups")
        asked = [end for name in methods if (end := self._clients.ask(name))]
        yield
        status, subscribers, groups = (
            json.loads(self._clients.answers[each])["result"] for each in asked
        )
        self._clients.close_controls()
        yield
        self._check_status(status)
        self._check_subscribers(subscribers)
        self._model.groups.check_finished(groups)
        if not any(each["lag"] or each["unfinished"] for each in groups):
            check(status["ring_bytes"] == 0, f"the ring keeps {status['ring_bytes']} bytes")
        self._check_descriptors()
        self._over = True
        self._signals.pending.is_set = True
        yield

    def _check_status(self, status: dict[str, Any]) -> None:
        model = self._model
        expected = {
            "bytes_received": model.bytes_received,
            "producers": model.producers,
            "records_received": model.received,
            "records_rejected": model.rejected_now,
            "subscribers": len(model.readers),
        }
        found = {name: status[name] for name in expected}
        check(found == expected, f"{found} is not {expected}")
        surplus = status["records_delivered"] - model.delivered
        check(0 <= surplus <= model.uncertain, f"the relay counts {surplus} records too many")

    def _check_subscribers(self, subscribers: list[dict[str, Any]]) -> None:
        readers = list(self._model.readers.values())
        for each in readers:
            self._model.check_finished(each)
        found = sorted((s["records"], s["dropped"], s["bytes"], s["lag"]) for s in subscribers)
        expected = sorted(
            (each.delivered, each.dropped, each.received_bytes, 0) for each in readers
        )
        check(found == expected, f"{found} is not {expected}")

    def _check_descriptors(self) -> None:
        ends = [each for each in self._kernel.files.values() if isinstance(each, Endpoint)]
        expected = len(self._model.readers) + self._model.producers
        check(len(ends) == expected, "descriptors have leaked")
        for name, (connection, *_) in self._manager.store.items():
            check(connection in ends, f"{name} is in the store, but its connection has ended")


@contextlib.contextmanager
def _reproducible_records() -> Iterator[None]:
    """Make the size of the relay's own records independent of the host and the time."""
    with (
        mock.patch("socket.gethostname", return_value="host"),
        mock.patch("notif_relay.records.dt", _FixedTime),
        contextlib.ExitStack() as stack,
    ):
        logging.disable()
        stack.callback(logging.disable, logging.NOTSET)
        yield
