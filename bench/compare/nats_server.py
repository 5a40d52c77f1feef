# SPDX-License-Identifier: Apache-2.0
"""Runs a temporary nats-server with JetStream on the loopback interface."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAM = shutil.which("nats-server") or "/usr/sbin/nats-server"

DEADLINE = 30.0


def missing() -> str:
    """Return why nats-server is not available, or an empty string."""
    return "" if Path(PROGRAM).exists() else "there is no nats-server"


@contextlib.contextmanager
def nats_server() -> Iterator[str]:
    """Run nats-server until it accepts connections; yield its URL."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        command = [PROGRAM, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", name]
        server = subprocess.Popen(
            [*command, "--ports_file_dir", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield _url(Path(name) / f"nats-server_{server.pid}.ports", server)
        finally:
            server.kill()
            server.wait()


def _url(ports: Path, server: subprocess.Popen[bytes]) -> str:
    """Return the URL in the file that the server writes when it listens."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            url: str = json.loads(ports.read_text())["nats"][0]
            return url
        time.sleep(0.01)
    raise RuntimeError("nats-server does not start")
