# SPDX-License-Identifier: Apache-2.0
"""A bridge in a process of its own, and the broker that it sends to."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from support.relay import Relay
from support.waiting import TIMEOUT, kill, wait_until

TESTS = Path(__file__).parents[1]

PASSWORD = "s3cr3t-pa55word"


class FakePeer:
    """A Unix socket to which the client ``test`` of a bridge connects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"test://user:{PASSWORD}@broker{path}"
        self._connection: socket.socket | None = None
        self._stream: IO[bytes] | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(TIMEOUT)
        self._listener.bind(os.fspath(path))
        self._listener.listen()

    def accept(self) -> None:
        """Wait until the bridge has connected."""
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(TIMEOUT)
        self._stream = self._connection.makefile("rb")

    def disconnect(self) -> None:
        """End the connection."""
        if self._stream is not None:
            self._stream.close()
        if self._connection is not None:
            self._connection.close()
        self._stream = self._connection = None

    def close(self) -> None:
        """End the connection and accept no other one."""
        self.disconnect()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        assert self._connection is not None
        self._connection.sendall(data)


class FakeBroker(FakePeer):
    """The peer of the target ``test``: stores messages and answers on command."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.stored: list[bytes] = []
        """The confirmed messages."""
        self._unanswered: list[bytes] = []

    def read(self, count: int) -> list[bytes]:
        """Wait for messages, and return them."""
        assert self._stream is not None
        lines = [self._stream.readline() for _ in range(count)]
        self._unanswered += lines
        return lines

    def confirm(self, count: int) -> None:
        """Confirm the oldest messages that were read."""
        assert count <= len(self._unanswered)
        self.stored += self._unanswered[:count]
        del self._unanswered[:count]
        self._write(f"confirm {count}\n".encode())

    def refuse(self, reason: str) -> None:
        """Refuse the oldest message that was read."""
        self._unanswered.pop(0)
        self._write(f"refuse {reason}\n".encode())

    def take(self, count: int) -> None:
        """Wait for messages and confirm each."""
        for _ in range(count):
            self.read(1)
            self.confirm(1)

    def disconnect(self) -> None:
        """End the connection; unconfirmed messages are forgotten."""
        self._unanswered.clear()
        super().disconnect()


@contextlib.contextmanager
def fake_broker(directory: Path) -> Iterator[FakeBroker]:
    """Context with a broker."""
    with contextlib.closing(FakeBroker(directory / "broker.sock")) as broker:
        yield broker


class Bridge:
    """The configuration of a bridge, and its process.

    Args:
        directory: where its files are.
        relay: where it reads from.
        target: URL of the broker.
        options: further options of the section [bridge].
    """

    process: subprocess.Popen[bytes]
    program = "support.bridge_program"

    def __init__(self, directory: Path, relay: Relay, target: str, **options: object) -> None:
        self.config = directory / "out.conf"
        self.spool = directory / "out.sqlite"
        self.log = directory / "bridge.log"
        lines = {"source": f"unix://{relay.public}", "target": target, "spool": self.spool}
        self.add_section("bridge", **(lines | options))

    def add_section(self, name: str, /, **options: object) -> None:
        """Add a section to the configuration."""
        with self.config.open("a") as config:
            lines = "".join(f"{key} = {value}\n" for key, value in options.items())
            config.write(f"[{name}]\n{lines}")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the process until the end of the block, and print its log."""
        self.start()
        try:
            yield
        finally:
            self.kill()
            sys.stderr.write(self.log.read_text())

    def start(self, *arguments: str) -> None:
        """Start the process."""
        program = [sys.executable, "-m", self.program]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*program, "--config-file", self.config, *arguments],
                env={**os.environ, "PYTHONPATH": os.fspath(TESTS)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_logged(self, text: str, times: int = 1) -> None:
        """Wait until the log contains a text."""
        wait_until(lambda: self.log.read_text().count(text) >= times, f"{text!r} is in {self.log}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the process with a signal, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)

    def kill(self) -> None:
        """Kill the process."""
        kill(self.process)


class RealBridge(Bridge):
    """A bridge without the target ``test``."""

    program = "notif_relayd_bridge"


@contextlib.contextmanager
def running_bridge(
    directory: Path, relay: Relay, target: str, kind: type[Bridge] = Bridge, **options: object
) -> Iterator[Bridge]:
    """Context with a bridge that runs and is a member of its group."""
    bridge = kind(directory, relay, target, **options)
    with bridge.running():
        relay.wait_subscribed()
        yield bridge
