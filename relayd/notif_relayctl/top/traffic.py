# SPDX-License-Identifier: Apache-2.0
"""Rates, calculated from two answers of the daemon.

The daemon counts records and bytes; a rate is the difference of two counts, divided by the time
between them. This module uses no socket and no screen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from notif_relayctl.accounts import user_name
from notif_relayd.control.schema import ProducerStatus, Status, SubscriberStatus

Rate = float | None
"""Per second; `None` without an earlier sample."""

Connection = ProducerStatus | SubscriberStatus


@dataclass(frozen=True, slots=True)
class Sample:
    """The answers of the daemon at one time."""

    at: float
    """Time of the monotonic clock in seconds."""
    status: Status
    producers: list[ProducerStatus]
    subscribers: list[SubscriberStatus]


class Producer(NamedTuple):
    """One connection to the private socket."""

    id: int
    pid: int
    command: str
    user: str
    records_rate: Rate
    bytes_rate: Rate
    rejected: int


class Subscriber(NamedTuple):
    """One connection to the public socket."""

    id: int
    pid: int
    command: str
    user: str
    records_rate: Rate
    bytes_rate: Rate
    lag: int
    dropped: int


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic between two samples."""

    status: Status
    """From the second sample."""
    records_in: Rate
    bytes_in: Rate
    records_out: Rate
    bytes_out: Rate
    producers: list[Producer]
    subscribers: list[Subscriber]


def between(before: Sample | None, now: Sample) -> Traffic:
    """Return the traffic between two samples; without rates if the daemon was restarted."""
    if before is None or before.status.pid != now.status.pid:
        before, seconds = now, 0.0
    else:
        seconds = now.at - before.at
    then, status = before.status, now.status
    connections: list[Connection] = [*before.producers, *before.subscribers]
    known = {each.id: each for each in connections}
    return Traffic(
        status,
        _rate(status.records_received - then.records_received, seconds),
        _rate(status.bytes_received - then.bytes_received, seconds),
        _rate(status.records_delivered - then.records_delivered, seconds),
        _rate(status.bytes_delivered - then.bytes_delivered, seconds),
        [Producer(*_row(each, known, seconds), each.rejected) for each in now.producers],
        [
            Subscriber(*_row(each, known, seconds), each.lag, each.dropped)
            for each in now.subscribers
        ],
    )


def _row(
    each: Connection, known: Mapping[int, Connection], seconds: float
) -> tuple[int, int, str, str, Rate, Rate]:
    before = known.get(each.id)
    records, size = (before.records, before.bytes) if before else (0, 0)
    return (
        each.id,
        each.pid,
        each.command,
        user_name(each.uid),
        _rate(each.records - records, seconds),
        _rate(each.bytes - size, seconds),
    )


def _rate(count: int, seconds: float) -> Rate:
    return count / seconds if seconds > 0 else None
