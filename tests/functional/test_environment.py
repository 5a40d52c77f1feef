# SPDX-License-Identifier: Apache-2.0
"""Invalid environment variables of a service manager cause one error line or a warning."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.records import record
from support.relay import Relay
from support.waiting import TIMEOUT

AS_SYSTEMD = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "notif_relayd", "--runtime-dir", sys.argv[1]])
"""
"""Program that starts the daemon with LISTEN_PID set to its process ID."""


@contextlib.contextmanager
def relay_with(directory: Path, **environment: str) -> Iterator[Relay]:
    """Run a relay with these environment variables; check that it relays and stops cleanly."""
    relay = Relay(directory)
    with relay.log.open("wb") as log:
        relay.process = subprocess.Popen(
            [sys.executable, "-m", "notif_relayd", "--runtime-dir", os.fspath(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **environment},
        )
    try:
        relay.wait_logged("relaying from")
        with relay.subscribe() as subscriber, relay.produce() as producer:
            producer.sendall(record())
            assert subscriber.line() == record()
        yield relay
        if relay.process.poll() is None:
            relay.process.terminate()
        assert relay.process.wait(TIMEOUT) == 0
        assert "Traceback" not in relay.log.read_text()
    finally:
        relay.process.kill()
        relay.process.wait()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WATCHDOG_USEC", "abc"),
        ("WATCHDOG_USEC", "-5"),
        ("WATCHDOG_USEC", "1_000"),
        ("WATCHDOG_USEC", "9" * 5000),
        ("WATCHDOG_USEC", "1"),
        ("NOTIFY_SOCKET", "/" + "x" * 300),
        ("NOTIFY_SOCKET", "vsock:2:1234"),
        ("NOTIFY_SOCKET", "@"),
        ("NOTIFY_SOCKET", "relative"),
    ],
)
def test_invalid_variable_is_logged_and_ignored(directory: Path, name: str, value: str) -> None:
    with relay_with(directory, **{name: value}) as relay:
        relay.wait_logged(f"{name}={value}")


@pytest.mark.parametrize("value", ["18446744073709551615", "0", ""])
def test_disabled_watchdog_is_accepted(directory: Path, value: str) -> None:
    with relay_with(directory, WATCHDOG_USEC=value) as relay:
        assert "WATCHDOG_USEC" not in relay.log.read_text()


def test_short_watchdog_interval_causes_few_wakeups(directory: Path) -> None:
    path = directory / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(os.fspath(path))
        manager.settimeout(TIMEOUT)
        with relay_with(directory, WATCHDOG_USEC="1", NOTIFY_SOCKET=os.fspath(path)) as relay:
            for _ in range(3):
                while manager.recv(4096) != b"WATCHDOG=1":
                    pass
            status = Path(f"/proc/{relay.process.pid}/status")

            def switches() -> int:
                (line,) = (
                    each
                    for each in status.read_text().splitlines()
                    if each.startswith("voluntary_ctxt_switches")
                )
                return int(line.split()[1])

            before = switches()
            for _ in range(3):
                assert b"WATCHDOG=1" in manager.recv(4096)
            # A watchdog interval of 1 µs must not wake the relay thousands of times.
            assert switches() - before < 100


@pytest.mark.parametrize(
    "environment",
    [
        {"LISTEN_FDS": "abc"},
        {"LISTEN_FDS": "-1"},
        {"LISTEN_FDS": "3"},
        {"LISTEN_FDS": "99999999999999999999"},
        {"LISTEN_FDS": "0", "LISTEN_FDNAMES": "a:b:c"},
    ],
)
def test_invalid_passed_descriptors_are_a_one_line_error(
    directory: Path, environment: dict[str, str]
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", AS_SYSTEMD, os.fspath(directory)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "LISTEN_FDS=" in result.stderr
    assert "only systemd may set these variables" in result.stderr


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_runtime_directory_may_be_invalid_utf8(directory: Path, locale: str) -> None:
    path = os.fsencode(directory) + b"/\xff\xfe"
    os.mkdir(path)
    with relay_with(Path(os.fsdecode(path)), LC_ALL=locale, LANG=locale) as relay:
        assert relay.status()["public_socket"].endswith("/\\udcff\\udcfe/notifications.sock")
        assert "\\udcff" in relay.log.read_text()


def test_successor_keeps_its_socket_files(directory: Path) -> None:
    with contextlib.ExitStack() as second_ends, relay_with(directory) as first:
        for path in (first.public, first.ingest, first.control):
            path.unlink()
        second = second_ends.enter_context(relay_with(directory))
        assert first.stop() == 0
        assert second.status()["pid"] == second.process.pid
        assert second.stop() == 0
        assert not list(directory.glob("*.sock"))
