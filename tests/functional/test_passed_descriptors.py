# SPDX-License-Identifier: Apache-2.0
"""A peer that passes file descriptors delays no other peer, with and without the kernel's help."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notif_relayd.net.ancillary import kernel_refuses
from support.passed_sockets import (
    PASSING_METHODS,
    lingering_socket,
    pass_out_of_band,
    pass_plainly,
    pass_socket,
    permit_passing,
)
from support.records import record
from support.relay import RunningRelay, Subscriber, connect
from support.service_manager import ManagedRelay, managed_relay
from support.waiting import TIMEOUT, wait_until

Way = Callable[[socket.socket, socket.socket], None]

SOCKETS = ("public", "ingest", "control")

LOGGED = "it passes file descriptors, which are not accepted"

needs_kernel = pytest.mark.skipif(
    not kernel_refuses(), reason="the kernel does not refuse descriptors: it is older than 6.16"
)

OLD_KERNEL = """
import sys
from notif_relayd.net import ancillary
from notif_relayd.daemon import main
from notif_relayd import fastpath
ancillary.kernel_refuses = lambda: False
{}
sys.exit(main.main(sys.argv[1:]))
"""
"""Runs the daemon as on a kernel without SO_PASSRIGHTS."""

PROGRAMS = {
    "compiled": OLD_KERNEL.format(""),
    "in Python": OLD_KERNEL.format('fastpath.WHY_NOT = "for a test"'),
}


@pytest.fixture(params=PROGRAMS)
def old_kernel(
    request: pytest.FixtureRequest, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningRelay]:
    monkeypatch.setattr(RunningRelay, "program", ("-c", PROGRAMS[request.param]))
    relay = RunningRelay(directory)
    try:
        relay.wait_ready()
        yield relay
    finally:
        relay.close()


def descriptors(relay: RunningRelay) -> int:
    return len(os.listdir(f"/proc/{relay.process.pid}/fd"))


def unread(connection: socket.socket) -> int:
    """Bytes that the relay has yet to read."""
    (size,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return int(size)


def idle_descriptors(relay: RunningRelay) -> int:
    """How many it has without any connection."""
    assert_relays(relay)
    relay.wait_status(producers=0, subscribers=0)
    return descriptors(relay)


def assert_relays(relay: RunningRelay) -> None:
    """A producer and a subscriber are served at once."""
    with relay.subscribe() as subscriber, relay.produce() as producer:
        producer.sendall(record())
        assert subscriber.line() == record()


def assert_ended(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass


def make_closer_wait(relay: RunningRelay, peer: socket.socket, passed: socket.socket) -> None:
    """Pass what the relay does not disarm, and be the first to close it."""
    relay.process.send_signal(signal.SIGSTOP)
    pass_plainly(peer, passed)
    relay.process.send_signal(signal.SIGCONT)
    assert_ended(peer)


@needs_kernel
@pytest.mark.parametrize("way", [pass_plainly, pass_out_of_band])
@pytest.mark.parametrize("name", SOCKETS)
def test_kernel_refuses_descriptors(relay: RunningRelay, name: str, way: Way) -> None:
    with lingering_socket() as passed, connect(getattr(relay, name)) as peer:
        with pytest.raises(PermissionError):
            way(peer, passed)
        assert_relays(relay)


@pytest.mark.parametrize("way", PASSING_METHODS)
@pytest.mark.parametrize("name", SOCKETS)
def test_old_kernel_passing_peer_is_disconnected(
    old_kernel: RunningRelay, name: str, way: Way
) -> None:
    before = idle_descriptors(old_kernel)
    with lingering_socket() as passed, connect(getattr(old_kernel, name)) as peer:
        way(peer, passed)
        assert_ended(peer)
        assert_relays(old_kernel)
        wait_until(lambda: descriptors(old_kernel) <= before, "the descriptors are closed")
    old_kernel.wait_logged(LOGGED)
    assert old_kernel.stop() == 0


@pytest.mark.parametrize("name", SOCKETS)
def test_old_kernel_peer_may_disconnect_at_once(old_kernel: RunningRelay, name: str) -> None:
    before = idle_descriptors(old_kernel)
    with lingering_socket() as passed:
        with connect(getattr(old_kernel, name)) as peer:
            pass_plainly(peer, passed)
        assert_relays(old_kernel)
        wait_until(lambda: descriptors(old_kernel) <= before, "the descriptors are closed")


@pytest.fixture
def waiting_closer(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningRelay]:
    """A relay with a thread that finds nothing to disarm, and closes one connection at a time."""
    program = OLD_KERNEL.format("ancillary._disarm = lambda fd: []; ancillary.MAX_CLOSING = 1")
    monkeypatch.setattr(RunningRelay, "program", ("-c", program))
    relay = RunningRelay(directory)
    try:
        relay.wait_ready()
        yield relay
    finally:
        relay.close()


def test_old_kernel_closing_thread_blocks_only_new_peers(
    waiting_closer: RunningRelay,
) -> None:
    relay = waiting_closer
    with relay.subscribe() as subscriber, relay.produce() as producer, lingering_socket() as passed:
        with relay.produce() as peer:
            make_closer_wait(relay, peer, passed)
        with connect(relay.public):
            relay.wait_logged("descriptors that peers have passed are being closed")
            producer.sendall(record())
            assert subscriber.line() == record()
        assert relay.stop() == 0


def test_old_kernel_records_before_descriptors_are_relayed(old_kernel: RunningRelay) -> None:
    with old_kernel.subscribe() as subscriber, old_kernel.produce() as producer:
        producer.sendall(record(number=1))
        assert subscriber.line() == record(number=1)
        with lingering_socket() as passed:
            pass_plainly(producer, passed)
            assert_ended(producer)
    old_kernel.wait_status(producers=0, records_received=1)


def test_old_kernel_refused_connection_is_closed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunningRelay, "program", ("-c", PROGRAMS["compiled"]))
    relay = RunningRelay(directory, "--relayd-max_connections_per_user", "1")
    try:
        relay.wait_ready()
        with (
            relay.produce() as producer,
            relay.subscribe() as subscriber,
            lingering_socket() as passed,
        ):
            relay.process.send_signal(signal.SIGSTOP)
            with connect(relay.ingest) as refused:
                pass_plainly(refused, passed)
                relay.process.send_signal(signal.SIGCONT)
                assert_ended(refused)
            producer.sendall(record())
            assert subscriber.line() == record()
        relay.wait_logged(LOGGED)
    finally:
        relay.close()


def test_old_kernel_stop_does_not_wait(old_kernel: RunningRelay) -> None:
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(connect(getattr(old_kernel, each))) for each in SOCKETS]
        old_kernel.wait_status(producers=1, subscribers=1)
        old_kernel.process.send_signal(signal.SIGSTOP)
        # Connections that are not accepted yet hold some as well.
        peers += [stack.enter_context(connect(getattr(old_kernel, each))) for each in SOCKETS]
        for peer in peers:
            pass_plainly(peer, stack.enter_context(lingering_socket()))
        old_kernel.process.send_signal(signal.SIGTERM)
        old_kernel.process.send_signal(signal.SIGCONT)
        assert old_kernel.process.wait(TIMEOUT) == 0


def test_old_kernel_stop_does_not_wait_for_unstored_peers(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is full, and the relay does not read a subscriber whose request waits."""
    monkeypatch.setattr(RunningRelay, "program", ("-c", PROGRAMS["compiled"]))
    with managed_relay(directory, fdstore_max=1) as relay, connect(relay.public) as peer:
        relay.wait_status(subscribers=1)
        with relay.produce() as producer, lingering_socket() as passed:
            producer.sendall(record(payload="x" * 1000) * 1000)
            peer.sendall(b'{"filter": {}}\n')
            wait_until(lambda: not unread(peer), "the request is read")
            pass_socket(peer, b" ", passed)
            assert relay.stop() == 0


