# SPDX-License-Identifier: Apache-2.0
"""The figures that the load can measure: which work is done, by whom, and how often.

A figure is a table of cases, the values of what it grows with. A round does every case once with
every peer, one right after the other; all rounds are kept as they were measured.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from compare.load import LoadError, Measured, Work
from compare.peers import ALTERNATIVES, LIMIT, RELAY, Peer, running

MIB = 1024 * 1024

Values = dict[str, float]
Rounds = dict[str, dict[str, list[Values]]]
"""By case, then by peer: what was measured in each round."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured, with whom."""

    name: str
    cases: dict[str, Work]
    peers: Sequence[Peer]


def _fanout(widths: Sequence[int], work: Work) -> dict[str, Work]:
    return {str(width): replace(work, subscribers=width) for width in widths}


def _latencies(pairs: Sequence[tuple[int, int]], seconds: float) -> dict[str, Work]:
    return {
        f"{width} at {rate}": Work(
            subscribers=width, rate=rate, window=0, seconds=seconds, warm_up=0.2
        )
        for width, rate in pairs
    }


def full() -> list[Figure]:
    """All there is, at all sizes."""
    work = Work(seconds=0.6, warm_up=0.2)
    # Enough under way for each of 512 to be worth a read, and less than the relay's ring holds.
    many = replace(work, subscribers=4, window=8 * MIB)
    # All sockets of those who never read have to be full before it counts, and the ring as well.
    steady = replace(work, seconds=1.0, warm_up=1.0)
    return [
        Figure("fanout", _fanout((1, 10, 100, 1000), work), EVERYBODY),
        Figure("fanout-8k", _fanout((1, 100), replace(work, size=8192)), EVERYBODY),
        Figure(
            "latency",
            _latencies([(1, 1000), (1, 10_000), (50, 1000), (50, 10_000)], 1.0),
            EVERYBODY,
        ),
        Figure("producers", {str(n): replace(many, producers=n) for n in PRODUCERS}, BOTH),
        Figure("stalled", {str(n): replace(steady, stalled=n) for n in STALLED}, [RELAY]),
    ]


def quick() -> list[Figure]:
    """As much of it as goes into a minute."""
    work = Work(seconds=0.4, warm_up=0.2)
    many = replace(work, subscribers=4, window=8 * MIB)
    return [
        Figure("fanout", _fanout((1, 100), work), EVERYBODY),
        Figure("latency", _latencies([(50, 10_000)], 0.4), EVERYBODY),
        Figure("producers", {str(n): replace(many, producers=n) for n in (8, 512)}, BOTH),
        Figure("stalled", {str(n): replace(work, stalled=n) for n in (0, 1000)}, [RELAY]),
    ]


def cheap() -> list[Figure]:
    """What needs no peer to be installed, and little time."""
    return [Figure("fanout", _fanout((1, 100), Work(seconds=0.4, warm_up=0.2)), BOTH)]


BOTH = [RELAY, LIMIT]
EVERYBODY = [*BOTH, *ALTERNATIVES]
PRODUCERS = (1, 8, 64, 512)
STALLED = (0, 10, 100, 1000)


def available(peers: Sequence[Peer]) -> list[Peer]:
    """Those that are here."""
    return [peer for peer in peers if not peer.missing()]


def measure(figure: Figure, rounds: int, tell: Callable[[str], None]) -> Rounds:
    """All cases with all peers, so many times."""
    found: Rounds = {case: {} for case in figure.cases}
    for number in range(rounds):
        for case, work in figure.cases.items():
            for peer in available(figure.peers):
                tell(f"{figure.name} {number + 1}/{rounds}: {case}, {peer.name}")
                values = _once(peer, work)
                if values:
                    found[case].setdefault(peer.name, []).append(values)
    return found


def _once(peer: Peer, work: Work) -> Values:
    try:
        with running(peer) as relay:
            return _values(relay.measure(work))
    except LoadError as error:
        sys.stderr.write(f"\n{peer.name}: {error}\n")
        return {}


def _values(measured: Measured) -> Values:
    return {**asdict(measured), "rate": measured.rate, "cpu_each": measured.cpu_each}
