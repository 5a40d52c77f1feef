# SPDX-License-Identifier: Apache-2.0
"""What relayctl top tells: rates, from what the control socket has answered at two moments.

The daemon only counts; what happens in a second is the difference of two answers. Nothing here
knows of a socket or a screen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from notif_relayctl.accounts import user_name
from notif_relayd.control.schema import ProducerStatus, Status, SubscriberStatus
from notif_relayd.escaping import printable

Rate = float | None
"""A second; None where there is nothing to compare with yet."""

Connection = ProducerStatus | SubscriberStatus


@dataclass(frozen=True, slots=True)
class Sample:
    """What the daemon answered at one moment."""

    at: float
    """Seconds of the monotonic clock."""
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
    """The relay between two samples."""

    status: Status
    """At the second."""
    records_in: Rate
    bytes_in: Rate
    records_out: Rate
    bytes_out: Rate
    producers: list[Producer]
    subscribers: list[Subscriber]


def between(before: Sample | None, now: Sample) -> Traffic:
    """What happens between two samples; of a daemon restarted meanwhile the first tells nothing."""
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
        printable(each.command),
        user_name(each.uid),
        _rate(each.records - records, seconds),
        _rate(each.bytes - size, seconds),
    )


def _rate(count: int, seconds: float) -> Rate:
    return count / seconds if seconds > 0 else None
