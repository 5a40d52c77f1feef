# SPDX-License-Identifier: Apache-2.0
"""How relayctl top counts event types, with the test in the relay's place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayctl.busiest import MAX_EVENT_TYPE_LENGTH, MAX_LINE, MOST, WINDOW, Busiest
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


def test_a_record_that_comes_in_pieces_is_counted_once(connected: Connected) -> None:
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


def test_what_cannot_be_decoded_is_passed_over(connected: Connected) -> None:
    busiest, relay = connected
    relay.socket.sendall(b"garbage\n[]\n" + b"[" * 5000 + b"\n\xff\n" + record("good"))
    busiest.read()
    assert counted(busiest) == ["good"]


def test_nothing_to_read_is_no_error(connected: Connected) -> None:
    busiest, _ = connected
    busiest.read()
    assert counted(busiest) == []
    assert busiest.connected


def test_no_more_event_types_are_remembered_than_a_limit(connected: Connected) -> None:
    busiest, relay = connected
    relay.socket.sendall(record("often") * 2)
    for number in range(3 * MOST):
        relay.socket.sendall(record(f"new.{number}"))
        busiest.read()
    names = counted(busiest, 3 * MOST)
    assert len(names) == MOST
    assert names[0] == "often"


def test_an_event_type_that_comes_no_more_is_forgotten(connected: Connected) -> None:
    busiest, relay = connected
    relay.socket.sendall(record("once"))
    busiest.read()
    for _ in range(WINDOW):
        assert counted(busiest) == ["once"]
    assert counted(busiest) == []


def test_a_relay_that_has_hung_up_is_not_waited_for(connected: Connected) -> None:
    busiest, relay = connected
    relay.close()
    busiest.read()
    assert not busiest.connected
    busiest.read()


def test_a_socket_that_is_not_there_is_told(directory: Path) -> None:
    path = os.fspath(directory / "notifications.sock")
    busiest = Busiest()
    busiest.connect(path)
    assert not busiest.connected
    assert f"{path}: the socket does not exist" in str(busiest.problem)


def test_a_line_without_an_end_is_given_up(connected: Connected) -> None:
    busiest, relay = connected
    sent = 0
    while busiest.connected and sent <= 2 * MAX_LINE:
        with contextlib.suppress(BrokenPipeError):
            sent += relay.socket.send(b"x" * 65536)
        busiest.read()
    assert not busiest.connected
    assert MAX_LINE < sent < 2 * MAX_LINE


def test_of_a_long_event_type_only_the_beginning_is_kept(connected: Connected) -> None:
    busiest, relay = connected
    relay.socket.sendall(record("x" * MAX_EVENT_TYPE_LENGTH + "y" * 10_000))
    busiest.read()
    assert counted(busiest) == ["x" * MAX_EVENT_TYPE_LENGTH]
