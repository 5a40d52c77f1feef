# SPDX-License-Identifier: Apache-2.0
"""Processes of other users, and a relay that they may connect to; for tests that run as root."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from support.relay import RunningRelay, running_relay

OTHER_USER = """
import os, socket, sys, threading
path, uid, groups = sys.argv[1], int(sys.argv[2]), list(map(int, sys.argv[3].split(",")))
os.setgroups(groups[1:])
os.setresgid(groups[0], groups[0], groups[0])
os.setresuid(uid, uid, uid)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(path)
    print("connected", flush=True)
    writer = threading.Thread(target=lambda: sock.sendall(sys.stdin.buffer.read()), daemon=True)
    writer.start()
    sock.settimeout(30)
    while data := sock.recv(65536):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
"""


class OtherUser:
    """A process of another user, connected to a socket.

    Args:
        path: Path of the socket.
        uid: User ID of the process.
        groups: Its group ID and supplementary group IDs; by default `uid`.
    """

    def __init__(self, path: Path, uid: int, *groups: int) -> None:
        ids = ",".join(map(str, groups or (uid,)))
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER_USER, str(path), str(uid), ids],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> OtherUser:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"connected\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> bytes:
        """Return the next line that the process receives."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def write(self, data: bytes) -> None:
        """Let the process send `data`; possible once."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.close()
        self.process.stdin = None


@contextlib.contextmanager
def as_nobody() -> Iterator[str]:
    """Run the block as a user who is in no group of a socket; yield the user's name."""
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        yield pwd.getpwuid(os.geteuid()).pw_name
    finally:
        os.seteuid(user)


@contextlib.contextmanager
def open_relay(directory: Path, *arguments: str) -> Iterator[RunningRelay]:
    """Run a relay whose sockets allow all users to connect."""
    directory.chmod(0o755)
    modes = [f"--relayd-{name}_mode=0666" for name in ("public", "ingest")]
    with running_relay(directory, *modes, *arguments) as relay:
        yield relay
