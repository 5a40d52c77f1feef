# SPDX-License-Identifier: Apache-2.0
"""The figures that the load can measure: which work is done, by whom, and how often.

A figure is a table of cases, the values of what it grows with. A round does every case once with
every peer, one right after the other; all rounds are kept as they were measured.
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
"""By case, then by peer: what was measured in each round."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured, with whom."""

    name: str
    cases: dict[str, Work]
    peers: Sequence[Peer]
    turns: int = 1
    """With more than one all peers are started at once, and in each round every one of them is
    measured so often, in turn, while the others are stopped. Each of these counts as a round."""


def _fanout(widths: Sequence[int], work: Work) -> dict[str, Work]:
    return {str(width): replace(work, subscribers=width) for width in widths}


def _latencies(*pairs: tuple[int, int], turns: int = 3) -> Figure:
    # Short, since a host that stops for some milliseconds is all of the last hundredth of a
    # second's records. Of many short rounds it spoils a few, and the median is none of them. But
    # the last hundredth has to be some records, or it is chance where it begins.
    work = Work(window=0, warm_up=0.2)
    cases = {
        f"{width} at {rate}": replace(
            work, subscribers=width, rate=rate, seconds=max(0.25, 750 / rate)
        )
        for width, rate in pairs
    }
    return Figure("latency", cases, EVERYBODY, turns)


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
        _latencies((1, 1000), (1, 10_000), (50, 1000), (50, 10_000)),
        Figure("producers", {str(n): replace(many, producers=n) for n in PRODUCERS}, BOTH),
        Figure("stalled", {str(n): replace(steady, stalled=n) for n in STALLED}, [RELAY]),
    ]


def quick() -> list[Figure]:
    """As much of it as goes into a minute."""
    work = Work(seconds=0.4, warm_up=0.2)
    many = replace(work, subscribers=4, window=8 * MIB)
    return [
        Figure("fanout", _fanout((1, 100), work), EVERYBODY),
        _latencies((50, 10_000), turns=2),
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
            # One that was overloaded has still something to do when its turn is over.
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
