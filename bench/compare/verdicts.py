# SPDX-License-Identifier: Apache-2.0
"""Required results, and whether the measurements reach them.

All results are ratios, and greater is better: the relay compared with another program in the same
round, or a limit compared with the measurement. The median over the rounds is decisive.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from compare.figures import Rounds
from compare.peers import ALTERNATIVES, LIMIT, RELAY

REGRESSION = 0.75
"""A result below this share of the baseline is a regression."""

BASE_MEMORY = 40.0
RING_SIZE = 16.0
EACH_CONNECTION = 4 / 1024
"""MiB."""

HANDLER, DRIVER, START = 1 / 0.8, 6.0, 1 / 1.5
"""Required ratios: to a FileHandler, to the log driver, and to the imports of the relay."""

P50 = 1 / 1.2

BEST = "best peer"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A result and its requirement."""

    what: str
    case: str
    than: str
    """The program or value that the relay is compared with."""
    ratios: Sequence[float]
    """One ratio per round."""
    must: float | None
    """Required ratio; None if there is no requirement."""
    steady: bool = True
    """Whether the result hardly depends on scheduling, and thus on other load of the host."""
    peer: str = ""
    """Name of the best peer."""

    @property
    def key(self) -> str:
        """Key of the result in the baseline."""
        return f"{self.what}, {self.case}, {self.than}"

    @property
    def ratio(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool:
        """Whether the required ratio is reached."""
        return self.must is None or self.ratio >= self.must


def verdicts(figures: Mapping[str, Rounds]) -> list[Verdict]:
    """Return the verdicts on the measured figures."""
    return [
        verdict
        for name, judge in _JUDGES.items()
        if name in figures
        for verdict in judge(figures[name])
    ]


def regressions(
    found: Sequence[Verdict], baseline: Mapping[str, float]
) -> list[tuple[Verdict, float]]:
    """Return the verdicts that are more than a quarter worse than the baseline, with its ratio."""
    return [
        (each, baseline[each.key])
        for each in found
        if each.key in baseline and each.ratio < REGRESSION * baseline[each.key]
    ]


def column(found: Rounds, case: str, peer: str, value: str) -> list[float]:
    """Return a value of each round, or nothing if the peer failed in some rounds."""
    rounds = found[case].get(peer, [])
    most = max(map(len, found[case].values()), default=0)
    return [each[value] for each in rounds] if len(rounds) == most else []


def _against_best(
    found: Rounds, case: str, value: str, ratios: Callable[[list[float], list[float]], list[float]]
) -> tuple[str, list[float]]:
    """Return the best alternative and the ratios to it.

    The best one is chosen by the median, so that one exceptional round does not decide.
    """
    ours = column(found, case, RELAY.name, value)
    columns = {peer.name: column(found, case, peer.name, value) for peer in ALTERNATIVES}
    against = {name: ratios(ours, theirs) for name, theirs in columns.items() if theirs}
    return min(against.items(), key=lambda each: statistics.median(each[1]), default=("", []))


def _more(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratios of values of which greater ones are better."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def _less(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratios of values of which smaller ones are better."""
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
                "memory", "no connections", "40 MiB", [BASE_MEMORY / each for each in idle], 1.0
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
        ("a line", "RelayHandler, no reader woken", "FileHandler", HANDLER, True),
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
