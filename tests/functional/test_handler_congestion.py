# SPDX-License-Identifier: Apache-2.0
"""A full private socket: the sender waits once, drops, reports the number, tears no line."""

from __future__ import annotations

import json
import resource
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from notif_relay.sender import Sender
from support.private_socket import PrivateSocket, ProducerConnection, kernel_capacity
from support.records import check_gaps, numbered_text
from support.waiting import TIMEOUT, wait_until

MAX_SIZE = 1048576


class Clock:
    """A clock for the sender.

    It stands still, so a wait ends only when the socket takes data. If `hurry` is set, each reading
    exceeds the maximum wait, so the sender never waits.

    Attributes:
        interrupt: called once, at the next reading.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.hurry = False
        self.interrupt: Callable[[], object] | None = None

    def __call__(self) -> float:
        if self.hurry:
            self.now += 2 * TIMEOUT
        if self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            interrupt()
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sender(private: PrivateSocket, clock: Clock) -> Iterator[Sender]:
    """Return a sender that does not wait for a full socket."""
    clock.hurry = True
    sender = Sender(private.path, max_wait=TIMEOUT, max_record_size=1 << 24, clock=clock)
    yield sender
    clock.hurry = True
    sender.close()


def fill(sender: Sender) -> int:
    """Send small records until one is dropped; return its number."""
    number = 0
    while not sender.dropped:
        sender.send(numbered_text(number, 4096))
        number += 1
    return number - 1


def send_partial_record(private: PrivateSocket, sender: Sender) -> int:
    """Send a record of which the socket takes only a part; return its number."""
    size = kernel_capacity(private) * 3 // 2
    sender.send(numbered_text(0))
    sender.send(numbered_text(1, size))
    assert (sender.sent, sender.dropped) == (1, 0)
    return 1


def test_gap_record_precedes_the_next_record(private: PrivateSocket, sender: Sender) -> None:
    first = fill(sender)
    for number in range(first + 1, first + 10):
        sender.send(numbered_text(number))
    assert (sender.sent, sender.dropped) == (first, 10)
    with private.accept() as incoming:
        assert check_gaps(incoming.read_available().splitlines(keepends=True)) == (
            first,
            first,
            False,
        )
        sender.send(numbered_text(first + 10))
        sender.send(numbered_text(first + 11))
        gap = json.loads(incoming.line())
        assert [json.loads(incoming.line())["number"] for _ in "ab"] == [first + 10, first + 11]
    assert (gap["event_type"], gap["priority"]) == ("notif_relayd.gap", "WARN")
    assert gap["payload"] == {"dropped": 10, "reason": "producer_congested"}
    assert (sender.sent, sender.dropped) == (first + 2, 10)


def test_congested_socket_is_waited_for_once(private: PrivateSocket) -> None:
    sender = Sender(private.path, max_wait=0.001)
    fill(sender)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    for _ in range(1000):
        sender.send("{}")
    waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
    sender.close()
    assert sender.dropped == 1001
    # Each wait is one voluntary context switch; other causes are rare.
    assert waits < 100


def test_partly_drained_socket_is_not_waited_for_again(
    private: PrivateSocket,
) -> None:
    size = 1 << 24
    sender = Sender(private.path, max_wait=0.1, max_record_size=size)
    sender.send("x" * (size - 1))
    with private.accept() as incoming:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        for _ in range(5):
            assert incoming.read_available()
            sender.send("{}")
        waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        assert (sender.sent, sender.dropped) == (0, 5)
    assert waits < 3
    sender.close()


def test_socket_is_non_blocking_after_a_successful_wait(
    private: PrivateSocket, clock: Clock, sender: Sender
) -> None:
    begun = send_partial_record(private, sender)
    clock.hurry = False
    about_to_wait = threading.Event()
    # The sender reads the clock for the deadline, and again when the socket is full.
    clock.interrupt = lambda: setattr(clock, "interrupt", about_to_wait.set)
    thread = threading.Thread(target=sender.flush)
    thread.start()
    assert about_to_wait.wait(TIMEOUT)
    with private.accept() as incoming:
        for _ in range(begun + 1):
            incoming.line()
        thread.join(TIMEOUT)
        clock.hurry = True
        fill(sender)
        assert sender.connects == 1


def test_congestion_lasts_until_most_of_the_buffer_is_free(
    private: PrivateSocket, sender: Sender
) -> None:
    records = fill(sender)
    read = 0
    with private.accept() as incoming:
        while sender.sent == records:
            read += len(incoming.read_available(4 * 4096))
            sender.send("{}")
    assert 0.6 * records < read / 4096 < 0.95 * records


def test_record_is_sent_if_the_socket_is_read_in_time(
    private: PrivateSocket, clock: Clock, sender: Sender
) -> None:
    clock.hurry = False

    def send() -> None:
        for number in range(20):
            sender.send(numbered_text(number, MAX_SIZE))

    thread = threading.Thread(target=send)
    thread.start()
    with private.accept() as incoming:
        assert check_gaps(incoming.line() for _ in range(20)) == (20, 20, False)
    thread.join(TIMEOUT)
    assert (sender.sent, sender.dropped) == (20, 0)


def test_partial_record_is_finished_before_other_records(
    private: PrivateSocket, sender: Sender
) -> None:
    begun = send_partial_record(private, sender)
    sender.send(numbered_text(begun + 1))
    assert (sender.sent, sender.dropped) == (begun, 1)
    with private.accept() as incoming:
        data = incoming.read_available()
        assert not data.endswith(b"\n")
        sender.send(numbered_text(begun + 2))
        data += incoming.read_available()
    assert (sender.sent, sender.dropped) == (begun + 2, 1)
    lines = data.splitlines(keepends=True)
    assert check_gaps(lines) == (begun + 3, begun + 2, False)


def test_flush_succeeds_if_the_socket_is_read_in_time(
    private: PrivateSocket, clock: Clock, sender: Sender
) -> None:
    begun = send_partial_record(private, sender)
    clock.hurry = False
    thread = threading.Thread(target=sender.flush)
    thread.start()
    with private.accept() as incoming:
        lines = [incoming.line() for _ in range(begun + 1)]
    thread.join(TIMEOUT)
    assert check_gaps(lines) == (begun + 1, begun + 1, False)
    assert (sender.sent, sender.dropped) == (begun + 1, 0)


def test_close_sends_the_remainder_and_the_gap_record(
    private: PrivateSocket, sender: Sender
) -> None:
    begun = send_partial_record(private, sender)
    sender.send("{}")
    with private.accept() as incoming:
        data = incoming.read_available()
        sender.close()
        lines = (data + incoming.read_to_end()).splitlines(keepends=True)
    assert check_gaps(lines) == (begun + 2, begun + 1, False)
    assert json.loads(lines[-1])["payload"] == {"dropped": 1, "reason": "producer_congested"}
    assert (sender.sent, sender.dropped) == (begun + 1, 1)


def test_close_drops_the_partial_record_if_the_socket_is_full(
    private: PrivateSocket, clock: Clock, sender: Sender
) -> None:
    begun = send_partial_record(private, sender)
    sender.close()
    assert (sender.sent, sender.dropped, sender.connected) == (begun, 1, False)
    with private.accept() as incoming:
        torn = incoming.read_to_end()
    assert torn.count(b"\n") == begun
    # No part of the record is sent on the next connection.
    sender.send(numbered_text(begun + 1))
    with private.accept() as incoming:
        gap = json.loads(incoming.line())
        assert gap["payload"] == {"dropped": 1, "reason": "relay_restarted"}
        assert json.loads(incoming.line())["number"] == begun + 1


@pytest.fixture
def partial_gap_record(private: PrivateSocket) -> Iterator[tuple[Sender, ProducerConnection]]:
    """Return a sender with a partly sent gap record, and its connection.

    The kernel takes the same number of bytes of every large record. A record of twice that
    length less 100 bytes therefore leaves a remainder that fits, and room for 100 bytes of the
    gap record.
    """
    capacity = kernel_capacity(private)
    now = 0.0
    sender = Sender(private.path, max_wait=0, max_record_size=1 << 24, clock=lambda: now)
    sender.send("x" * (2 * capacity - 101))
    sender.send("missed")
    with private.accept() as incoming:
        assert incoming.read_available() == b"x" * capacity
        sender.send("missed too")
        assert incoming.line() == b"x" * (capacity - 101) + b"\n"
        assert (sender.sent, sender.dropped) == (1, 2)
        now = 10.0
        yield sender, incoming
    sender.close()


def test_partial_gap_record_is_finished_before_other_records(
    partial_gap_record: tuple[Sender, ProducerConnection],
) -> None:
    sender, incoming = partial_gap_record
    sender.send("next")
    gaps = [json.loads(incoming.line())["payload"] for _ in range(2)]
    assert gaps == [{"dropped": 1, "reason": "producer_congested"}] * 2
    assert incoming.line() == b"next\n"
    assert (sender.sent, sender.dropped) == (2, 2)


def test_count_of_a_partial_gap_record_is_lost_on_disconnect(
    private: PrivateSocket, partial_gap_record: tuple[Sender, ProducerConnection]
) -> None:
    sender, incoming = partial_gap_record
    incoming.read_available()
    incoming.close()
    sender.send("next")
    with private.accept() as incoming_again:
        gap = json.loads(incoming_again.line())
        assert gap["payload"] == {"dropped": None, "reason": "relay_restarted"}
        assert incoming_again.line() == b"next\n"


def test_signal_handler_does_not_write_into_a_record(
    private: PrivateSocket, clock: Clock, sender: Sender
) -> None:
    lines: list[bytes] = []
    number = 0

    def read() -> None:
        with private.accept() as incoming:
            while line := incoming.line():
                lines.append(line)

    def logging_signal_handler(*_: object) -> None:
        sender.send(numbered_text(number + 1))
        sender.flush()
        sender.close()

    def interrupt() -> None:  # the relay has read nothing yet, so the record is partly sent
        thread.start()
        signal.raise_signal(signal.SIGUSR1)

    thread = threading.Thread(target=read)
    old = signal.signal(signal.SIGUSR1, logging_signal_handler)
    try:
        sender.send(numbered_text(number))
        clock.hurry = False
        clock.interrupt = interrupt
        while clock.interrupt is not None:
            number += 1
            sender.send(numbered_text(number, MAX_SIZE))
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert (sender.sent, sender.dropped) == (number + 1, 1)
    wait_until(lambda: len(lines) == number + 1, "all lines are read")
    sender.send(numbered_text(number + 2))
    sender.close()
    thread.join(TIMEOUT)
    assert check_gaps(lines) == (number + 3, number + 2, False)


def test_signal_handler_may_log_at_any_time(private: PrivateSocket) -> None:
    sender = Sender(private.path, max_wait=TIMEOUT)
    stream = bytearray()
    by_handler = by_main = 0

    def read() -> None:
        with private.accept() as incoming:
            stream.extend(incoming.read_to_end())

    def logging_signal_handler(*_: object) -> None:
        nonlocal by_handler
        by_handler += 1
        sender.send("signal handler")

    thread = threading.Thread(target=read)
    thread.start()
    old = signal.signal(signal.SIGALRM, logging_signal_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while by_handler < 200:
            by_main += 1
            sender.send("interrupted")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    sender.close()
    thread.join(TIMEOUT)
    lines = stream.splitlines(keepends=True)
    gaps = [json.loads(line)["payload"]["dropped"] for line in lines if b"notif_relayd.gap" in line]
    assert sender.sent + sender.dropped == by_handler + by_main
    assert sum(gaps) == sender.dropped
    assert len(lines) == sender.sent + len(gaps)


def test_exception_during_send_drops_the_partial_record(
    private: PrivateSocket, clock: Clock, sender: Sender
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    sender.send(numbered_text(0))
    clock.interrupt = interrupt
    number = 0
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 (the kernel determines the interrupted record)
        while True:
            number += 1
            sender.send(numbered_text(number, MAX_SIZE))
    assert (sender.sent, sender.dropped, sender.connected) == (number, 1, False)
    with private.accept() as incoming:
        assert incoming.read_to_end().count(b"\n") == number
    sender.send(numbered_text(number + 1))
    with private.accept() as incoming:
        assert json.loads(incoming.line())["payload"]["dropped"] == 1
        assert json.loads(incoming.line())["number"] == number + 1


def test_exception_during_flush_drops_the_partial_record(
    private: PrivateSocket, clock: Clock, sender: Sender
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    begun = send_partial_record(private, sender)
    clock.interrupt = lambda: setattr(clock, "interrupt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sender.flush()
    assert (sender.sent, sender.dropped, sender.connected) == (begun, 1, False)
    with private.accept() as incoming:
        assert incoming.read_to_end().count(b"\n") == begun
