# SPDX-License-Identifier: Apache-2.0
"""The relay: creates and connects its parts, runs the loop and stops.

Data flows one way: read and frame (intake, framing), validate (validator), keep for slow
subscribers (ring), send (fanout). One thread does all of it. An iteration of the loop handles all
data that has arrived, so under load many records share the cost of an iteration.
"""

import contextlib
import itertools
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from notif_relayd import fastpath
from notif_relayd.access.admission import Admission
from notif_relayd.access.policy import Policy
from notif_relayd.context import Context
from notif_relayd.control.report import Reporter
from notif_relayd.control.server import ControlServer
from notif_relayd.escaping import printable_path
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.fastpath import FastPath
from notif_relayd.handover.inherit import Inherited
from notif_relayd.handover.state import State, encode
from notif_relayd.ingest.intake import BATCH_SIZE, READ_SIZE, Intake
from notif_relayd.net import ancillary
from notif_relayd.net.kernel import SYSTEM, Kernel
from notif_relayd.net.loop import READ, Loop
from notif_relayd.net.loop_latency import LoopLatency
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.net.signals import Signals
from notif_relayd.peer import peer_of
from notif_relayd.settings import Limits
from notif_relayd.systemd.fdstore import PRODUCER, SUBSCRIBER, FdStore
from notif_relayd.systemd.idle_timer import IdleTimer
from notif_relayd.systemd.sdnotify import NotifySocket
from notif_relayd.systemd.watchdog import Watchdog

LOG = logging.getLogger(__name__)

