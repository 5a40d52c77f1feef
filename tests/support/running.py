# SPDX-License-Identifier: Apache-2.0
"""A real relay for tests: the daemon as a process of its own, and plain sockets to it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from support.descriptors import with_usual_limit

DEADLINE = 30.0
"""Seconds after which a test gives up waiting: far more than anything takes."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something that no descriptor announces."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE} s: {what}")
        time.sleep(0.005)


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process, which may be stopped or have ended, and wait until it is gone."""
    process.kill()
    process.wait(DEADLINE)


def wait_readable(*files: socket.socket | IO[str]) -> None:
    """Wait until one of these can be read from. Unlike select, poll takes any descriptor."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    assert poll.poll(DEADLINE * 1000), f"nothing to read within {DEADLINE} s"


def first_line(process: subprocess.Popen[str]) -> str:
    """Return the first line that a process writes to its standard output, within DEADLINE."""
    assert process.stdout is not None
    wait_readable(process.stdout)
    return process.stdout.readline()


def pid_in(pidfile: Path, left: str = "") -> int:
    """What a daemon in the background writes there, perhaps after its command has ended.

    The file is there before there is anything in it, or with what a dead daemon has left.
    """
    wait_until(lambda: pidfile.exists() and pidfile.read_text() not in ("", left), "a pidfile")
    return int(pidfile.read_text())


def connect(path: Path | str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(DEADLINE)
    sock.connect(os.fspath(path))
    return sock


def record(event_type: str = "test.event", priority: str = "INFO", **fields: object) -> bytes:
    """A well-formed record."""
    return json.dumps({"event_type": event_type, "priority": priority, **fields}).encode() + b"\n"


def is_gap(line: bytes) -> bool:
    return b'"notif_relayd.gap"' in line and json.loads(line)["event_type"] == "notif_relayd.gap"


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

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        return self._stream.read()


class RunningRelay:
    """A relay in `directory`; usable once `wait_ready` has returned."""

    program: tuple[str, ...] = ("-m", "notif_relayd")
    """Arguments of Python that run the daemon."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.public = directory / "notifications.sock"
        self.ingest = directory / "ingest.sock"
        self.control = directory / "control.sock"
        self.log = directory / "relay.log"
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

    def wait_notified(self, text: str, patience: float = DEADLINE) -> str:
        """Wait for a message to the service manager that has `text` in it."""
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            self._notify.settimeout(left)
            message = self._notify.recv(4096).decode()
            if text in message:
                return message
        raise TimeoutError(f"no {text} from the relay within {patience} s")

    def subscribe(self) -> Subscriber:
        """A subscriber that gets whatever is sent from now on."""
        before = self.status()["subscribers"]
        subscriber = Subscriber(self.public)
        wait_until(lambda: self.status()["subscribers"] > before, "the subscriber is known")
        return subscriber

    def produce(self) -> socket.socket:
        return connect(self.ingest)

    def ask(self, method: str, **about: object) -> Any:
        answer = self.ask_anything({"method": method, **about})
        assert "error" not in answer, answer
        return answer["result"]

    def ask_anything(self, request: object) -> dict[str, Any]:
        with connect(self.control) as sock, sock.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline())
        assert isinstance(answer, dict)
        return answer

    def status(self) -> dict[str, Any]:
        status = self.ask("status")
        assert isinstance(status, dict)
        return status

    def wait_status(self, **expected: object) -> None:
        """Wait until the status has these values."""
        wait_until(
            lambda: expected.items() <= self.status().items(),
            f"status {expected}; it is {self.status()}",
        )

    def wait_logged(self, text: str) -> None:
        """Wait until the log has this; it is written beside the relay."""
        wait_until(lambda: text in self.log.read_text(), f"{text!r} is logged")

    def peak_memory(self) -> int:
        """The most that was resident so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (each for each in status.splitlines() if each.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        """Leave nothing behind, whatever has happened."""
        kill(self.process)
        self._notify.close()
        sys.stderr.write(self.log.read_text())


@contextlib.contextmanager
def running_relay(directory: Path, *arguments: str) -> Iterator[RunningRelay]:
    relay = RunningRelay(directory, *arguments)
    try:
        relay.wait_ready()
        yield relay
    finally:
        relay.close()


def quiet_environment() -> dict[str, str]:
    """With eventlet, which only tests have installed, oslo.utils warns of it on Python 3.10."""
    return {**os.environ, "PYTHONWARNINGS": "ignore"}


def run_daemon(*arguments: str, timeout: float = DEADLINE) -> subprocess.CompletedProcess[str]:
    """Run the daemon to its end, where it is expected to fail."""
    return subprocess.run(
        [sys.executable, "-m", "notif_relayd", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=quiet_environment(),
    )
