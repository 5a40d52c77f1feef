# SPDX-License-Identifier: Apache-2.0
"""Signals, notifications to the service manager, control requests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from support.records import numbered_record, record
from support.relay import RunningRelay, connect, running_relay
from support.waiting import TIMEOUT, wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_and_removes_its_sockets(
    relay: RunningRelay, number: signal.Signals
) -> None:
    with relay.subscribe() as subscriber, relay.produce():
        relay.process.send_signal(number)
        assert relay.process.wait(TIMEOUT) == 0
        assert subscriber.read_to_end() == b""
    assert sorted(each.name for each in relay.directory.iterdir()) == ["notify.sock", "relay.log"]


def test_records_sent_before_the_stop_arrive(relay: RunningRelay) -> None:
    """Records may be in the ring, for a slow subscriber, or still in a producer's socket."""
    number = 5000
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for each in range(number):
            producer.sendall(numbered_record(each))
        relay.wait_status(records_received=number)
        relay.process.send_signal(signal.SIGSTOP)
        producer.sendall(numbered_record(number))
        relay.process.send_signal(signal.SIGTERM)
        relay.process.send_signal(signal.SIGCONT)
        lines = subscriber.read_to_end().splitlines(keepends=True)
        assert lines == [numbered_record(each) for each in range(number + 1)]
        assert relay.process.wait(TIMEOUT) == 0


def test_stalled_subscriber_does_not_prevent_the_stop(
    relay: RunningRelay,
) -> None:
    with relay.subscribe(), relay.produce() as producer:
        producer.sendall(numbered_record(1, 500_000) * 4)
        relay.wait_status(records_received=4)
        assert relay.stop() == 0


def test_sighup_reloads_mutable_options(directory: Path) -> None:
    config = directory / "relayd.conf"
    config.write_text("[relayd]\nring_size = 2000000\n")
    with (
        running_relay(directory, "--config-file", str(config)) as relay,
        relay.subscribe() as subscriber,
    ):
        assert relay.status()["ring_limit_bytes"] == 2_000_000
        config.write_text("[relayd]\nring_size = 3000000\nmax_producers = 1\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_status(ring_limit_bytes=3_000_000)
        with relay.produce() as producer, connect(relay.ingest) as refused:
            assert b"max_producers = 1" in refused.recv(1024)
            producer.sendall(record())
            assert subscriber.line() == record()


@pytest.mark.parametrize(
    "text", ["[relayd]\nring_size = 5\n", "[relayd\n", "[relayd]\nring_size=x"]
)
def test_invalid_configuration_is_not_reloaded(directory: Path, text: str) -> None:
    config = directory / "relayd.conf"
    config.write_text("[relayd]\nring_size = 2000000\n")
    with running_relay(directory, "--config-file", str(config)) as relay:
        config.write_text(text)
        relay.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "ERROR" in relay.log.read_text(), "the error is logged")
        assert relay.status()["ring_limit_bytes"] == 2_000_000
        config.write_text("[relayd]\nring_size = 4000000\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_status(ring_limit_bytes=4_000_000)


def test_service_manager_gets_the_status(directory: Path) -> None:
    relay = RunningRelay(directory)
    try:
        message = relay.wait_notified("READY=1")
        assert "STATUS=0 producers, 0 subscribers, 0 records/s" in message
        with relay.subscribe(), relay.produce() as producer:
            producer.sendall(record() * 100)
            relay.wait_notified("STATUS=1 producers, 1 subscribers, ")
        relay.wait_notified("STATUS=0 producers, 0 subscribers, 0 records/s")
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_notified("STOPPING=1")
    finally:
        relay.close()


def test_watchdog_is_notified_while_the_loop_runs(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    with running_relay(directory) as relay:
        for _ in range(3):
            relay.wait_notified("WATCHDOG=1")


def test_relay_recovers_from_descriptor_exhaustion(directory: Path) -> None:
    """Connected peers are served; new ones wait in the backlog for a free descriptor."""
    with (
        running_relay(directory) as relay,
        relay.subscribe() as subscriber,
        relay.produce() as producer,
        contextlib.ExitStack() as stack,
    ):
        pid = relay.process.pid
        open_descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={open_descriptors + 10}"], check=True)
        many = [stack.enter_context(connect(relay.public)) for _ in range(30)]
        message = "cannot accept connections"
        wait_until(lambda: message in relay.log.read_text(), "the exhaustion is logged")
        producer.sendall(record())
        assert subscriber.line() == record()
        for each in many[:-1]:
            each.close()
        # The last connection in the backlog is accepted once descriptors are free.
        relay.wait_status(subscribers=2)
        producer.sendall(record())
        assert subscriber.line() == record()
        assert many[-1].recv(4096).endswith(record())


def test_invalid_control_request_is_an_error(
    relay: RunningRelay,
) -> None:
    for request in (b"\n", b"[]\n", b"\xff\n", b'{"method": 5}\n', b'{"method": "stop"}\n',
                    b'{"method": "status", "x": 1}\n', b"[" * 4000 + b"\n"):  # fmt: skip
        with connect(relay.control) as control:
            control.sendall(request * 2 + b'{"method": "status"}\n')
            stream = control.makefile("rb")
            answers = [json.loads(stream.readline()) for _ in range(3)]
            stream.close()
            assert [list(answer) for answer in answers] == [["error"], ["error"], ["result"]]
            assert all(answer["error"] for answer in answers[:2])
    with connect(relay.control) as control:
        control.sendall(b"x" * 5000)
        with contextlib.suppress(ConnectionResetError):
            assert control.recv(1) == b""
    descriptors = f"/proc/{relay.process.pid}/fd"
    before = len(os.listdir(descriptors))
    many = [connect(relay.control) for _ in range(32)]
    with connect(relay.control) as one_too_many:
        assert one_too_many.recv(1) == b""
    for each in many:
        each.close()
    wait_until(lambda: len(os.listdir(descriptors)) <= before, "the connections are closed")
    assert relay.status()["subscribers"] == 0


def test_unread_control_answers_do_not_block_the_relay(
    relay: RunningRelay,
) -> None:
    with connect(relay.control) as control, relay.subscribe() as subscriber:
        control.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                control.send(b'{"method": "status"}\n')
        with relay.produce() as producer:
            producer.sendall(record())
            assert subscriber.line() == record()
        assert relay.status()["records_received"] == 1


def test_records_of_unaccepted_producers_arrive_in_order(
    relay: RunningRelay,
) -> None:
    with relay.subscribe() as subscriber:
        relay.process.send_signal(signal.SIGSTOP)
        producers: list[socket.socket] = [relay.produce() for _ in range(20)]
        for number, producer in enumerate(producers):
            producer.sendall(record(number=number, part=1) + record(number=number, part=2))
            producer.close()
        relay.process.send_signal(signal.SIGCONT)
        got = [json.loads(line) for line in subscriber.lines(40)]
        for number in range(20):
            assert [each["part"] for each in got if each["number"] == number] == [1, 2]
