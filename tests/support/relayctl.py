# SPDX-License-Identifier: Apache-2.0
"""relayctl as an operator runs it: a process with its output and exit status."""

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

from support.waiting import TIMEOUT

RELAYCTL = os.fspath(Path(sys.executable).with_name("relayctl"))

RELAYCTL_AS_NOBODY = """
import contextlib, io, os, sys
from notif_relay import *
from notif_relayctl.app import Relayctl, main
# Import the modules and run the command as root first: the modules may be readable by root only.
for _, entry in Relayctl().command_manager:
    entry.load()
with contextlib.redirect_stdout(io.StringIO()):
    main(["help", "status"])
    if {"top", "doctor", "metrics"} & set(sys.argv):
        main(sys.argv[1:])
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(main(sys.argv[1:]))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")


def relayctl(
    directory: Path, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run relayctl for the relay whose runtime directory is `directory`."""
    return run(RELAYCTL, "--runtime-dir", os.fspath(directory), *arguments, stdin=stdin)


def relayctl_as_nobody(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run relayctl as the user nobody."""
    return run(
        *(sys.executable, "-c", RELAYCTL_AS_NOBODY, "--runtime-dir", os.fspath(directory)),
        *arguments,
    )


def run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and return its status and output."""
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def assert_error(done: subprocess.CompletedProcess[str], exit_status: int, *parts: str) -> None:
    """Check the exit status, and that standard error is one line that contains all `parts`."""
    assert done.returncode == exit_status, done.stderr
    assert re.fullmatch(r"relayctl: [^\n]+\n", done.stderr)
    for part in parts:
        assert part in done.stderr


def bind_listener(path: Path) -> socket.socket:
    """Return a Unix socket that listens at `path`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    listener.listen()
    return listener


@contextlib.contextmanager
def answer_once(path: Path, answer: bytes, times: int = 1) -> Iterator[None]:
    """Listen at `path`; answer the first request with `answer`, `times` times, and disconnect."""

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # The block has ended without a connection.
        connection.settimeout(TIMEOUT)
        with connection, contextlib.suppress(ConnectionError):
            connection.recv(4096)
            for _ in range(times):
                connection.sendall(answer)

    with bind_listener(path) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # ends a pending accept(2)
            thread.join(TIMEOUT)
        assert not thread.is_alive()
