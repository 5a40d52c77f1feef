# SPDX-License-Identifier: Apache-2.0
"""A bridge from a broker to a relay, and the broker that it reads from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from support.bridge import Bridge, FakePeer, RealBridge

NAME = "in"
"""Name of the bridge."""


class FakeQueue(FakePeer):
    """The peer of the source ``test``: delivers messages again that were not acknowledged."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.messages: list[bytes] = []
        """Unacknowledged messages."""

    def accept(self) -> None:
        """Wait until the bridge has connected, and deliver the unacknowledged messages."""
        super().accept()
        self._write(b"".join(self.messages))

    def deliver(self, *messages: bytes) -> None:
        """Deliver messages, each with a newline."""
        self.messages += messages
        self._write(b"".join(messages))

    def wait_acknowledged(self, left: int = 0) -> None:
        """Wait for acknowledgements until a number of messages is left."""
        assert self._stream is not None
        while len(self.messages) > left:
            del self.messages[: int(self._stream.readline())]
        assert len(self.messages) == left


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
        self.add_section("bridge", source=source, target=f"unix://{ingest}", **options)


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
    with bridge.running():
        yield bridge
