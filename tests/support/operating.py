# SPDX-License-Identifier: Apache-2.0
"""relayctl as an operator runs it: a process, its output, its exit status."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.running import DEADLINE

RELAYCTL = os.fspath(Path(sys.executable).with_name("relayctl"))

AS_NOBODY = """
import contextlib, io, os, sys
from notif_relayctl.app import main
# First as root, to import what only root may be able to read.
with contextlib.redirect_stdout(io.StringIO()):
    main(["help", "status"])
    if {"top", "doctor", "metrics"} & set(sys.argv):
        main(sys.argv[1:])
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(main(sys.argv[1:]))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def relayctl(
    directory: Path, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return run(RELAYCTL, "--runtime-dir", os.fspath(directory), *arguments, stdin=stdin)


def relayctl_as_nobody(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(
        *(sys.executable, "-c", AS_NOBODY, "--runtime-dir", os.fspath(directory)), *arguments
    )


def run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def assert_refused(
    done: subprocess.CompletedProcess[str], exit_status: int, *sentence: str
) -> None:
    """It ended with this status, and with one line that has these parts."""
    assert done.returncode == exit_status, done.stderr
    assert re.fullmatch(r"relayctl: [^\n]+\n", done.stderr)
    for part in sentence:
        assert part in done.stderr


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    listener.listen()
    return listener


@contextlib.contextmanager
def answering(path: Path, answer: bytes, times: int = 1) -> Iterator[None]:
    """Something listens at `path` that gives this answer so many times, and hangs up."""

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # The block has ended before anything connected.
        connection.settimeout(DEADLINE)
        with connection, contextlib.suppress(ConnectionError):
            connection.recv(4096)
            for _ in range(times):
                connection.sendall(answer)

    with listening(path) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # ends an accept that still waits
            thread.join(DEADLINE)
        assert not thread.is_alive()
