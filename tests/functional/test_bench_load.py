# SPDX-License-Identifier: Apache-2.0
"""The benchmark's load, through real relays and through one that does what it should not."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compare import load, wire
from compare.load import LoadError, Measured, Work
from compare.notification import record
from compare.peers import ALTERNATIVES, LIMIT, RELAY, Peer, running
from notif_relay import records
from support.waiting import TIMEOUT

WHILE_JOINING = 100
"""Records after which everybody has joined."""

COUNTED = Work(count=400, warm_up=0, window=64 * 1024)

pytestmark = pytest.mark.skipif(
    not load.PROGRAM.exists(), reason="make bench/build/load has not been called"
)


@pytest.mark.parametrize("peer", [RELAY, LIMIT, ALTERNATIVES[-1]], ids=lambda peer: peer.name)
def test_every_subscriber_gets_every_record(peer: Peer) -> None:
    # Long enough for the kernel to take note of processor time, which it does at each of its ticks.
    work = replace(COUNTED, count=20_000, producers=3, subscribers=5)
    with running(peer) as relay:
        measured = relay.measure(work)
    assert measured.sent == work.count
    assert measured.delivered == work.count * 5
    assert (measured.lost, measured.asides) == (0, 0)
    assert measured.cpu > 0
    assert measured.own_cpu > 0


@pytest.mark.parametrize("peer", ALTERNATIVES, ids=lambda peer: peer.name)
def test_every_alternative_relays_the_load(peer: Peer) -> None:
    if peer.missing():
        pytest.skip(peer.missing())
    with running(peer) as relay:
        measured = relay.measure(replace(COUNTED, size=8192, window=1 << 20, subscribers=3))
    assert measured.delivered == COUNTED.count * 3
    assert peer.version() != "?"


def test_stalled_subscribers_are_not_counted() -> None:
    with running(RELAY) as relay:
        measured = relay.measure(replace(COUNTED, stalled=3))
    assert measured.delivered == COUNTED.count


def test_every_record_at_a_rate_is_a_latency_sample() -> None:
    with running(RELAY) as relay:
        measured = relay.measure(Work(rate=2000, window=0, subscribers=2, warm_up=0, seconds=0.2))
    assert 0 < measured.samples == measured.delivered <= 2 * measured.sent
    assert 0 < measured.p50 <= measured.p90 <= measured.p99


class Repeater:
    """A relay for one producer and one subscriber, which passes on what `change` makes of it."""

    def __init__(self, directory: Path, change: Callable[[bytes, int], bytes], piece: int) -> None:
        self._paths = [str(directory / name) for name in ("ingest", "public")]
        self._listeners = []
        for path in self._paths:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen()
            listener.settimeout(TIMEOUT)
            self._listeners.append(listener)
        self._change = change
        self._piece = piece
        self._thread = threading.Thread(target=self._repeat)

    def __enter__(self) -> Repeater:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        for listener in self._listeners:
            listener.close()

    def measure(self, work: Work) -> Measured:
        return load.measure(wire.plain(record(work.size)), *self._paths, 0, work)

    def _repeat(self) -> None:
        subscriber, producer = (each.accept()[0] for each in reversed(self._listeners))
        with subscriber, producer, contextlib.suppress(OSError):
            for number, line in enumerate(producer.makefile("rb")):
                data = self._change(line, number)
                for at in range(0, len(data), self._piece):
                    subscriber.sendall(data[at : at + self._piece])


@pytest.fixture
def repeat(tmp_path: Path) -> Iterator[Callable[..., Measured]]:
    def measure(change: Callable[[bytes, int], bytes], work: Work, piece: int = 4096) -> Measured:
        with Repeater(tmp_path, change, piece) as repeater:
            return repeater.measure(work)

    return measure


@pytest.mark.parametrize("piece", [7, 1000, 4096])
def test_gap_records_are_counted_separately_however_split(
    repeat: Callable[..., Measured], piece: int
) -> None:
    def with_gaps(line: bytes, number: int) -> bytes:
        return records.gap(number, "slow_subscriber") * (number % 3) + line

    measured = repeat(with_gaps, COUNTED, piece)
    assert measured.delivered == COUNTED.count
    # Two, none, one, two … from the second record on: the first is what it is joined with.
    assert abs(measured.asides - COUNTED.count) <= 3


def test_missing_records_are_counted_as_lost(repeat: Callable[..., Measured]) -> None:
    def without_some(line: bytes, number: int) -> bytes:
        return line if number % 10 != 5 or number < WHILE_JOINING else b""

    measured = repeat(without_some, Work(window=8 * 1024, warm_up=0, seconds=1.0))
    assert measured.lost > 0
    assert measured.delivered >= 8 * measured.lost
    assert measured.delivered + measured.lost <= measured.sent


def test_unterminated_data_is_an_error(repeat: Callable[..., Measured]) -> None:
    with pytest.raises(LoadError, match="neither a record nor a line"):
        repeat(lambda line, _: line.replace(b"\n", b" "), COUNTED)


def test_missing_relay_is_an_error(tmp_path: Path) -> None:
    nobody = str(tmp_path / "nobody")
    with pytest.raises(LoadError, match="No such file"):
        load.measure(wire.plain(record(1024)), nobody, nobody, 0, COUNTED)
