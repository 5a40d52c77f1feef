# SPDX-License-Identifier: Apache-2.0
"""How relayctl top counts event types, with the test in the relay's place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayctl.top.busiest import MAX_EVENT_TYPE_LENGTH, MAX_LINE, MOST, WINDOW, Busiest
from support.private_socket import PrivateSocket, ProducerConnection
from support.records import record

Connected = tuple[Busiest, ProducerConnection]


@pytest.fixture
def connected(directory: Path) -> Iterator[Connected]:
    path = directory / "notifications.sock"
    busiest = Busiest()
    with PrivateSocket(path) as public:
        busiest.connect(os.fspath(path))
        with public.accept() as relay:
            yield busiest, relay
            busiest.close()


def counted(busiest: Busiest, number: int = 10) -> list[str]:
    busiest.run_once()
    return [name for name, _ in busiest.rates(number)]


def test_record_in_pieces_is_counted_once(connected: Connected) -> None:
    busiest, relay = connected
    record_of_two = record("compute.two")
    relay.socket.sendall(record("compute.one") + record_of_two[:25])
    busiest.read()
    relay.socket.sendall(record_of_two[25:] + record("compute.three") * 3)
    busiest.read()
    busiest.run_once()
    rates = dict(busiest.rates(10))
    assert set(rates) == {"compute.one", "compute.two", "compute.three"}
    assert rates["compute.one"] == rates["compute.two"]
    assert rates["compute.three"] == pytest.approx(3 * rates["compute.two"])


def test_undecodable_lines_are_skipped(connected: Connected) -> None:
    busiest, relay = connected
    relay.socket.sendall(b"garbage\n[]\n" + b"[" * 5000 + b"\n\xff\n" + record("good"))
    busiest.read()
    assert counted(busiest) == ["good"]


def test_empty_socket_is_not_an_error(connected: Connected) -> None:
    busiest, _ = connected
    busiest.read()
    assert counted(busiest) == []
    assert busiest.connected


def test_number_of_event_types_is_limited(connected: Connected) -> None:
    busiest, relay = connected
    relay.socket.sendall(record("often") * 2)
    for number in range(3 * MOST):
        relay.socket.sendall(record(f"new.{number}"))
        busiest.read()
    names = counted(busiest, 3 * MOST)
    assert len(names) == MOST
    assert names[0] == "often"


def test_unused_event_type_is_forgotten(connected: Connected) -> None:
    busiest, relay = connected
    relay.socket.sendall(record("once"))
    busiest.read()
    for _ in range(WINDOW):
        assert counted(busiest) == ["once"]
    assert counted(busiest) == []


def test_disconnect_of_the_relay_is_noticed(connected: Connected) -> None:
    busiest, relay = connected
    relay.close()
    busiest.read()
    assert not busiest.connected
    busiest.read()


def test_missing_socket_is_reported(directory: Path) -> None:
    path = os.fspath(directory / "notifications.sock")
    busiest = Busiest()
    busiest.connect(path)
    assert not busiest.connected
    assert f"{path}: the socket does not exist" in str(busiest.problem)


def test_endless_line_ends_the_connection(connected: Connected) -> None:
    busiest, relay = connected
    sent = 0
    while busiest.connected and sent <= 2 * MAX_LINE:
        with contextlib.suppress(BrokenPipeError):
            sent += relay.socket.send(b"x" * 65536)
        busiest.read()
    assert not busiest.connected
    assert MAX_LINE < sent < 2 * MAX_LINE


def test_long_event_type_is_truncated(connected: Connected) -> None:
    busiest, relay = connected
    relay.socket.sendall(record("x" * MAX_EVENT_TYPE_LENGTH + "y" * 10_000))
    busiest.read()
    assert counted(busiest) == ["x" * MAX_EVENT_TYPE_LENGTH]
