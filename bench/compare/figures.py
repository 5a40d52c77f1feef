# SPDX-License-Identifier: Apache-2.0
"""The figures that the load generator measures: the work, the peers and the number of rounds.

A figure is a table of cases, one for each value of its parameter. A round measures every case once
with every peer, directly after each other. The results of all rounds are kept.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

from compare.load import LoadError, Measured, Work
from compare.peers import ALTERNATIVES, LIMIT, RELAY, Peer, running

MIB = 1024 * 1024

Values = dict[str, float]
Rounds = dict[str, dict[str, list[Values]]]
"""Results of each round, by case and by peer."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure: its cases, and the peers to measure."""

    name: str
    cases: dict[str, Work]
    peers: Sequence[Peer]
    turns: int = 1
    """Measurements of each peer per round. If there are several, all peers run at the same time and
    are measured in turn, while the others are stopped. Each measurement counts as a round."""


def _fanout(widths: Sequence[int], work: Work) -> dict[str, Work]:
    return {str(width): replace(work, subscribers=width) for width in widths}


def _latencies(*pairs: tuple[int, int], turns: int = 3) -> Figure:
    # Use many short rounds. If the host stops for some milliseconds, this determines the 99th
    # percentile of a second. It affects only few of many short rounds, and the median is not
    # affected. A round needs enough records for the percentile to be meaningful.
    work = Work(window=0, warm_up=0.2)
    cases = {
        f"{width} at {rate}": replace(
            work, subscribers=width, rate=rate, seconds=max(0.25, 750 / rate)
        )
        for width, rate in pairs
    }
    return Figure("latency", cases, ALL_PEERS, turns)


def full() -> list[Figure]:
    """Return all figures with all cases."""
    work = Work(seconds=0.6, warm_up=0.2)
    # Large enough for the relay to read several records of each of 512 producers, and smaller than
    # the ring.
    many = replace(work, subscribers=4, window=8 * MIB)
    # The ring and the sockets of subscribers that never read have to be full at the beginning.
    steady = replace(work, seconds=1.0, warm_up=1.0)
    return [
        Figure("fanout", _fanout((1, 10, 100, 1000), work), ALL_PEERS),
        Figure("fanout-8k", _fanout((1, 100), replace(work, size=8192)), ALL_PEERS),
        _latencies((1, 1000), (1, 10_000), (50, 1000), (50, 10_000)),
        Figure("producers", {str(n): replace(many, producers=n) for n in PRODUCERS}, BOTH),
        Figure("stalled", {str(n): replace(steady, stalled=n) for n in STALLED}, [RELAY]),
    ]


def quick() -> list[Figure]:
    """Return the figures that can be measured in a minute."""
    work = Work(seconds=0.4, warm_up=0.2)
    many = replace(work, subscribers=4, window=8 * MIB)
    return [
        Figure("fanout", _fanout((1, 100), work), ALL_PEERS),
        _latencies((50, 10_000), turns=2),
        Figure("producers", {str(n): replace(many, producers=n) for n in (8, 512)}, BOTH),
        Figure("stalled", {str(n): replace(work, stalled=n) for n in (0, 1000)}, [RELAY]),
    ]


def cheap() -> list[Figure]:
    """Return figures that need no other program and little time."""
    return [Figure("fanout", _fanout((1, 100), Work(seconds=0.4, warm_up=0.2)), BOTH)]


BOTH = [RELAY, LIMIT]
ALL_PEERS = [*BOTH, *ALTERNATIVES]
PRODUCERS = (1, 8, 64, 512)
STALLED = (0, 10, 100, 1000)


def available(peers: Sequence[Peer]) -> list[Peer]:
    """Return the peers that are available."""
    return [peer for peer in peers if not peer.missing()]


def measure(figure: Figure, rounds: int, tell: Callable[[str], None]) -> Rounds:
    """Measure all cases with all peers in each round."""
    found: Rounds = {case: {} for case in figure.cases}
    here = available(figure.peers)
    at_once = [here] if figure.turns > 1 else [[peer] for peer in here]
    for number in range(rounds):
        for case, work in figure.cases.items():
            for peers in at_once:
                names = ", ".join(peer.name for peer in peers)
                tell(f"{figure.name} {number + 1}/{rounds}: {case}, {names}")
                for name, values in _in_turn(peers, work, figure.turns):
                    found[case].setdefault(name, []).append(values)
    return found


def _in_turn(peers: Sequence[Peer], work: Work, turns: int) -> Iterator[tuple[str, Values]]:
    with ExitStack() as stack:
        relays = [stack.enter_context(running(peer)) for peer in peers]
        for relay in relays * turns:
            # Stop the others: an overloaded peer still has work after its measurement.
            with _stopped([each.pid for each in relays if each is not relay]):
                try:
                    yield relay.peer.name, _values(relay.measure(work))
                except LoadError as error:
                    sys.stderr.write(f"\n{relay.peer.name}: {error}\n")


@contextmanager
def _stopped(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _values(measured: Measured) -> Values:
    return {**asdict(measured), "rate": measured.rate, "cpu_each": measured.cpu_each}
