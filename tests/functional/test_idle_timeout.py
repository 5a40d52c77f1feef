# SPDX-License-Identifier: Apache-2.0
"""An idle relay does nothing; with idle_timeout and socket activation it exits."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayd.systemd.environment import booted
from support.records import record
from support.relay import RunningRelay, Subscriber, connect, run_daemon, running_relay
from support.relayctl import needs_root
from support.service_manager import managed_relay
from support.waiting import TIMEOUT, wait_until

FILTER = b'{"filter": {"priority": ["ERROR"]}}\n'


def test_relay_without_connections_exits(directory: Path) -> None:
    with managed_relay(directory, "--relayd-idle_timeout", "0.1") as relay:
        assert relay.process.wait(TIMEOUT) == 0
        assert relay.has_notified("STOPPING=1")
        relay.wait_logged("stopped")


@pytest.mark.parametrize("socket_name", ["public", "ingest", "control"])
def test_one_connection_prevents_the_exit(directory: Path, socket_name: str) -> None:
    with managed_relay(directory, "--relayd-idle_timeout", "0.2") as relay:
        with connect(getattr(relay, socket_name)), pytest.raises(subprocess.TimeoutExpired):
            relay.process.wait(1)
        assert relay.process.wait(TIMEOUT) == 0


def test_every_connection_restarts_the_timeout(directory: Path) -> None:
    with managed_relay(directory, "--relayd-idle_timeout", "1.5") as relay:
        started = time.monotonic()
        while time.monotonic() < started + 3:
            relay.status()
        assert relay.process.poll() is None
        assert relay.process.wait(TIMEOUT) == 0


def test_timeout_of_zero_disables_the_exit(directory: Path) -> None:
    with (
        managed_relay(directory, "--relayd-idle_timeout", "0") as relay,
        pytest.raises(subprocess.TimeoutExpired),
    ):
        relay.process.wait(1)


@contextlib.contextmanager
def reloaded(directory: Path, before: float, after: float) -> Iterator[RunningRelay]:
    """Run a relay that has served a connection and then reloaded another idle_timeout."""
    options = directory / "relayd.conf"
    options.write_text(f"[relayd]\nidle_timeout = {before}\n")
    with managed_relay(directory, "--config-file", str(options)) as relay:
        descriptors = Path(f"/proc/{relay.process.pid}/fd")
        number = len(os.listdir(descriptors))
        relay.status()
        wait_until(lambda: len(os.listdir(descriptors)) == number, "the connection is closed")
        options.write_text(f"[relayd]\nidle_timeout = {after}\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_logged("configuration reloaded")
        yield relay


def test_reload_changes_the_timeout(directory: Path) -> None:
    with reloaded(directory, before=0, after=0.1) as relay:
        assert relay.process.wait(TIMEOUT) == 0


def test_reload_may_extend_a_running_timeout(directory: Path) -> None:
    with reloaded(directory, before=2, after=4) as relay:
        with pytest.raises(subprocess.TimeoutExpired):
            relay.process.wait(2.5)
        assert relay.process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("value", ["-1", "soon", "nan", "inf"])
def test_invalid_timeout_is_an_error(directory: Path, value: str) -> None:
    done = run_daemon("--runtime-dir", str(directory), "--relayd-idle_timeout", value)
    assert done.returncode == 1
    assert re.fullmatch(r"notif-relayd: [^\n]*idle_timeout[^\n]*\n", done.stderr)


def test_timeout_without_socket_activation_is_an_error(directory: Path) -> None:
    options = ("--runtime-dir", str(directory), "--relayd-idle_timeout", "60")
    for check in [[], ["--daemonize"], ["--check"]]:
        done = run_daemon(*options, *check)
        if check == ["--check"] and booted():  # The check is for the units then.
            assert (done.returncode, done.stdout) == (0, "ok\n")
            continue
        assert done.returncode == 1
        assert "idle_timeout: systemd does not hold the sockets" in done.stderr
        assert list(directory.iterdir()) == []


def test_no_connection_is_lost_around_the_exit(directory: Path) -> None:
    """Clients connect at random times before, during and after the exit."""
    clients, rounds, timeout = 70, 30, 0.05
    served: list[int] = []
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    with managed_relay(directory, "--relayd-idle_timeout", str(timeout)) as relay:

        def connect_at(delay: float) -> None:
            time.sleep(delay)
            with Subscriber(relay.public) as subscriber:
                subscriber.socket.sendall(FILTER)
                served.append(b"notif_relayd.subscribed" in subscriber.line())

        ends = 0
        for _ in range(rounds):
            first = timeout + chance.uniform(-0.02, 0.04)
            delays = [first + chance.uniform(0, 0.01) for _ in range(clients)]
            threads = [threading.Thread(target=connect_at, args=(each,)) for each in delays]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                if relay.process.poll() is not None:
                    ends += 1
                    relay.start_on_demand()
                threads[0].join(0.001)
            for thread in threads:
                thread.join()
    assert served == [True] * (clients * rounds), f"seed {seed}"
    assert rounds / 10 < ends < rounds, "the relay exited too rarely or in every round"


def test_record_sent_during_the_exit_arrives(directory: Path) -> None:
    with managed_relay(directory, "--relayd-idle_timeout", "0.1") as relay:
        assert relay.process.wait(TIMEOUT) == 0
        with Subscriber(relay.public) as subscriber, connect(relay.ingest) as producer:
            producer.sendall(record())
            relay.start_on_demand()
            assert subscriber.line() == record()


@needs_root
def test_idle_relay_is_not_woken(directory: Path) -> None:
    calls = directory / "calls"
    with running_relay(directory) as relay, contextlib.ExitStack() as stack:
        for _ in range(25):
            stack.enter_context(connect(relay.public))
            stack.enter_context(connect(relay.ingest))
        relay.wait_status(subscribers=25, producers=25)
        wait_until_quiet(relay)
        pid = str(relay.process.pid)
        subprocess.run(
            ["timeout", "--signal=INT", "5", "strace", "-c", "-f", "-o", calls, "-p", pid],
            check=False,
            capture_output=True,
        )
    total = [line.split() for line in calls.read_text().splitlines() if line.endswith(" total")]
    # strace does not count the call that lasted for the whole time.
    assert not total or int(total[0][3]) <= 1, calls.read_text()


def wait_until_quiet(relay: RunningRelay) -> None:
    """Wait for the second status notification: it follows when the first has not changed."""
    for _ in range(2):
        relay.wait_notified("25 producers, 25 subscribers, 0 records/s")
