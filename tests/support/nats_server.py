# SPDX-License-Identifier: Apache-2.0
"""A nats-server with JetStream, and what its streams contain."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import StreamConfig

from compare.ports import free_port
from support.waiting import TIMEOUT, is_stopped, kill, wait_until

PROGRAM = shutil.which("nats-server") or "/usr/sbin/nats-server"

needs_nats = pytest.mark.skipif(
    not Path(PROGRAM).exists(), reason="nats-server is not installed: run bench/install-peers.sh"
)

T = TypeVar("T")


class NatsServer:
    """A server with a port of its own, which stays the same after a restart.

    Args:
        directory: for its configuration, log and streams.
        jetstream: whether to enable JetStream.
        configuration: further lines of the configuration.
        login: ``user:password@`` for clients.
    """

    def __init__(
        self, directory: Path, jetstream: bool = True, configuration: str = "", login: str = ""
    ) -> None:
        self.directory = directory / "nats"
        self.directory.mkdir()
        self.login = login
        self.port = free_port()
        self._jetstream = jetstream
        self._configuration = configuration
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        kill(self._process)

    @property
    def url(self) -> str:
        """The URL of the target."""
        return f"nats://{self.login}127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        path = self.directory / "nats.conf"
        store = f'jetstream {{ store_dir: "{self.directory}" }}' if self._jetstream else ""
        path.write_text(
            f'listen: "127.0.0.1:{self.port}"\nports_file_dir: "{self.directory}"\n'
            f"{store}\n{self._configuration}\n"
        )
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "--config", str(path)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self._is_listening, "nats-server listens")

    def _is_listening(self) -> bool:
        ports = self.directory / f"nats-server_{self._process.pid}.ports"
        try:
            json.loads(ports.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            assert self._process.poll() is None, (self.directory / "log").read_text()
            return False
        with socket.create_connection(("127.0.0.1", self.port), TIMEOUT) as connection:
            connection.settimeout(TIMEOUT)
            return connection.recv(5) == b"INFO "

    def kill(self) -> None:
        """Kill the server."""
        kill(self._process)

    def stop(self) -> None:
        """Stop the process without ending it: it does not read any more."""
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(self._process.pid), "nats-server has stopped")

    def cont(self) -> None:
        """Continue after ``stop``."""
        self._process.send_signal(signal.SIGCONT)

    def run(self, use: Callable[[Client], Awaitable[T]]) -> T:
        """Return the result of a function that uses a client."""

        async def connect() -> T:
            async with await nats.connect(
                self.url, connect_timeout=int(TIMEOUT), allow_reconnect=False
            ) as client:
                return await asyncio.wait_for(use(client), TIMEOUT)

        return asyncio.run(connect())

    def add_stream(self, name: str = "events", **options: object) -> None:
        """Create a stream for ``notifications.>``, or change it."""
        config = StreamConfig(name=name, subjects=["notifications.>"])

        async def add(client: Client) -> None:
            await client.jetstream().add_stream(config.evolve(**options))

        self.run(add)

    def config(self, name: str = "events") -> StreamConfig:
        """Return the configuration of a stream."""

        async def get(client: Client) -> StreamConfig:
            return (await client.jetstream().stream_info(name)).config

        return self.run(get)

    def messages(self, name: str = "events") -> list[Msg]:
        """Return all messages of a stream in order."""

        async def read(client: Client) -> list[Msg]:
            stream = client.jetstream()
            count = (await stream.stream_info(name)).state.messages
            subscription = await stream.subscribe(
                "notifications.>", stream=name, ordered_consumer=True
            )
            return [await subscription.next_msg(timeout=TIMEOUT) for _ in range(count)]

        return self.run(read)
