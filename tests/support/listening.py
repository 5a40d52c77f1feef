# SPDX-License-Identifier: Apache-2.0
"""The private socket with the test in the relay's place, and what it can tell of a stream."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from notif_relay.sender import Sender
from support.running import DEADLINE, record


def notification(number: int, size: int = 0) -> str:
    """What the log driver would log: numbered, and `size` bytes long as a record if that fits."""
    shortest = record(number=number, payload="")
    return record(number=number, payload="x" * (size - len(shortest))).decode().rstrip("\n")


def explained(lines: Iterable[bytes]) -> tuple[int, int, bool]:
    """Check that gap records account for every number that is missing from the stream.

    Returns how many notifications it accounts for, how many of them are there, and whether its
    last gap record says that an unknown number of others may follow.
    """
    expected = present = 0
    unknown = False
    for line in lines:
        assert line.endswith(b"\n"), line[-100:]
        fields = json.loads(line)
        if fields.get("event_type") == "notif_relayd.gap":
            dropped = fields["payload"]["dropped"]
            unknown = unknown or dropped is None
            expected += dropped or 0
            continue
        if unknown:
            assert fields["number"] >= expected
        else:
            assert fields["number"] == expected
        expected, unknown = fields["number"] + 1, False
        present += 1
    return expected, present, unknown


class Incoming:
    """One producer's connection, to be read by lines or, raw, as it comes."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(DEADLINE)
        self._read = b""

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def line(self) -> bytes:
        """The next line; what is left if the connection ends before."""
        while b"\n" not in self._read:
            data = self.socket.recv(1 << 20)
            if not data:
                break
            self._read += data
        line, newline, self._read = self._read.partition(b"\n")
        return line + newline

    def take(self, size: int = sys.maxsize) -> bytes:
        """What is there, without waiting, at most `size` bytes of it."""
        taken = bytearray(self._read[:size])
        self._read = self._read[size:]
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while len(taken) < size:
                data = self.socket.recv(min(size - len(taken), 1 << 20))
                if not data:
                    break
                taken += data
        self.socket.settimeout(DEADLINE)
        return bytes(taken)

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        pieces = [self._read]
        self._read = b""
        while data := self.socket.recv(1 << 20):
            pieces.append(data)
        return b"".join(pieces)


class PrivateSocket:
    """Listens where the relay would."""

    def __init__(self, path: Path, backlog: int = 64) -> None:
        self.path = path
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.bind(os.fspath(path))
        self.socket.listen(backlog)

    def __enter__(self) -> PrivateSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def accept(self) -> Incoming:
        return Incoming(self.socket.accept()[0])

    def nobody_waits(self) -> bool:
        """Whether no connection is there to be accepted."""
        self.socket.setblocking(False)
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(DEADLINE)
        return False


def room(private: PrivateSocket) -> int:
    """How many bytes of one large record the kernel takes while nobody reads.

    Half as much again is a record that is surely cut, and whose rest fits once all is read.
    """
    sender = Sender(private.path, max_wait=0, max_record_size=1 << 24)
    sender.send("x" * (1 << 23))
    with private.accept() as incoming:
        taken = len(incoming.take())
    sender.close()
    assert taken < 1 << 23
    return taken


class Script:
    """A Python process that can be talked to by its standard input and output."""

    def __init__(self, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """What it writes next."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def go_on(self) -> None:
        """Let it read one empty line."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def finish(self) -> str:
        """Wait for it to end well, and give what else it wrote."""
        output, _ = self._process.communicate(timeout=DEADLINE)
        assert self._process.returncode == 0
        return output

    def close(self) -> None:
        """Leave nothing behind, whatever has happened."""
        self._process.kill()
        self._process.communicate(timeout=DEADLINE)


class Scripts:
    """Python processes that end with the test."""

    def __init__(self) -> None:
        self._scripts: list[Script] = []

    def __enter__(self) -> Scripts:
        return self

    def __exit__(self, *_: object) -> None:
        for script in self._scripts:
            script.close()

    def run(self, *arguments: object) -> Script:
        """Start one: ``python ARGUMENTS``."""
        script = Script(*arguments)
        self._scripts.append(script)
        return script