DRAIN_TIME = 2.0
"""Seconds for which subscribers that are behind are served at most when the relay stops."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """The listening sockets."""

    public: socket.socket
    """For subscribers."""
    ingest: socket.socket
    """For producers."""
    control: socket.socket
    """For relayctl."""
    more_public: Sequence[socket.socket] = ()
    """Further sockets for subscribers, if systemd passes several."""
    more_ingest: Sequence[socket.socket] = ()
    """Further sockets for producers."""


@dataclass(frozen=True, slots=True)
class Manager:
    """The service manager."""

    notify: NotifySocket
    capacity: int
    """Number of descriptors that it keeps for the next process; 0 if it keeps none."""
    inherited: Inherited
    """What the process before this one left with it."""


@dataclass(frozen=True, slots=True)
class Platform:
    """The operating system below the relay; a simulation replaces all of it."""

    signals: Signals
    load_fast_path: Callable[[], FastPath | None] = fastpath.load
    """Returns `None` if the fast path was not compiled."""
    kernel: Kernel = SYSTEM
    read_size: int = READ_SIZE
    """Bytes of one read from a producer."""
    batch_size: int = BATCH_SIZE
    """Bytes that are collected before they are published within an iteration."""


class Relay:
    """Serves three listening sockets until a signal says stop.

    Args:
        limits: the resources that the relay may use.
        policy: which subscribers may read which records.
        sockets: the listening sockets; they are closed by the caller.
        manager: the service manager.
        platform: the operating system below the relay.
        log: for warnings about peers that misbehave.
    """

    def __init__(
        self,
        limits: Limits,
        policy: Policy,
        sockets: Sockets,
        manager: Manager,
        platform: Platform,
        log: RateLimitedLog,
    ) -> None:
        inherited = manager.inherited
        self._signals = signals = platform.signals
        self._monotonic = platform.kernel.monotonic
        fast_path = platform.load_fast_path()
        self._loop = Loop(fast_path, platform.kernel)
        self._loop.watch(signals.fileno(), READ, signals.handle)
        self._ids = itertools.count(inherited.next_id)
        self._fdstore = FdStore(
            self._loop, manager.notify, manager.capacity, inherited.names, inherited.requests
        )
        context = Context(self._loop, log, self._ids, self._fdstore)
        self._fanout = Fanout(
            context,
            limits.subscribers,
            policy,
            limits.ring_size,
            limits.max_filter_bytes_per_user,
            limits.groups,
        )
        self._intake = Intake(
            context,
            limits.producers,
            limits.max_record_size,
            self._fanout.publisher.publish,
            platform.read_size,
            platform.batch_size,
        )
        if fast_path is not None:
            fast_path.connect(self._intake, self._fanout.publisher)
        self._latency = LoopLatency()
        reporter = Reporter(
            self._intake,
            self._fanout,
            self._latency,
            printable_path(sockets.public.getsockname()),
            printable_path(sockets.ingest.getsockname()),
            platform.kernel,
        )
        self._control = ControlServer(
            self._loop,
            log,
            {
                "status": reporter.status,
                "producers": reporter.producers,
                "subscribers": reporter.subscribers,
                "groups": reporter.groups,
                "metrics": reporter.metrics,
                "disconnect": self._disconnect,
            },
        )
        self._take_over(inherited)
        # Subscribers first: records that are in producers' sockets already are then sent to the
        # subscribers that are waiting already.
        self._acceptors = [
            *map(self._fanout.listen, [sockets.public, *sockets.more_public]),
            *map(self._intake.listen, [sockets.ingest, *sockets.more_ingest]),
            self._control.listen(sockets.control),
        ]
        self._watchdog = Watchdog(self._loop, manager.notify, self._counts)
        self._idle_timer = IdleTimer(self._loop, self._has_connections, limits.idle_timeout or 0.0)

    def run(self) -> None:
        """Relay until a signal says stop or the idle timeout is over; then stop."""
        self._watchdog.ready()
        self._idle_timer.update()
        while not (self._signals.stop or self._idle_timer.over):
            self._run_once()
            self._watchdog.iteration_done()
            if self._loop.changed:
                self._loop.changed = False
                self._idle_timer.update()
        self._watchdog.stopping()
        self._stop()

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Context in which the configuration is reloaded, for the service manager."""
        self._watchdog.reloading()
        try:
            yield
        finally:
            self._watchdog.reloaded()

    def apply(self, limits: Limits) -> None:
        """Apply new limits; a change of `max_record_size` needs a restart."""
        self._intake.admission.limits = limits.producers
        self._fanout.admission.limits = limits.subscribers
        self._fanout.store.limit = limits.ring_size
        self._fanout.quota.per_user = limits.max_filter_bytes_per_user
        self._fanout.groups.limits = limits.groups
        self._idle_timer.limit = limits.idle_timeout or 0.0
        self._idle_timer.update()

    def _run_once(self) -> None:
        awake = self._loop.run_once()
        self._intake.flush()
        self._latency.add(self._monotonic() - awake)

    def _disconnect(self, number: int) -> str:
        """End a connection for relayctl; return a description of it.

        Raises:
            LookupError: no connection has this number.
        """
        producer = self._intake.producers.get(number)
        if producer is not None:
            self._intake.disconnect(producer)
            return f"producer {producer.peer}"
        subscriber = self._fanout.subscribers.get(number)
        if subscriber is not None:
            self._fanout.disconnect(subscriber)
            return f"subscriber {subscriber.peer}"
        raise LookupError(f"no connection has the id {number}")

    def _has_connections(self) -> bool:
        return bool(
            self._intake.producers
            or self._fanout.subscribers
            or self._fanout.groups
            or self._control.has_connections
        )

    def _counts(self) -> tuple[int, int, int]:
        return (
            len(self._intake.producers),
            len(self._fanout.subscribers),
            self._intake.received,
        )

    def _take_over(self, inherited: Inherited) -> None:
        """Continue with the connections that the service manager has kept."""
        producers = self._still_allowed(PRODUCER, inherited.producers, self._intake.admission)
        subscribers = self._still_allowed(SUBSCRIBER, inherited.subscribers, self._fanout.admission)
        restored: set[int] = set()
        if inherited.state is not None:
            self._intake.restore(inherited.state.intake, producers)
            restored = self._fanout.restore(inherited.state.fanout, subscribers)
            self._latency.restore(inherited.state.latency)
            LOG.info("restored %d producers and %d subscribers", *self._counts()[:2])
        # These connections are not in the state: the process before this one was killed, or the
        # access rules have changed.
        unknown_producers = sorted(producers.keys() - self._intake.producers.keys())
        unknown_subscribers = sorted(subscribers.keys() - restored)
        for number in unknown_producers:
            self._intake.adopt(number, producers[number])
        for number in unknown_subscribers:
            self._fanout.adopt(number, subscribers[number], self._fdstore.request_of(number))
        if unknown_producers or unknown_subscribers:
            LOG.warning(
                "took over %d producers and %d subscribers without saved state; records in transit "
                "are lost",
                len(unknown_producers),
                len(unknown_subscribers),
            )

    def _still_allowed(
        self, kind: str, connections: dict[int, socket.socket], admission: Admission
    ) -> dict[int, socket.socket]:
        """Return the connections that the configuration still allows; close the others."""
        allowed = {}
        for number, connection in connections.items():
            peer = peer_of(connection)
            if not self._loop.kernel.protect(connection):
                ancillary.discard(connection)
                self._fdstore.close_connection(kind, number, connection)
            elif admission.allows(peer):
                allowed[number] = connection
            else:
                LOG.warning("connection ended: %s: no longer allowed to connect", peer)
                self._fdstore.close_connection(kind, number, connection)
        return allowed

    def _stop(self) -> None:
        # Connections that were not accepted yet stay in systemd's sockets for the next process.
        for acceptor in self._acceptors:
            acceptor.close()
        self._control.close()
        if not self._fdstore.usable:
            # Nothing is kept for a successor, so all that producers have sent is relayed now.
            self._intake.drain()
            self._intake.close()
        expired = []
        self._loop.call_in(DRAIN_TIME, lambda: expired.append(True))
        while not self._fanout.drained and not expired:
            self._run_once()
        if self._fdstore.usable:
            self._intake.drain()
            self._fdstore.save_state(encode(self._save()))
            # The kernel closes the connections when the process exits. To close them here could
            # take long if a peer has passed file descriptors; see `net.ancillary`.
            for producer in self._intake.producers.values():
                producer.socket.detach()
            for subscriber in self._fanout.subscribers.values():
                subscriber.socket.detach()
        else:
            self._fanout.close()
        self._loop.close()

    def _save(self) -> State:
        return State(
            next(self._ids), self._intake.save(), self._fanout.save(), self._latency.save()
        )
