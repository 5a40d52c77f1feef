# SPDX-License-Identifier: Apache-2.0
"""What more hosts need than were measured.

The processor time of a program is the sum of a part for each host, which it needs without records,
and a part for each record. Its memory is the sum of a fixed part and a part for each host. Both are
straight lines, which the measurements with few hosts determine.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line."""

    fixed: float
    each: float

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Return the line with the least squares; it has no negative part.

        Args:
            points: at least one; a single point is taken as proportional.
        """
        if len(points) < 2:
            ((x, y),) = points
            return cls(0.0, y / x)
        each, fixed = statistics.linear_regression(*zip(*points, strict=True))
        if each < 0:
            return cls(statistics.mean(y for _, y in points), 0.0)
        if fixed < 0:
            return cls(0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points))
        return cls(fixed, each)

    def at(self, x: float) -> float:
        """Return the value at a point."""
        return self.fixed + self.each * x


@dataclass(frozen=True, slots=True)
class Need:
    """What a program needs, as it was measured with some number of hosts."""

    hosts: int
    idle: float
    """Share of a processor without records."""
    each: float
    """Seconds of processor time for a record."""
    memory: float
    """MiB."""


@dataclass(frozen=True, slots=True)
class Model:
    """What a program needs with any number of hosts."""

    idle: Line
    """Share of a processor without records, by the number of hosts."""
    each: float
    """Seconds of processor time for a record."""
    memory: Line
    """MiB, by the number of hosts."""

    @classmethod
    def of(cls, measured: Sequence[Need]) -> Model:
        """Return the model for measurements with different numbers of hosts."""
        return cls(
            Line.through([(each.hosts, each.idle) for each in measured]),
            statistics.median(each.each for each in measured),
            Line.through([(each.hosts, each.memory) for each in measured]),
        )

    def processors(self, hosts: int, rate: float) -> float:
        """Return the number of processors for a rate of records per second of all hosts."""
        return self.idle.at(hosts) + self.each * rate

    def max_rate(self, hosts: int, processors: float) -> float:
        """Return the records per second of all hosts for which processors suffice."""
        if not self.each:
            return float("inf")
        return max(0.0, processors - self.idle.at(hosts)) / self.each


def spool_bytes(rate: float, size: float, seconds: float) -> float:
    """Return the bytes that a host's spool takes in an outage.

    Args:
        rate: records per second of the host.
        size: bytes of the spool for a record.
        seconds: time without the broker.
    """
    return rate * size * seconds
