# SPDX-License-Identifier: Apache-2.0
"""Passwords stay in the configuration file of a bridge.

They are neither in the log, also not with ``--debug``, nor on the command line, in the environment,
in the answers of the status socket, or in what the service manager is told. The tests of each
broker's client look at what a broker that refuses a password causes.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from compare.ports import free_port
from support.bridge import Bridge, RealBridge
from support.bridge_inbound import RealInboundBridge
from support.relay import Relay
from support.waiting import TIMEOUT

PASSWORDS = "hard/to:guess@1", "0ther+secret"
QUOTED = "hard%2Fto:guess%401", "0ther%2Bsecret"

URLS = {
    "rabbit": "rabbit://user:{0}@127.0.0.1:{port},user:{1}@127.0.0.1:{port}/vhost",
    "kafka": "kafka://user:{0}@127.0.0.1:{port},localhost:{port}",
    "nats": "nats://user:{0}@127.0.0.1:{port},localhost:{port}",
}


@pytest.fixture
def manager(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the socket of the service manager, to which the bridges send their state."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(directory / "manager.sock"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "manager.sock"))
        yield manager


def make_bridges(directory: Path, relay: Relay) -> Iterator[Bridge]:
    """Yield a bridge in each direction for each URL of a broker that does not run."""
    for name, url in URLS.items():
        own = directory / name
        own.mkdir()
        broker = url.format(*QUOTED, port=free_port())
        for bridge in (
            RealBridge(own, relay, broker, status_socket=own / "out.sock"),
            RealInboundBridge(own, relay.ingest, broker, status_socket=own / "in.sock"),
        ):
            if name == "kafka":
                bridge.add_section(name, connect_timeout=0.1)
            yield bridge


def status(bridge: Bridge) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(bridge.config.with_suffix(".sock")))
        with client.makefile("rb") as stream:
            return stream.read()


def test_password_is_shown_nowhere(directory: Path, relay: Relay, manager: socket.socket) -> None:
    bridges = list(make_bridges(directory, relay))
    shown = b""
    try:
        for bridge in bridges:
            bridge.start("--debug")
        for bridge in bridges:
            bridge.wait_logged("waiting for the broker")
            process = Path(f"/proc/{bridge.process.pid}")
            shown += (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            shown += status(bridge)
            while b"READY=1" not in shown:
                shown += manager.recv(4096)
            assert bridge.stop() == 0
    finally:
        for bridge in bridges:
            bridge.kill()
    shown += b"".join(bridge.log.read_bytes() for bridge in bridges)
    assert shown.count(b"waiting for the broker") == len(bridges)
    assert not [each for each in (*PASSWORDS, *QUOTED) if each.encode() in shown]
