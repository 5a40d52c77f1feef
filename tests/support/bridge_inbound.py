# SPDX-License-Identifier: Apache-2.0
"""A bridge from a broker to a relay, and the broker that it reads from."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from support.bridge import PASSWORD, Bridge, RealBridge
from support.waiting import TIMEOUT

NAME = "in"
"""Name of the bridge."""


class FakeQueue:
    """The peer of the source ``test``: delivers messages again that were not acknowledged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"test://user:{PASSWORD}@broker{path}"
        self.messages: list[bytes] = []
        """Unacknowledged messages."""
        self._connection: socket.socket | None = None
        self._stream: IO[bytes] | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.settimeout(TIMEOUT)
        self._listener.bind(os.fspath(path))
        self._listener.listen()

    def accept(self) -> None:
        """Wait until the bridge has connected, and deliver the unacknowledged messages."""
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(TIMEOUT)
        self._stream = self._connection.makefile("rb")
        self._connection.sendall(b"".join(self.messages))

    def deliver(self, *messages: bytes) -> None:
        """Deliver messages, each with a newline."""
        assert self._connection is not None
        self.messages += messages
        self._connection.sendall(b"".join(messages))

    def wait_acknowledged(self, left: int = 0) -> None:
        """Wait for acknowledgements until a number of messages is left."""
        assert self._stream is not None
        while len(self.messages) > left:
            del self.messages[: int(self._stream.readline())]
        assert len(self.messages) == left

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


class InboundBridge(Bridge):
    """The configuration of a bridge from a broker, and its process.

    Args:
        directory: where its files are.
        ingest: path of the private socket.
        source: URL of the broker.
        options: further options of the section [bridge].
    """

    def __init__(self, directory: Path, ingest: Path, source: str, **options: object) -> None:
        self.config = directory / f"{NAME}.conf"
        self.log = directory / "bridge-in.log"
        lines = {"source": source, "target": f"unix://{ingest}"} | options
        self.config.write_text(
            "[bridge]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
        )


class RealInboundBridge(InboundBridge):
    """A bridge without the source ``test``."""

    program = RealBridge.program


@contextlib.contextmanager
def running_inbound(
    directory: Path,
    ingest: Path,
    source: str,
    kind: type[InboundBridge] = InboundBridge,
    **options: object,
) -> Iterator[InboundBridge]:
    """Context with a bridge from a broker that has started."""
    bridge = kind(directory, ingest, source, **options)
    bridge.start()
    try:
        yield bridge
    finally:
        bridge.kill()
        sys.stderr.write(bridge.log.read_text())
