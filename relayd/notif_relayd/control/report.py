# SPDX-License-Identifier: Apache-2.0
"""Computes the answers of the control socket.

No figure costs processor time per record: the parts of the relay count per batch or per event, and
everything else is computed when it is requested.
"""

import platform
import time
from collections import Counter

from notif_relay.version import __version__
from notif_relayd.access.connection_stats import ConnectionStats, Refusal
from notif_relayd.control.schema import (
    ConnectionCounters,
    GroupStatus,
    GroupTotals,
    LatencyHistogram,
    Metrics,
    ProducerStatus,
    Status,
    SubscriberStatus,
)
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.ingest.intake import Intake
from notif_relayd.net.kernel import SYSTEM, Kernel
from notif_relayd.net.loop_latency import BOUNDS, LoopLatency
from notif_relayd.peer import Peer
from notif_relayd.records.gaps import REASONS
from notif_relayd.records.validator import Reason


class Reporter:
    """Computes the answers to requests for the state of the relay.

    Args:
        intake: the producers.
        fanout: the subscribers.
        latency: durations of the loop's iterations.
        public_socket: path of the public socket, printable.
        ingest_socket: path of the private socket, printable.
        kernel: the system calls.
    """

    def __init__(
        self,
        intake: Intake,
        fanout: Fanout,
        latency: LoopLatency,
        public_socket: str,
        ingest_socket: str,
        kernel: Kernel = SYSTEM,
    ) -> None:
        self._kernel = kernel
        self._intake = intake
        self._fanout = fanout
        self._latency = latency
        self._public_socket = public_socket
        self._ingest_socket = ingest_socket
        self._since = self._kernel.monotonic()

    def status(self) -> Status:
        """Return the figures of the relay as a whole."""
        intake, fanout = self._intake, self._fanout
        return Status(
            version=__version__,
            pid=self._kernel.getpid(),
            uptime_seconds=self._seconds_since(self._since),
            producers=len(intake.producers),
            subscribers=len(fanout.subscribers),
            records_received=intake.received,
            records_delivered=fanout.delivered,
            records_dropped=fanout.dropped,
            records_rejected=intake.rejected.total(),
            records_discarded=fanout.publisher.discarded,
            bytes_received=intake.bytes_received,
            bytes_delivered=fanout.bytes_delivered,
            ring_bytes=fanout.store.size,
            ring_limit_bytes=fanout.store.limit,
            public_socket=self._public_socket,
            ingest_socket=self._ingest_socket,
        )

    def producers(self) -> list[ProducerStatus]:
        """Return one entry per producer, the oldest connection first."""
        return [
            ProducerStatus(
                each.id,
                *self._identity(each.peer, each.since),
                each.records,
                each.bytes,
                each.rejected,
            )
            for each in self._intake.producers.values()
        ]

    def subscribers(self) -> list[SubscriberStatus]:
        """Return one entry per subscriber, the oldest connection first."""
        return [
            SubscriberStatus(
                each.id,
                *self._identity(each.peer, each.since),
                each.delivered,
                each.bytes,
                each.lag,
                each.dropped,
                each.group_name,
            )
            for each in self._fanout.subscribers.values()
        ]

    def groups(self) -> list[GroupStatus]:
        """Return one entry per group, the oldest first."""
        now = self._kernel.monotonic()
        return [
            GroupStatus(
                name,
                uid,
                len(each.subscribers),
                each.group.lag,
                each.group.unfinished,
                each.group.redelivered,
                each.group.dropped,
                None if each.held_until is None else round(max(0.0, each.held_until - now), 3),
            )
            for each in self._fanout.groups
            for uid, name in (each.key,)
        ]

    def metrics(self) -> Metrics:
        """Return all figures at one moment.

        Every reason is present from the start with the value 0, because a monitoring system cannot
        compute the increase of a counter that appears with its first event.
        """
        status, gaps = self.status(), self._intake.producer_gaps
        unknown = {reason: gaps.unknown[reason] for reason in REASONS}
        unknown["relay_restarted"] += self._fanout.unknown_gaps
        subscribers = self._fanout.subscribers.values()
        behind = [each for each in subscribers if each.is_behind]
        undeliverable = self._fanout.groups.undeliverable
        own = Counter(
            slow_subscriber=status.records_dropped - undeliverable, undeliverable=undeliverable
        )
        return Metrics(
            status=status,
            python=platform.python_version(),
            started=round(time.time() - status.uptime_seconds, 3),
            rejected={reason.name.lower(): self._intake.rejected[reason] for reason in Reason},
            dropped={reason: gaps.dropped[reason] + own[reason] for reason in REASONS},
            unknown_gaps=unknown,
            subscribers_behind=len(behind),
            max_lag=max((each.lag for each in behind), default=0),
            connections={
                "public": _counters(self._fanout.admission.stats),
                "ingest": _counters(self._intake.admission.stats),
            },
            turn_bounds=list(BOUNDS),
            turns=LatencyHistogram(self._latency.counts, self._latency.seconds),
            groups=self._group_totals(),
        )

    def _group_totals(self) -> GroupTotals:
        groups = self._fanout.groups
        return GroupTotals(
            groups=len(groups),
            held=sum(each.held_until is not None for each in groups),
            members=sum(len(each.subscribers) for each in groups),
            max_lag=max((each.group.lag for each in groups), default=0),
            unfinished=sum(each.group.unfinished for each in groups),
            redelivered=groups.redelivered,
            dropped=groups.dropped,
            held_ring_bytes=groups.held_ring_bytes,
        )

    def _identity(self, peer: Peer, since: float) -> tuple[int, str, int, float]:
        return peer.pid, peer.command, peer.uid, self._seconds_since(since)

    def _seconds_since(self, moment: float) -> float:
        return round(self._kernel.monotonic() - moment, 3)


def _counters(stats: ConnectionStats) -> ConnectionCounters:
    refused = {reason.value: stats.refused[reason] for reason in Refusal}
    return ConnectionCounters(stats.accepted, stats.reconnected, stats.kept, refused)
