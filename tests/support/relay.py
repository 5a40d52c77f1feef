# SPDX-License-Identifier: Apache-2.0
"""A relay for tests: the daemon in a process of its own, and plain sockets to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.descriptors import with_usual_limit
from support.waiting import TIMEOUT, kill, wait_until


def connect(path: Path | str) -> socket.socket:
    """Return a connection to a Unix socket, with TIMEOUT for each operation."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(TIMEOUT)
    sock.connect(os.fspath(path))
    return sock


class Subscriber:
    """A connection to the public socket, read line by line."""

    def __init__(self, path: Path | str) -> None:
        self.socket = connect(path)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()
        self.socket.close()

    def line(self) -> bytes:
        return self._stream.readline()

    def lines(self, number: int) -> list[bytes]:
        return [self._stream.readline() for _ in range(number)]

    def notification(self) -> dict[str, Any]:
        notification = json.loads(self.line())
        assert isinstance(notification, dict)
        return notification

    def read_to_end(self) -> bytes:
        """Return all data up to the end of the connection."""
        return self._stream.read()


class Relay:
    """A relay process, reached through the sockets and the log in its runtime directory."""

    process: subprocess.Popen[bytes]

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.public = directory / "notifications.sock"
        self.ingest = directory / "ingest.sock"
        self.control = directory / "control.sock"
        self.log = directory / "relay.log"

    def subscribe(self) -> Subscriber:
        """Return a subscriber that receives every record that is sent after this call."""
        before = self.status()["subscribers"]
        subscriber = Subscriber(self.public)
        wait_until(
            lambda: self.status()["subscribers"] > before, "the relay has accepted the subscriber"
        )
        return subscriber

    def produce(self) -> socket.socket:
        return connect(self.ingest)

    def request(self, method: str, **parameters: object) -> Any:
        """Send a request to the control socket, and return the result, which is no error."""
        answer = self.request_raw({"method": method, **parameters})
        assert "error" not in answer, answer
        return answer["result"]

    def request_raw(self, request: object) -> dict[str, Any]:
        """Send any JSON value to the control socket, and return the answer."""
        with connect(self.control) as sock, sock.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline())
        assert isinstance(answer, dict)
        return answer

    def status(self) -> dict[str, Any]:
        status = self.request("status")
        assert isinstance(status, dict)
        return status

    def wait_status(self, **expected: object) -> None:
        """Wait until the status has these values."""
        wait_until(
            lambda: expected.items() <= self.status().items(),
            f"status {expected}; it is {self.status()}",
        )

    def wait_subscribed(self) -> None:
        """Wait until a subscriber has the answer to its request; from then on it misses nothing."""
        wait_until(
            lambda: any(each["bytes"] for each in self.request("subscribers")), "a subscription"
        )

    def wait_logged(self, text: str) -> None:
        """Wait until the log, which a thread of the relay writes, contains `text`."""
        wait_until(lambda: text in self.log.read_text(), f"{text!r} is logged")

    def peak_memory(self) -> int:
        """Return the maximum resident set size of the relay so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (each for each in status.splitlines() if each.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def stop(self) -> int:
        """Terminate the relay with SIGTERM, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT)


class RunningRelay(Relay):
    """A relay whose runtime directory is `directory`; ready after `wait_ready`."""

    program: tuple[str, ...] = ("-m", "notif_relayd")
    """Arguments of the Python interpreter that run the daemon."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        super().__init__(directory)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(os.fspath(directory / "notify.sock"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                with_usual_limit(
                    *(sys.executable, *self.program),
                    *("--runtime-dir", os.fspath(directory)),
                    *arguments,
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": os.fspath(directory / "notify.sock")},
            )

    def wait_ready(self) -> None:
        self.wait_notified("READY=1")

    def wait_notified(self, text: str, timeout: float = TIMEOUT) -> str:
        """Wait for a message to the service manager that contains `text`, and return it."""
        deadline = time.monotonic() + timeout
        while (remaining := deadline - time.monotonic()) > 0:
            self._notify.settimeout(remaining)
            message = self._notify.recv(4096).decode()
            if text in message:
                return message
        raise TimeoutError(f"no {text} from the relay within {timeout} s")

    def close(self) -> None:
        """Kill the relay if it still runs, and copy its log to standard error."""
        kill(self.process)
        self._notify.close()
        sys.stderr.write(self.log.read_text())


@contextlib.contextmanager
def running_relay(directory: Path, *arguments: str) -> Iterator[RunningRelay]:
    """Run a relay that is ready, until the end of the block."""
    relay = RunningRelay(directory, *arguments)
    try:
        relay.wait_ready()
        yield relay
    finally:
        relay.close()


def request_filter(subscriber: Subscriber, **patterns: list[str]) -> None:
    """Send a request for a filter without waiting for the answer."""
    subscriber.socket.sendall(json.dumps({"filter": patterns}).encode() + b"\n")


def subscribe_filtered(relay: RunningRelay, **patterns: list[str]) -> Subscriber:
    """Return a subscriber whose filter is applied."""
    subscriber = relay.subscribe()
    request_filter(subscriber, **patterns)
    assert subscriber.notification()["event_type"] == "notif_relayd.subscribed"
    return subscriber


@contextlib.contextmanager
def next_relay(directory: Path, *arguments: str) -> Iterator[RunningRelay]:
    """Run another relay in the directory of a relay that has ended."""
    (directory / "notify.sock").unlink()
    with running_relay(directory, *arguments) as relay:
        yield relay


def quiet_environment() -> dict[str, str]:
    """Return an environment in which Python programs print no warnings.

    With eventlet, which only tests install, oslo.utils warns about it on Python 3.10.
    """
    return {**os.environ, "PYTHONWARNINGS": "ignore"}


def run_daemon(*arguments: str, timeout: float = TIMEOUT) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is expected to end by itself, and return its status and output."""
    return subprocess.run(
        [sys.executable, "-m", "notif_relayd", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=quiet_environment(),
    )
