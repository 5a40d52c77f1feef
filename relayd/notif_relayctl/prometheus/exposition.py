# SPDX-License-Identifier: Apache-2.0
"""The metrics of the relay: names, types, units and help texts.

The names are an interface for dashboards and alert rules; docs/metrics.rst describes each of them.
The number of series does not depend on the traffic, except for the optional metrics of each
connection.
"""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from notif_relayctl.client import ask
from notif_relayctl.errors import CtlError
from notif_relayctl.prometheus.bridges import BridgeCollector
from notif_relayctl.prometheus.families import PREFIX, counter, counters, gauge, gauges
from notif_relayd.control.schema import (
    ConnectionStatus,
    GroupStatus,
    GroupTotals,
    Metrics,
    ProducerStatus,
    SubscriberStatus,
)
from notif_relayd.escaping import printable

BY_CONNECTION = ("id", "pid", "command")
"""Labels. The id is required because a process can have several connections."""

BY_GROUP = ("group", "uid")
"""Labels. The uid is required because groups of different users can have the same name."""


class RelayCollector(Collector):
    """Queries the relay for each collection.

    Args:
        control_path: the control socket.
        per_connection: whether to add metrics of each connection and group.
        bridges: the metrics of the bridges, which are collected at the same time.
    """

    def __init__(
        self, control_path: str, per_connection: bool, bridges: BridgeCollector | None = None
    ) -> None:
        self.problem: CtlError | None = None
        """Why the last query failed; `None` if it succeeded."""
        self._control_path = control_path
        self._per_connection = per_connection
        self._bridges = bridges

    @property
    def state(self) -> str:
        """Whether the relay has answered the last query, and which bridges have not."""
        relay = str(self.problem or "the relay answers")
        return "; ".join([relay, *(self._bridges.problems if self._bridges else [])])

    def registry(self) -> CollectorRegistry:
        """Return a registry that contains only this collector."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; of a relay that does not answer, only `up` with the value 0."""
        try:
            families = list(self._families())
        except CtlError as error:
            self.problem, families = error, []
        else:
            self.problem = None
        yield gauge("up", "Whether the relay answered.", int(self.problem is None))
        yield from families
        if self._bridges is not None:
            yield from self._bridges.collect()

    def _families(self) -> Iterator[Metric]:
        found = ask(self._control_path, "metrics", Metrics)
        yield from of_relay(found)
        if self._per_connection:
            yield from of_producers(ask(self._control_path, "producers", list[ProducerStatus]))
            yield from of_subscribers(
                ask(self._control_path, "subscribers", list[SubscriberStatus])
            )
            if found.groups.groups:  # An older daemon has no groups and no such method.
                yield from of_groups(ask(self._control_path, "groups", list[GroupStatus]))


def of_relay(found: Metrics) -> Iterator[Metric]:
    """Yield the metrics of the relay as a whole."""
    status = found.status
    yield InfoMetricFamily(
        f"{PREFIX}build",
        "Version of the relay and of Python.",
        {"version": status.version, "python": found.python},
    )
    yield gauge(
        "start_time_seconds", "Start time of the relay, in seconds since the epoch.", found.started
    )
    yield counter("records_received", "Valid records from all producers.", status.records_received)
    yield counter("bytes_received", "Bytes from all producers.", status.bytes_received)
    yield counter(
        "records_delivered",
        "Records sent to subscribers, counted once for each subscriber.",
        status.records_delivered,
    )
    yield counter(
        "bytes_delivered",
        "Bytes sent to subscribers, including the relay's own records.",
        status.bytes_delivered,
    )
    yield counter(
        "records_discarded",
        "Records received while no subscriber was connected and no group was held.",
        status.records_discarded,
    )
    yield counters(
        "records_rejected", "Rejected records, by reason.", ["reason"], _by_one(found.rejected)
    )
    yield counters(
        "records_dropped",
        "Lost records, by reason: for slow_subscriber and undeliverable, counted once for each "
        "subscriber or group that missed the record; for other reasons, as reported by producers.",
        ["reason"],
        _by_one(found.dropped),
    )
    yield counters(
        "unknown_gaps",
        "Gaps with an unknown number of lost records, by reason.",
        ["reason"],
        _by_one(found.unknown_gaps),
    )
    yield gauge("producers", "Connections to the private socket.", status.producers)
    yield gauge("subscribers", "Connections to the public socket.", status.subscribers)
    yield gauge(
        "subscribers_behind",
        "Subscribers for which records are waiting in the ring.",
        found.subscribers_behind,
    )
    yield gauge(
        "max_lag_records",
        "Records that wait for the subscriber that is furthest behind.",
        found.max_lag,
    )
    yield gauge(
        "ring_bytes",
        "Bytes kept in the ring for subscribers and groups that are behind.",
        status.ring_bytes,
    )
    yield gauge("ring_limit_bytes", "Maximum size of the ring in bytes.", status.ring_limit_bytes)
    yield from _of_all_groups(found.groups)
    sockets = found.connections.items()
    yield counters(
        "connections_accepted",
        "Accepted connections.",
        ["socket"],
        {(name,): each.accepted for name, each in sockets},
    )
    yield counters(
        "reconnects",
        "Accepted connections of processes that had been connected before.",
        ["socket"],
        {(name,): each.reconnected for name, each in sockets},
    )
    yield counters(
        "connections_kept",
        "Connections taken over from the previous relay process.",
        ["socket"],
        {(name,): each.kept for name, each in sockets},
    )
    yield counters(
        "connections_refused",
        "Refused connections, by reason.",
        ["socket", "reason"],
        {(name, reason): count for name, each in sockets for reason, count in each.refused.items()},
    )
    loop_latency = HistogramMetricFamily(
        f"{PREFIX}turn_duration_seconds",
        "Duration of the event loop's iterations, which is the longest delay by the relay itself.",
    )
    loop_latency.add_metric([], *_cumulative(found))
    yield loop_latency


