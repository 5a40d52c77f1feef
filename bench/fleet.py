# SPDX-License-Identifier: Apache-2.0
"""What many hosts with bridges, their broker and a hub need.

All run on this machine: for each host a relay with a bridge to RabbitMQ, and a hub, which is a
relay with a bridge from RabbitMQ and three subscribers. The processor time and the resident memory
of each program are measured at rest, and while every host sends records of 1 KiB at a fixed rate.
Then all hosts send as fast as they can, and the hub reads what waits at the broker as fast as it
can. At last, the broker is killed and started again, so that the bridges of the hosts spool. This
is repeated for several numbers of hosts.

The books of each subscriber of the hub are checked at the end: a record must have arrived, or a gap
record must announce it; duplicates are counted.

Exit status 1: a record is missing without a gap record, or records of a host are out of order.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from compare import rabbitmq
from compare.extrapolation import Model, Need, spool_bytes
from compare.fleet import fleet
from support import descriptors

MIN_IDLE = 65.0
"""Seconds for which the programs are measured at rest: the interval of heartbeats is 60 s or less.
"""

MORE_HOSTS, RATES = (1000, 10_000), (0.2, 1, 5)
"""Numbers of hosts, and records per second of a host, for which the needs are extrapolated."""

BURST_TIMES = {
    "broker": ("publish_each", "read_each"),
    "source": ("source_each",),
    "hub": ("hub_each",),
}
"""Times for a record of programs that all hosts share."""

NAMES = {
    "relay": "relay of a host",
    "bridge": "bridge of a host",
    "broker": "RabbitMQ",
    "source": "bridge of the hub",
    "hub": "relay of the hub",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """The results for one number of hosts. Processor time is a share of one processor, in percent;
    memory is in MiB. Values of a host are the medians of all hosts."""

    hosts: int
    rate: float
    """Records per second of all hosts."""
    relay_idle: float
    bridge_idle: float
    broker_idle: float
    source_idle: float
    """The bridge of the hub."""
    hub_idle: float
    """The relay of the hub."""
    relay_busy: float
    bridge_busy: float
    broker_busy: float
    source_busy: float
    hub_busy: float
    relay_memory: float
    bridge_memory: float
    broker_memory: float
    source_memory: float
    hub_memory: float
    publish_rate: float
    """Records per second that the broker has confirmed, if all hosts send as fast as they can."""
    publish_each: float
    """Microseconds of the broker for each of these records."""
    bridge_each: float
    relay_each: float
    read_rate: float
    """Records per second from the broker to the subscribers, of records that wait at the broker."""
    read_each: float
    """Microseconds of the broker for each of these records."""
    source_each: float
    hub_each: float
    spooled: int
    """Records in the spools at the end of the outage."""
    spool_bytes: float
    """Bytes of the spools for each of these records."""
    drain_seconds: float
    """Time from the start of the broker until everything has arrived."""
    outage_memory: float
    """Of a bridge at the end of the outage."""
    sent: int
    missing: int
    announced: int
    duplicates: int
    outage_duplicates: int
    """Further duplicates after the broker was killed, mostly delivered again by the broker."""
    unexplained: int
    disordered: int


def figures(hosts: int, rate: float, seconds: float) -> Figures:
    """Measure with some number of hosts."""
    with fleet(hosts, rate) as running:
        idle = running.measure(lambda: time.sleep(max(MIN_IDLE, seconds)))
        running.send(2)  # the first record of each host takes longer
        busy = running.measure(lambda: running.send(seconds))
        running.wait_arrived()
        books = running.subscribers.arrivals
        parts = running.burst()
        before = books[0].duplicates
        parts |= running.outage(seconds)
        sent = running.sent
        values = {
            **{f"{name}_idle": 100 * share for name, share in idle.shares.items()},
            **{f"{name}_busy": 100 * share for name, share in busy.shares.items()},
            **{f"{name}_memory": memory for name, memory in busy.memory.items()},
            **parts,
        }
        return Figures(
            hosts=hosts,
            rate=busy.rate,
            sent=sum(sent),
            missing=sum(each.missing(sent) for each in books),
            announced=sum(each.announced for each in books),
            duplicates=before,
            outage_duplicates=books[0].duplicates - before,
            unexplained=sum(each.unexplained(sent) for each in books),
            disordered=sum(each.disordered for each in books),
            **values,  # type: ignore[arg-type]
        )


def show(found: Figures) -> None:
    """Print the results for one number of hosts."""
    print(f"{found.hosts} hosts, {found.rate:.0f} records/s")
    values = asdict(found)
    for name, what in NAMES.items():
        idle, busy, memory = (values[f"{name}_{each}"] for each in ("idle", "busy", "memory"))
        print(f"  {what:20} {idle:7.3f} % idle {busy:6.2f} % busy {memory:6.0f} MiB")
    print(
        f"  burst to the broker: {found.publish_rate:.0f} records/s; for each: RabbitMQ "
        f"{found.publish_each:.0f} µs, bridge {found.bridge_each:.0f} µs, relay "
        f"{found.relay_each:.0f} µs"
    )
    print(
        f"  burst to the hub: {found.read_rate:.0f} records/s; for each: RabbitMQ "
        f"{found.read_each:.0f} µs, bridge {found.source_each:.0f} µs, relay "
        f"{found.hub_each:.0f} µs"
    )
    print(
        f"  outage: {found.spooled} records spooled, {found.spool_bytes:.0f} bytes each, "
        f"arrived {found.drain_seconds:.1f} s after the start of the broker"
    )
    print(
        f"  sent {found.sent}, missing {found.missing}, announced {found.announced}, "
        f"duplicates {found.duplicates} and {found.outage_duplicates} after the outage, "
        f"out of order {found.disordered}, without a gap record {found.unexplained}",
        flush=True,
    )


def extrapolate(found: Sequence[Figures]) -> None:
    """Print what the broker and the hub need for more hosts.

    A record takes less time in a burst than at the usual rate, because programs handle several
    records at a time. The true value for more hosts is between the two.
    """
    print("extrapolated: processors with the times for a record in a burst and at the usual rate")
    for name in BURST_TIMES:
        usual, burst = (Model.of([need(each, name, way) for each in found]) for way in (0, 1))
        print(
            f"  {NAMES[name]}: {100 * usual.idle.at(0):.3f} %, {100 * usual.idle.each:.4f} % for a "
            f"host, {1e6 * burst.each:.0f} to {1e6 * usual.each:.0f} µs for a record; "
            f"{usual.memory.at(0):.0f} MiB, {usual.memory.each:.2f} MiB for a host"
        )
        for hosts in MORE_HOSTS:
            needs = ", ".join(
                f"{burst.processors(hosts, hosts * rate):.2f} to "
                f"{usual.processors(hosts, hosts * rate):.2f} with {rate:g}/s"
                for rate in RATES
            )
            print(f"    {hosts} hosts: {needs} from each; {usual.memory.at(hosts):.0f} MiB")
    size = statistics.median(each.spool_bytes for each in found)
    for rate in RATES:
        hour = spool_bytes(rate, size, 3600) / (1 << 20)
        print(f"  spool of a host with {rate:g}/s: {hour:.1f} MiB for an hour without the broker")


def need(found: Figures, name: str, way: int) -> Need:
    """Return what a program needs; `way` is 0 for the usual rate and 1 for the burst."""
    row = asdict(found)
    idle, busy = row[f"{name}_idle"] / 100, row[f"{name}_busy"] / 100
    times = (
        max(0.0, busy - idle) / found.rate,
        sum(row[each] for each in BURST_TIMES[name]) / 1e6,
    )
    return Need(found.hosts, idle, times[way], row[f"{name}_memory"])


def write(found: Sequence[Figures], directory: Path) -> None:
    """Write the results as a table and as a chart."""
    with (directory / "fleet.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(each.name for each in fields(Figures))
        for each in found:
            values = asdict(each).values()
            table.writerow(
                f"{value:.3f}" if isinstance(value, float) else value for value in values
            )
    if not find_spec("matplotlib"):
        print("matplotlib is not installed: no chart is drawn")
        return
    from compare import fleet_chart  # noqa: PLC0415 - requires matplotlib

    fleet_chart.draw([asdict(each) for each in found], NAMES, directory / "fleet.png")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("hosts", nargs="*", type=int, default=[10, 25, 50])
    parser.add_argument("--rate", type=float, default=20, help="records per second of each host")
    parser.add_argument("--seconds", type=float, default=20, help="of each part")
    parser.add_argument("--figures", type=Path, help="directory for the table and the chart")
    options = parser.parse_args()
    if reason := rabbitmq.missing():
        print(f"skipped, {reason}")
        return 0
    found = []
    for hosts in options.hosts:
        found.append(figures(hosts, options.rate, options.seconds))
        show(found[-1])
    if len(found) > 1:
        extrapolate(found)
    if options.figures:
        write(found, options.figures)
    return int(any(each.unexplained or each.disordered for each in found))


if __name__ == "__main__":
    descriptors.raise_limit()
    sys.exit(main())
