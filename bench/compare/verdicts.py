# SPDX-License-Identifier: Apache-2.0
"""What must be reached, and whether it is.

Everything is a ratio, the greater the better: of the relay to another in one round, or of a limit
to what was measured. What counts is the median over the rounds.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from compare.figures import Rounds
from compare.peers import ALTERNATIVES, LIMIT, RELAY

WORSE = 0.75
"""Of what it was before: a ratio under that is a step back."""

BASE_MEMORY = 40.0
RING_SIZE = 16.0
EACH_CONNECTION = 4 / 1024
"""MiB."""

HANDLER, DRIVER, START = 1 / 0.8, 6.0, 1 / 1.5
"""Times faster than a FileHandler, and than the log driver; than one and a half imports."""

P50 = 1 / 1.2

BEST = "best peer"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that must be reached."""

    what: str
    case: str
    than: str
    """With whom, or with what, it is compared."""
    ratios: Sequence[float]
    """One a round."""
    must: float | None
    """None for what is only told."""
    steady: bool = True
    """Whether it hardly depends on who is woken when, and so on what else a host is doing."""
    peer: str = ""
    """Who the best peer was."""

    @property
    def key(self) -> str:
        """By which it is found again in another run."""
        return f"{self.what}, {self.case}, {self.than}"

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool:
        """Whether it is good enough."""
        return self.must is None or self.ratio >= self.must


def verdicts(figures: Mapping[str, Rounds]) -> list[Verdict]:
    """Those about the figures that were measured."""
    return [
        verdict
        for name, judge in _JUDGES.items()
        if name in figures
        for verdict in judge(figures[name])
    ]


def steps_back(
    found: Sequence[Verdict], baseline: Mapping[str, float]
) -> list[tuple[Verdict, float]]:
    """Those that are more than a quarter worse than they were, and what they were."""
    return [
        (each, baseline[each.key])
        for each in found
        if each.key in baseline and each.ratio < WORSE * baseline[each.key]
    ]


def column(found: Rounds, case: str, peer: str, value: str) -> list[float]:
    """One value in each round; nothing if the peer did not do all of them."""
    rounds = found[case].get(peer, [])
    most = max(map(len, found[case].values()), default=0)
    return [each[value] for each in rounds] if len(rounds) == most else []


def _against_best(
    found: Rounds, case: str, value: str, ratios: Callable[[list[float], list[float]], list[float]]
) -> tuple[str, list[float]]:
    """Which alternative the relay is least ahead of, and the ratios to it.

    Chosen by the median: whoever has had luck in one round would be the best in it.
    """
    ours = column(found, case, RELAY.name, value)
    columns = {peer.name: column(found, case, peer.name, value) for peer in ALTERNATIVES}
    against = {name: ratios(ours, theirs) for name, theirs in columns.items() if theirs}
    return min(against.items(), key=lambda each: statistics.median(each[1]), default=("", []))


def _more(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The greater the better."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def _less(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """The less the better."""
    return _more(theirs, ours)


def _fanout(found: Rounds) -> Iterator[Verdict]:
    must = {"1": (1.0, 0.5), "100": (3.0, 0.8)}
    for value, what, ratios in (
        ("rate", "records a second", _more),
        ("cpu_each", "processor time", _less),
    ):
        for case in found:
            of_peers, of_limit = must.get(case, (1.0, None))
            work, steady = f"1 to {case}", value != "rate"
            best, against = _against_best(found, case, value, ratios)
            if best:
                yield Verdict(what, work, BEST, against, of_peers, steady, best)
            bare = column(found, case, LIMIT.name, value)
            if bare:
                against = ratios(column(found, case, RELAY.name, value), bare)
                yield Verdict(what, work, LIMIT.name, against, of_limit, steady)


def _latency(found: Rounds) -> Iterator[Verdict]:
    for value, must in (("p99", 1.0), ("p50", P50)):
        for case in found:
            best, against = _against_best(found, case, value, _less)
            if best:
                width, _, rate = case.partition(" at ")
                work = f"1 to {width}, {rate} a second"
                yield Verdict(f"latency {value}", work, BEST, against, must, False, best)


def _growth(
    what: str, many: str, few: str, noun: str, must: float
) -> Callable[[Rounds], Iterator[Verdict]]:
    def judge(found: Rounds) -> Iterator[Verdict]:
        rates = [column(found, case, RELAY.name, "rate") for case in (many, few)]
        yield Verdict(what, f"{many} {noun}", f"{few} {noun}", _more(*rates), must)

    return judge


def _memory(found: Rounds) -> Iterator[Verdict]:
    for case in found:
        idle, most = (column(found, case, RELAY.name, value) for value in ("idle", "most"))
        base = column(found, "0", RELAY.name, "idle")
        connections = int(case) * EACH_CONNECTION
        if case == "0":
            yield Verdict(
                "memory", "nobody connected", "40 MiB", [BASE_MEMORY / each for each in idle], 1.0
            )
        allowed = [each + RING_SIZE + connections for each in base]
        yield Verdict(
            "memory",
            f"{case} stalled subscribers",
            "base, ring and 4 KiB each",
            _less(most, allowed),
            1.0,
        )


def _emitting(found: Rounds) -> Iterator[Verdict]:
    for case, ours, theirs, must, steady in (
        ("a line", "RelayHandler", "FileHandler", HANDLER, False),
        ("a line", "RelayHandler, nobody woken", "FileHandler", HANDLER, True),
        ("a line", "RelayHandler", "SysLogHandler", None, False),
        ("a notification", "driver = unix", "driver = log", DRIVER, True),
        ("a notification", "driver = unix", "messagingv2, RabbitMQ", None, False),
    ):
        other = column(found, case, theirs, "each")
        if other:
            mine = column(found, case, ours, "each")
            yield Verdict("cost of emitting", ours, theirs, _less(mine, other), must, steady)


def _starting(found: Rounds) -> Iterator[Verdict]:
    ours, theirs = (column(found, "start-up", who, "seconds") for who in (RELAY.name, "imports"))
    yield Verdict("start-up", "first record", "its imports", _less(ours, theirs), START)


_JUDGES: dict[str, Callable[[Rounds], Iterator[Verdict]]] = {
    "fanout": _fanout,
    "latency": _latency,
    "producers": _growth("throughput", "512", "8", "producers", 0.7),
    "stalled": _growth("throughput", "1000", "0", "stalled subscribers", 0.9),
    "memory": _memory,
    "emitting": _emitting,
    "start-up": _starting,
}
