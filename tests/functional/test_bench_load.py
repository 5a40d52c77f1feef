# SPDX-License-Identifier: Apache-2.0
"""Tests of the benchmark's load program with real relays and with a faulty one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compare import load, wire
from compare.load import LoadError, Measured, Work
from compare.notification import record
from compare.peers import ALTERNATIVES, LIMIT, RELAY, Peer, running
from notif_relay import records
from support.waiting import TIMEOUT

STARTUP_RECORDS = 100
"""Number of records after which every producer and subscriber takes part."""

LOAD = Work(count=400, warm_up=0, window=64 * 1024)

pytestmark = pytest.mark.skipif(
    not load.PROGRAM.exists(), reason="make bench/build/load has not been called"
)


@pytest.mark.parametrize("peer", [RELAY, LIMIT, ALTERNATIVES[-1]], ids=lambda peer: peer.name)
def test_every_subscriber_gets_every_record(peer: Peer) -> None:
    # The kernel accounts for processor time at its ticks, so the load must last longer than one.
    work = replace(LOAD, count=20_000, producers=3, subscribers=5)
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
        measured = relay.measure(replace(LOAD, size=8192, window=1 << 20, subscribers=3))
    assert measured.delivered == LOAD.count * 3
    assert peer.version() != "?"


def test_stalled_subscribers_are_not_counted() -> None:
    with running(RELAY) as relay:
        measured = relay.measure(replace(LOAD, stalled=3))
    assert measured.delivered == LOAD.count


def test_every_record_at_a_rate_is_a_latency_sample() -> None:
    with running(RELAY) as relay:
        measured = relay.measure(Work(rate=2000, window=0, subscribers=2, warm_up=0, seconds=0.2))
    assert 0 < measured.samples == measured.delivered <= 2 * measured.sent
    assert 0 < measured.p50 <= measured.p90 <= measured.p99


class Repeater:
    """A relay for one producer and one subscriber that forwards each line as `change` returns it.

    Args:
        directory: where the sockets are created.
        change: called with each line and its number; returns the bytes to forward.
        piece: maximum number of bytes for each send.
    """

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
        ingest, public = self._paths
        return load.measure(wire.plain(record(work.size)), ingest, public, 0, work)

    def _repeat(self) -> None:
        subscriber, producer = (each.accept()[0] for each in reversed(self._listeners))
        with subscriber, producer, contextlib.suppress(OSError):
            for number, line in enumerate(producer.makefile("rb")):
                data = self._change(line, number)
                for at in range(0, len(data), self._piece):
                    subscriber.sendall(data[at : at + self._piece])


@pytest.fixture
def repeat(tmp_path: Path) -> Callable[..., Measured]:
    """Return a function that measures a load through a repeater."""

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

    measured = repeat(with_gaps, LOAD, piece)
    assert measured.delivered == LOAD.count
    # From the second record on, 2, 0, 1, 2 … gap records are added. The first record only marks
    # the start.
    assert abs(measured.asides - LOAD.count) <= 3


def test_missing_records_are_counted_as_lost(repeat: Callable[..., Measured]) -> None:
    def without_some(line: bytes, number: int) -> bytes:
        return line if number % 10 != 5 or number < STARTUP_RECORDS else b""

    measured = repeat(without_some, Work(window=8 * 1024, warm_up=0, seconds=1.0))
    assert measured.lost > 0
    assert measured.delivered >= 8 * measured.lost
    assert measured.delivered + measured.lost <= measured.sent


def test_unterminated_data_is_an_error(repeat: Callable[..., Measured]) -> None:
    with pytest.raises(LoadError, match="neither a record nor a line"):
        repeat(lambda line, _: line.replace(b"\n", b" "), LOAD)


def test_missing_relay_is_an_error(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(LoadError, match="No such file"):
        load.measure(wire.plain(record(1024)), missing, missing, 0, LOAD)
