# SPDX-License-Identifier: Apache-2.0
"""The metrics of the bridges. If no bridge has a status socket, there are none."""

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from notif_relayctl.bridges.client import Bridge, query_all
from notif_relayctl.bridges.schema import BridgeStatus
from notif_relayctl.errors import CtlError, NotRunningError
from notif_relayctl.prometheus.families import counters, gauges
from notif_relayd.escaping import printable

MAX_PROBLEMS = 3
"""Bridges that do not answer and are named in the log."""

LABELS = ("bridge", "direction", "broker")

Labels = tuple[str, ...]

COUNTERS = {
    "confirmed": "Messages that the broker, or the relay's socket, has confirmed.",
    "repeated": "Messages that were sent or delivered again.",
    "refused": "Messages that the broker has refused, or that are no notifications.",
    "skipped": "Notifications that were not sent because a bridge has brought them in.",
    "spooled": "Notifications that were written to the spool.",
}
"""Help texts by field of the status."""

GAUGES = {
    "connected": "Whether the broker is connected.",
    "unconfirmed": "Messages that are neither confirmed nor in the spool.",
    "waiting": "Notifications in memory that are not sent.",
}

SPOOL_GAUGES = {
    "records": "Records in the spool.",
    "bytes": "Size of the used pages of the spool.",
    "max_bytes": "Maximum size of the spool.",
    "oldest_seconds": "Age of the oldest record in the spool; 0 if there is none.",
    "failed": "Whether the spool cannot be read or written.",
}


class BridgeCollector(Collector):
    """Queries all bridges for each collection.

    Args:
        directory: the directory of the bridges.
    """

    def __init__(self, directory: str) -> None:
        self.problems: list[str] = []
        """Why bridges have not answered the last query."""
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; of a bridge that does not answer, only `up` with the value 0."""
        try:
            bridges = query_all(self._directory)
        except NotRunningError:
            bridges, self.problems = [], []
        except CtlError as error:
            bridges, self.problems = [], [str(error)]
        else:
            found = [
                f"bridge {each.name}: {each.answer.reason}"
                for each in bridges
                if not isinstance(each.answer, BridgeStatus)
            ]
            self.problems = found[:MAX_PROBLEMS]
            if (more := len(found) - MAX_PROBLEMS) > 0:
                self.problems.append(f"{more} more bridges do not answer")
        if bridges:
            yield from of_bridges(bridges)


def of_bridges(bridges: list[Bridge]) -> Iterator[Metric]:
    """Yield the metrics of the bridges."""
    answered = {printable(each.name): isinstance(each.answer, BridgeStatus) for each in bridges}
    yield gauges(
        "bridge_up",
        "Whether the bridge answered.",
        LABELS[:1],
        {(name,): up for name, up in answered.items()},
    )
    found: dict[Labels, BridgeStatus] = {
        (printable(each.name), each.answer.direction, each.answer.broker): each.answer
        for each in bridges
        if isinstance(each.answer, BridgeStatus)
    }
    for name, text in COUNTERS.items():
        yield counters(f"bridge_{name}", text, LABELS, _values(found, attrgetter(name)))
    for name, text in GAUGES.items():
        yield gauges(f"bridge_{name}", text, LABELS, _values(found, attrgetter(name)))
    spools = {labels: each.spool for labels, each in found.items() if each.spool is not None}
    for name, text in SPOOL_GAUGES.items():
        values: dict[Labels, float] = {
            labels: getattr(spool, name) or 0 for labels, spool in spools.items()
        }
        yield gauges(f"bridge_spool_{name}", text, LABELS, values)
    yield counters(
        "bridge_spool_dropped",
        "Records that gap records have replaced in the spool.",
        LABELS,
        {labels: spool.dropped for labels, spool in spools.items()},
    )


def _values(
    found: Mapping[Labels, BridgeStatus], get: Callable[[BridgeStatus], float]
) -> dict[Labels, float]:
    return {labels: get(each) for labels, each in found.items()}
