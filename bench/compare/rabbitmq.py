# SPDX-License-Identifier: Apache-2.0
"""Runs a temporary RabbitMQ on the loopback interface.

It does not run as a service. It has its own node name, ports and port mapper (epmd), so that it
does not interfere with another RabbitMQ on the host.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
"""The programs in /usr/sbin change to the user of the service."""

DEADLINE = 60.0


def missing() -> str:
    """Return why RabbitMQ is not available, or an empty string."""
    available = (PROGRAMS / "rabbitmq-server").exists() and shutil.which("epmd")
    return "" if available else "there is no rabbitmq-server"


@contextlib.contextmanager
def rabbitmq() -> Iterator[str]:
    """Run RabbitMQ until it accepts connections; yield the URL for oslo.messaging."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        port, distribution, mapper = (_free_port() for _ in range(3))
        (directory / "plugins").write_text("[].\n")
        environment = {
            **os.environ,
            "HOME": name,
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"bench-{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": name,
            "RABBITMQ_LOG_BASE": name,
            "RABBITMQ_PID_FILE": os.fspath(directory / "pid"),
            "RABBITMQ_CONF_ENV_FILE": os.fspath(directory / "none"),
            "RABBITMQ_CONFIG_FILE": os.fspath(directory / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": os.fspath(directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": os.fspath(directory / "plugins"),
        }
        with (directory / "log").open("wb") as log:
            server = subprocess.Popen(
                [PROGRAMS / "rabbitmq-server"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            _wait_listening(port, server, directory / "log")
            yield f"rabbit://guest:guest@127.0.0.1:{port}/"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            # epmd refuses to exit while a node is registered.
            deadline = time.monotonic() + DEADLINE
            while not _epmd(environment, "-names") and time.monotonic() < deadline:
                _epmd(environment, "-kill")
                time.sleep(0.05)


def _epmd(environment: dict[str, str], *arguments: str) -> int:
    done = subprocess.run(["epmd", *arguments], env=environment, capture_output=True, check=False)
    return done.returncode


def _wait_listening(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        with socket.socket() as sock:
            if not sock.connect_ex(("127.0.0.1", port)):
                return
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"RabbitMQ does not listen: {log.read_text(errors='replace')}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
