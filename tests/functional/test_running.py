# SPDX-License-Identifier: Apache-2.0
"""Signals, the background, the log, and what the service manager hears."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from support.records import numbered_record, record
from support.relay import RunningRelay, connect, run_daemon, running_relay
from support.waiting import TIMEOUT, read_pid, wait_until


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
    """Both in the ring, for a subscriber that is behind, and still in a producer's socket."""
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
            assert refused.recv(1) == b""
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


def test_daemonize_runs_in_the_background_with_a_pidfile(directory: Path) -> None:
    pidfile, log = directory / "pid", directory / "relay.log"
    command = [
        *(sys.executable, "-m", "notif_relayd", "--runtime-dir", os.fspath(directory)),
        *("--daemonize", "--pidfile", os.fspath(pidfile), "--log-file", os.fspath(log)),
    ]
    subprocess.run(command, check=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
    pid = read_pid(pidfile)
    try:
        with connect(directory / "notifications.sock") as subscriber:
            with connect(directory / "control.sock") as control:
                control.sendall(b'{"method": "subscribers"}\n')
                assert json.loads(control.recv(4096))["result"]
            with connect(directory / "ingest.sock") as producer:
                producer.sendall(record())
            assert subscriber.recv(4096) == record()
        assert os.getsid(pid) != os.getsid(0)
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
        assert {Path(f"/proc/{pid}/fd/{n}").readlink() for n in range(3)} == {Path("/dev/null")}
        again = subprocess.run(command, check=False, capture_output=True, text=True)
        assert again.returncode == 1
        assert f"pid {pid} " in again.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pidfile.exists(), "the pidfile is removed")
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon has ended")
    assert not list(directory.glob("*.sock"))
    assert "stopped" in log.read_text()


@pytest.mark.parametrize("left", ["4194304\n", ""])
def test_stale_pidfile_is_replaced(directory: Path, left: str) -> None:
    pidfile = directory / "pid"
    pidfile.write_text(left)
    command = [
        *(sys.executable, "-m", "notif_relayd", "--runtime-dir", os.fspath(directory)),
        *("--daemonize", "--pidfile", os.fspath(pidfile)),
    ]
    subprocess.run(command, check=True, timeout=TIMEOUT)
    pid = read_pid(pidfile, left)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the daemon has ended")


def test_file_that_is_not_a_pidfile_is_left_alone(directory: Path) -> None:
    precious = directory / "precious"
    precious.write_text("root:x:0:0\n")
    arguments = ("--runtime-dir", str(directory), "--daemonize", "--pidfile", str(precious))
    result = run_daemon(*arguments)
    assert result.returncode == 1
    assert str(precious) in result.stderr
    assert precious.read_text() == "root:x:0:0\n"


def test_relay_recovers_from_descriptor_exhaustion(directory: Path) -> None:
    """Those connected are served; the next ones wait in the kernel until there is room."""
    with (
        running_relay(directory) as relay,
        relay.subscribe() as subscriber,
        relay.produce() as producer,
        contextlib.ExitStack() as stack,
    ):
        pid = relay.process.pid
        used = len(os.listdir(f"/proc/{pid}/fd"))
        subprocess.run(["prlimit", f"--pid={pid}", f"--nofile={used + 10}"], check=True)
        many = [stack.enter_context(connect(relay.public)) for _ in range(30)]
        message = "no connection can be accepted"
        wait_until(lambda: message in relay.log.read_text(), "it is logged")
        producer.sendall(record())
        assert subscriber.line() == record()
        for each in many[:-1]:
            each.close()
        # The last in the queue is taken when there is room again.
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
    wait_until(lambda: len(os.listdir(descriptors)) <= before, "they are forgotten")
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
