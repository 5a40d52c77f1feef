# SPDX-License-Identifier: Apache-2.0
"""The relay and its alternatives: how to start each one and which protocol it uses.

Each measurement starts a new process in a temporary directory, with its own sockets. The programs
run without persistence and without limits that the work could reach, so that they do not drop
records that the relay keeps. A program that is not available reports the reason.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from compare import wire
from compare.load import Measured, Work, measure, on_core
from compare.notification import record
from compare.ports import free_port

BENCH = Path(__file__).parents[1]

DEADLINE = 30.0
"""Maximum time to start, to connect or to wait for data, in seconds."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The command to start in a directory, and the addresses on which it listens."""

    command: list[str]
    ingest: str
    """A path, or a port on the loopback interface."""
    public: str
    config: dict[str, str] = field(default_factory=dict)
    """Files to create before the start: content by name."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that relays records."""

    name: str
    wire: Callable[[bytes], wire.Wire]
    plan: Callable[[Path], Plan]
    version: Callable[[], str]
    missing: Callable[[], str] = lambda: ""
    """Returns why the program is not available, or an empty string."""


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that is running and accepts connections."""

    peer: Peer
    plan: Plan
    pid: int

    def measure(self, work: Work) -> Measured:
        """Measure the work."""
        protocol = self.peer.wire(record(work.size))
        return measure(protocol, self.plan.ingest, self.plan.public, self.pid, work)


@contextlib.contextmanager
def running(peer: Peer) -> Iterator[Running]:
    """Run the peer on the processor for relays."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        plan = peer.plan(directory)
        for file, text in plan.config.items():
            (directory / file).write_text(text)
        log = stack.enter_context((directory / "log").open("wb"))
        process = subprocess.Popen(
            on_core(0, plan.command),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            for address in (plan.ingest, plan.public):
                _wait_listening(address, process, directory / "log")
            yield Running(peer, plan, process.pid)
        finally:
            process.kill()
            process.wait()


def connect(address: str) -> socket.socket:
    """Return a connection to a path, or to a port on the loopback interface."""
    sock = socket.socket(socket.AF_UNIX if "/" in address else socket.AF_INET)
    sock.settimeout(DEADLINE)
    try:
        sock.connect(address if "/" in address else ("127.0.0.1", int(address)))
    except OSError:
        sock.close()
        raise
    return sock


def _wait_listening(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            connect(address).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                what = log.read_text(errors="replace").strip()
                raise RuntimeError(f"{process.args!r} does not listen: {what}") from None
        time.sleep(0.005)


def _first_number(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found.group() if found else "?"


def _no_program(name: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(name) else f"there is no {name}"


def _relay(directory: Path) -> Plan:
    return Plan(
        [sys.executable, "-m", "notif_relayd", "--runtime-dir", os.fspath(directory)],
        os.fspath(directory / "ingest.sock"),
        os.fspath(directory / "notifications.sock"),
    )


def _two_sockets(*command: str) -> Callable[[Path], Plan]:
    def plan(directory: Path) -> Plan:
        ingest, public = (os.fspath(directory / name) for name in ("ingest", "public"))
        return Plan([*command, ingest, public], ingest, public)

    return plan


def _redis(directory: Path) -> Plan:
    path = os.fspath(directory / "redis")
    config = f"""
port 0
unixsocket {path}
tcp-backlog 4096
save ""
appendonly no
client-output-buffer-limit pubsub 0 0 0
"""
    return Plan(["redis-server", "redis.conf"], path, path, {"redis.conf": config})


def _nats(directory: Path) -> Plan:
    del directory
    port = str(free_port())
    # NATS supports only TCP. By default, it disconnects a slow client after 64 MiB or ten seconds.
    config = f"""
listen: "127.0.0.1:{port}"
max_pending: 1073741824
write_deadline: "60s"
ping_interval: "1h"
"""
    return Plan(["nats-server", "-c", "nats.conf"], port, port, {"nats.conf": config})


def _mosquitto(directory: Path) -> Plan:
    path = os.fspath(directory / "mqtt")
    config = f"""
listener 0 {path}
allow_anonymous true
persistence false
max_queued_messages 0
max_queued_bytes 0
user root
log_dest stderr
log_type error
"""
    return Plan(["mosquitto", "-c", "mqtt.conf"], path, path, {"mqtt.conf": config})


def _python() -> str:
    return "Python " + sys.version.partition(" ")[0]


def _own_version() -> str:
    from notif_relay.version import __version__  # noqa: PLC0415 - the tests of wire.py do not need it

    return __version__


def _zeromq_version() -> str:
    import zmq  # noqa: PLC0415 - it is optional

    return zmq.zmq_version()


RELAY = Peer("notif-relayd", wire.plain, _relay, _own_version)
LIMIT = Peer(
    "C limit",
    wire.plain,
    _two_sockets(os.fspath(BENCH / "build" / "limit")),
    lambda: "gcc " + _first_number("gcc", "--version"),
)
ALTERNATIVES = [
    Peer(
        "Redis",
        wire.redis,
        _redis,
        lambda: _first_number("redis-server", "--version"),
        _no_program("redis-server"),
    ),
    Peer(
        "ZeroMQ",
        wire.zeromq,
        _two_sockets(sys.executable, os.fspath(BENCH / "zeromq_proxy.py")),
        _zeromq_version,
        lambda: "" if find_spec("zmq") else "there is no pyzmq",
    ),
    Peer(
        "NATS",
        wire.nats,
        _nats,
        lambda: _first_number("nats-server", "--version"),
        _no_program("nats-server"),
    ),
    Peer(
        "mosquitto",
        wire.mqtt,
        _mosquitto,
        lambda: _first_number("mosquitto", "-h"),
        _no_program("mosquitto"),
    ),
    Peer(
        "asyncio",
        wire.plain,
        _two_sockets(sys.executable, os.fspath(BENCH / "asyncio_relay.py")),
        _python,
    ),
]
"""Programs that users could use instead of the relay."""