def test_descriptors_passed_before_the_start_are_closed(directory: Path) -> None:
    with managed_relay(directory) as relay, contextlib.ExitStack() as stack:
        assert relay.stop() == 0
        for path in (relay.public, relay.ingest):
            permit_passing(relay.listeners["public" if path == relay.public else "ingest"].fileno())
            pass_plainly(
                stack.enter_context(connect(path)), stack.enter_context(lingering_socket())
            )
        relay.start()
        assert_relays(relay)
        relay.wait_logged(LOGGED)


@needs_kernel
@pytest.mark.parametrize("end", [ManagedRelay.restart, ManagedRelay.kill])
def test_descriptors_passed_to_an_older_relay_are_closed(
    directory: Path, end: Callable[[ManagedRelay], None]
) -> None:
    """Its connections, which did not refuse them, are in the descriptor store."""
    with managed_relay(directory) as relay, contextlib.ExitStack() as stack:
        subscriber = stack.enter_context(Subscriber(relay.public))
        peers = [subscriber.socket, stack.enter_context(connect(relay.ingest))]
        relay.wait_status(producers=1, subscribers=1)
        wait_until(lambda: len(relay.stored) == len(peers), "both are stored")
        relay.process.send_signal(signal.SIGSTOP)
        for fd, *_ in relay.stored.values():
            permit_passing(fd)
        for peer in peers:
            pass_plainly(peer, stack.enter_context(lingering_socket()))
        relay.process.kill()
        relay.process.wait()
        relay.start()
        end(relay)
        assert_relays(relay)
        for peer in peers:
            assert_ended(peer)
        relay.wait_stored()


@needs_kernel
def test_restored_connection_refuses_descriptors(directory: Path) -> None:
    with managed_relay(directory) as relay, connect(relay.ingest) as producer:
        relay.wait_status(producers=1)
        wait_until(lambda: relay.stored, "it is stored")
        for fd, *_ in relay.stored.values():
            permit_passing(fd)
        relay.restart()
        with lingering_socket() as passed, pytest.raises(PermissionError):
            pass_socket(producer, b" ", passed)
