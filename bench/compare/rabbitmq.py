# SPDX-License-Identifier: Apache-2.0
"""Runs a temporary RabbitMQ on the loopback interface.

It does not run as a service. It has its own node name, ports and port mapper (epmd), so that it
does not interfere with another RabbitMQ on the host.
"""

from __future__ import annotations

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

from compare.ports import free_port
from compare.processes import session

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
    with tempfile.TemporaryDirectory(prefix="bench-") as name, Broker(Path(name)) as broker:
        yield broker.url()


class Broker:
    """A RabbitMQ that can be killed and started again with its data.

    Args:
        directory: for its data and log.
        config: the content of rabbitmq.conf.
    """

    def __init__(self, directory: Path, config: str = "") -> None:
        self.port, distribution, mapper = (free_port() for _ in range(3))
        (directory / "rabbitmq.conf").write_text(config)
        (directory / "plugins").write_text("[].\n")
        none = os.fspath(directory / "none")
        self._environment = {
            **os.environ,
            "HOME": os.fspath(directory),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"bench-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": os.fspath(directory),
            "RABBITMQ_LOG_BASE": os.fspath(directory),
            "RABBITMQ_PID_FILE": os.fspath(directory / "pid"),
            "RABBITMQ_CONF_ENV_FILE": none,
            "RABBITMQ_CONFIG_FILE": os.fspath(directory / "rabbitmq"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": none,
            "RABBITMQ_ENABLED_PLUGINS_FILE": os.fspath(directory / "plugins"),
        }
        self._log = directory / "log"
        self._mapper_port = mapper
        self._mapper: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        try:
            # A child, unlike the one that RabbitMQ would start, so that it ends in any case.
            self._mapper = self._start("epmd", "-port", str(self._mapper_port))
            _wait_listening(self._mapper_port, self._mapper, self._log)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()

    def processes(self) -> list[int]:
        """Return the processes of the server, if it runs."""
        return [] if self._server is None else session(self._server.pid)

    def url(self, credentials: str = "guest:guest") -> str:
        """Return the URL for oslo.messaging."""
        return f"rabbit://{credentials}@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        self._server = self._start(PROGRAMS / "rabbitmq-server")
        _wait_listening(self.port, self._server, self._log)

    def kill(self) -> None:
        """End the server with SIGKILL."""
        if self._server is not None:
            # The server's own children are in its process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None
            # This was the script that started the server, which may take longer to end.
            deadline = time.monotonic() + DEADLINE
            while _is_listening(self.port) and time.monotonic() < deadline:
                time.sleep(0.01)

    def control(self, *arguments: str) -> str:
        """Run rabbitmqctl, which takes about two seconds, and return its output."""
        done = subprocess.run(
            [PROGRAMS / "rabbitmqctl", "--quiet", *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {arguments[0]}: {done.stdout}{done.stderr}")
        return done.stdout

    def _start(self, *command: str | Path) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _is_listening(port: int) -> bool:
    with socket.socket() as sock:
        return not sock.connect_ex(("127.0.0.1", port))


def _wait_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not _is_listening(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r}: {log.read_text(errors='replace')}")
        time.sleep(0.05)
