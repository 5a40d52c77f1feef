# SPDX-License-Identifier: Apache-2.0
"""The relay's answers as Prometheus has figures: names, types, units and help.

The names are an interface: dashboards and alert rules are written against them, and
docs/metrics.rst explains each. How many series there are does not depend on the traffic.
Only who asks for figures by connection gets labels that have no bound.
"""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector, CollectorRegistry

from notif_relayctl.client import ask
from notif_relayctl.errors import CtlError
from notif_relayd.control.schema import ConnectionStatus, Metrics, ProducerStatus, SubscriberStatus
from notif_relayd.escaping import printable

PREFIX = "notif_relayd_"

BY_CONNECTION = ("id", "pid", "command")
"""Labels. A process may have more than one connection, so that the id is needed as well."""


class RelayCollector(Collector):
    """Asks the relay each time that somebody wants the figures.

    Args:
        control_path: the control socket.
        per_connection: whether there are to be figures by connection.
    """

    def __init__(self, control_path: str, per_connection: bool) -> None:
        self.problem: CtlError | None = None
        """Why there were no figures the last time, where that was so."""
        self._control_path = control_path
        self._per_connection = per_connection

    def registry(self) -> CollectorRegistry:
        """A registry that holds the relay and nothing else."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """Return the figures, or only that there are none."""
        try:
            families = list(self._families())
        except CtlError as error:
            self.problem, families = error, []
        else:
            self.problem = None
        yield _gauge("up", "Whether the relay answered.", int(self.problem is None))
        yield from families

    def _families(self) -> Iterator[Metric]:
        yield from of_relay(ask(self._control_path, "metrics", Metrics))
        if self._per_connection:
            yield from of_producers(ask(self._control_path, "producers", list[ProducerStatus]))
            yield from of_subscribers(
                ask(self._control_path, "subscribers", list[SubscriberStatus])
            )


def of_relay(found: Metrics) -> Iterator[Metric]:
    """The figures about the relay as a whole."""
    status = found.status
    yield InfoMetricFamily(
        f"{PREFIX}build",
        "What the relay is.",
        {"version": status.version, "python": found.python},
    )
    yield _gauge("start_time_seconds", "When the relay was started, since 1970.", found.started)
    yield _counter(
        "records_received", "Well-formed records from all producers.", status.records_received
    )
    yield _counter("bytes_received", "Bytes from all producers.", status.bytes_received)
    yield _counter(
        "records_delivered",
        "Records handed over, one for each subscriber that got it.",
        status.records_delivered,
    )
    yield _counter(
        "bytes_delivered",
        "Bytes handed over, the relay's own records among them.",
        status.bytes_delivered,
    )
    yield _counter(
        "records_discarded", "Records that came while nobody subscribed.", status.records_discarded
    )
    yield _counters(
        "records_rejected", "Lines that were no records.", ["reason"], _by_one(found.rejected)
    )
    yield _counters(
        "records_dropped",
        "Records missing: by slow_subscriber one for each subscriber that missed it, by the "
        "other reasons as producers tell.",
        ["reason"],
        _by_one(found.dropped),
    )
    yield _counters(
        "unknown_gaps",
        "Losses of which nobody knows the number of records.",
        ["reason"],
        _by_one(found.unknown_gaps),
    )
    yield _gauge("producers", "Connections to the private socket.", status.producers)
    yield _gauge("subscribers", "Connections to the public socket.", status.subscribers)
    yield _gauge(
        "subscribers_behind",
        "Subscribers that have yet to get something.",
        found.subscribers_behind,
    )
    yield _gauge(
        "max_lag_records",
        "Records that the subscriber furthest behind has yet to get.",
        found.max_lag,
    )
    yield _gauge("ring_bytes", "Bytes kept for subscribers that are behind.", status.ring_bytes)
    yield _gauge("ring_limit_bytes", "Bytes that may be kept for them.", status.ring_limit_bytes)
    sockets = found.connections.items()
    yield _counters(
        "connections_accepted",
        "Connections let in.",
        ["socket"],
        {(name,): each.accepted for name, each in sockets},
    )
    yield _counters(
        "reconnects",
        "Those let in whose process had one before, which had ended.",
        ["socket"],
        {(name,): each.reconnected for name, each in sockets},
    )
    yield _counters(
        "connections_kept",
        "Connections taken over from a relay before this one.",
        ["socket"],
        {(name,): each.kept for name, each in sockets},
    )
    yield _counters(
        "connections_refused",
        "Connections not let in.",
        ["socket", "reason"],
        {(name, reason): count for name, each in sockets for reason, count in each.refused.items()},
    )
    turns = HistogramMetricFamily(
        f"{PREFIX}turn_duration_seconds",
        "What the loop's turns took: as long can a record wait for the relay itself.",
    )
    turns.add_metric([], *_cumulative(found))
    yield turns


def of_producers(producers: Sequence[ProducerStatus]) -> Iterator[Metric]:
    """The figures about each connection to the private socket."""
    yield _counters(
        "producer_records_received",
        "Well-formed records of this producer.",
        BY_CONNECTION,
        {_labels(each): each.records for each in producers},
    )
    yield _counters(
        "producer_bytes_received",
        "Bytes of this producer.",
        BY_CONNECTION,
        {_labels(each): each.bytes for each in producers},
    )
    yield _counters(
        "producer_records_rejected",
        "Lines of this producer that were no records.",
        BY_CONNECTION,
        {_labels(each): each.rejected for each in producers},
    )


def of_subscribers(subscribers: Sequence[SubscriberStatus]) -> Iterator[Metric]:
    """The figures about each connection to the public socket."""
    yield _counters(
        "subscriber_records_delivered",
        "Records handed over to this subscriber.",
        BY_CONNECTION,
        {_labels(each): each.records for each in subscribers},
    )
    yield _counters(
        "subscriber_bytes_delivered",
        "Bytes handed over to this subscriber.",
        BY_CONNECTION,
        {_labels(each): each.bytes for each in subscribers},
    )
    yield _counters(
        "subscriber_records_dropped",
        "Records that this subscriber was too slow for.",
        BY_CONNECTION,
        {_labels(each): each.dropped for each in subscribers},
    )
    lags = GaugeMetricFamily(
        f"{PREFIX}subscriber_lag_records",
        "Records that this subscriber has yet to get.",
        labels=BY_CONNECTION,
    )
    for each in subscribers:
        lags.add_metric(_labels(each), each.lag)
    yield lags


def _labels(each: ConnectionStatus) -> tuple[str, ...]:
    return str(each.id), str(each.pid), printable(each.command)


def _by_one(counts: Mapping[str, int]) -> dict[tuple[str, ...], int]:
    return {(label,): count for label, count in counts.items()}


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, documentation, value=value)


def _counters(
    name: str,
    documentation: str,
    labels: Sequence[str],
    values: Mapping[tuple[str, ...], int],
) -> Metric:
    family = CounterMetricFamily(PREFIX + name, documentation, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _cumulative(found: Metrics) -> tuple[list[tuple[str, float]], float]:
    """The histogram as Prometheus has it: each class holds those before it as well."""
    buckets, count = [], 0
    bounds = [*map(repr, found.turn_bounds), "+Inf"]
    if len(bounds) != len(found.turns.counts):
        raise CtlError(
            f"the answer from the relay cannot be understood: {len(found.turns.counts)} counts "
            f"for {len(bounds)} classes of loop latency; is the daemon of another version?"
        )
    for bound, more in zip(bounds, found.turns.counts, strict=True):
        count += more
        buckets.append((bound, float(count)))
    return buckets, found.turns.seconds