def _of_all_groups(found: GroupTotals) -> Iterator[Metric]:
    yield gauge("groups", "Groups of subscribers, including those that are held.", found.groups)
    yield gauge("groups_held", "Groups without members that keep their place.", found.held)
    yield gauge("groups_members", "Subscribers that are members of groups.", found.members)
    yield gauge(
        "groups_max_lag_records",
        "Records that wait for the group that is furthest behind.",
        found.max_lag,
    )
    yield gauge(
        "groups_unfinished_records",
        "Records that members of groups received and have not finished.",
        found.unfinished,
    )
    yield counter(
        "groups_records_redelivered",
        "Records that groups handed out again, counted each time.",
        found.redelivered,
    )
    yield counter(
        "groups_records_dropped",
        "Records that groups missed, counted once for each group.",
        found.dropped,
    )
    yield gauge(
        "groups_held_ring_bytes",
        "Bytes in the ring, from the oldest record on that waits for a held group.",
        found.held_ring_bytes,
    )


def of_producers(producers: Sequence[ProducerStatus]) -> Iterator[Metric]:
    """Yield the metrics of each connection to the private socket."""
    yield counters(
        "producer_records_received",
        "Valid records from this producer.",
        BY_CONNECTION,
        {_labels(each): each.records for each in producers},
    )
    yield counters(
        "producer_bytes_received",
        "Bytes from this producer.",
        BY_CONNECTION,
        {_labels(each): each.bytes for each in producers},
    )
    yield counters(
        "producer_records_rejected",
        "Rejected records of this producer.",
        BY_CONNECTION,
        {_labels(each): each.rejected for each in producers},
    )


def of_subscribers(subscribers: Sequence[SubscriberStatus]) -> Iterator[Metric]:
    """Yield the metrics of each connection to the public socket."""
    yield counters(
        "subscriber_records_delivered",
        "Records sent to this subscriber.",
        BY_CONNECTION,
        {_labels(each): each.records for each in subscribers},
    )
    yield counters(
        "subscriber_bytes_delivered",
        "Bytes sent to this subscriber.",
        BY_CONNECTION,
        {_labels(each): each.bytes for each in subscribers},
    )
    yield counters(
        "subscriber_records_dropped",
        "Records that this subscriber missed because it was too slow.",
        BY_CONNECTION,
        {_labels(each): each.dropped for each in subscribers},
    )
    yield gauges(
        "subscriber_lag_records",
        "Records that wait for this subscriber.",
        BY_CONNECTION,
        {_labels(each): each.lag for each in subscribers},
    )


def of_groups(groups: Sequence[GroupStatus]) -> Iterator[Metric]:
    """Yield the metrics of each group."""
    by_labels = {(printable(each.group), str(each.uid)): each for each in groups}
    yield gauges(
        "group_members",
        "Subscribers that are members of this group.",
        BY_GROUP,
        {labels: each.members for labels, each in by_labels.items()},
    )
    yield gauges(
        "group_lag_records",
        "Records that wait for this group.",
        BY_GROUP,
        {labels: each.lag for labels, each in by_labels.items()},
    )
    yield gauges(
        "group_unfinished_records",
        "Records that members of this group received and have not finished.",
        BY_GROUP,
        {labels: each.unfinished for labels, each in by_labels.items()},
    )
    yield counters(
        "group_records_redelivered",
        "Records that this group handed out again, counted each time.",
        BY_GROUP,
        {labels: each.redelivered for labels, each in by_labels.items()},
    )
    yield counters(
        "group_records_dropped",
        "Records that this group missed.",
        BY_GROUP,
        {labels: each.dropped for labels, each in by_labels.items()},
    )


def _labels(each: ConnectionStatus) -> tuple[str, ...]:
    return str(each.id), str(each.pid), printable(each.command)


def _by_one(counts: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(label,): count for label, count in counts.items()}


def _cumulative(found: Metrics) -> tuple[list[tuple[str, float]], float]:
    """Return buckets and sum of the histogram; in Prometheus, a bucket includes the lower ones."""
    buckets, count = [], 0
    bounds = [*map(repr, found.turn_bounds), "+Inf"]
    if len(bounds) != len(found.turns.counts):
        raise CtlError(
            f"cannot decode the answer of the daemon: {len(found.turns.counts)} counts for "
            f"{len(bounds)} buckets of loop latency; is the daemon of another version?"
        )
    for bound, more in zip(bounds, found.turns.counts, strict=True):
        count += more
        buckets.append((bound, float(count)))
    return buckets, found.turns.seconds
