# SPDX-License-Identifier: Apache-2.0
"""The private socket, on which the test listens in place of the relay."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path

from notif_relay.sender import Sender
from support.waiting import TIMEOUT


class ProducerConnection:
    """The connection of one producer, read by lines or as the data arrives."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(TIMEOUT)
        self._buffer = b""

    def __enter__(self) -> ProducerConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def line(self) -> bytes:
        """Return the next line, or the remaining data if the connection ends before a newline."""
        while b"\n" not in self._buffer:
            data = self.socket.recv(1 << 20)
            if not data:
                break
            self._buffer += data
        line, newline, self._buffer = self._buffer.partition(b"\n")
        return line + newline

    def read_available(self, size: int = sys.maxsize) -> bytes:
        """Return the data that has arrived, at most `size` bytes, without waiting."""
        data = bytearray(self._buffer[:size])
        self._buffer = self._buffer[size:]
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while len(data) < size:
                piece = self.socket.recv(min(size - len(data), 1 << 20))
                if not piece:
                    break
                data += piece
        self.socket.settimeout(TIMEOUT)
        return bytes(data)

    def read_to_end(self) -> bytes:
        """Return all data up to the end of the connection."""
        pieces = [self._buffer]
        self._buffer = b""
        while data := self.socket.recv(1 << 20):
            pieces.append(data)
        return b"".join(pieces)


class PrivateSocket:
    """A listening socket at `path`, which replaces an existing file."""

    def __init__(self, path: Path, backlog: int = 64) -> None:
        self.path = path
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(TIMEOUT)
        self.socket.bind(os.fspath(path))
        self.socket.listen(backlog)

    def __enter__(self) -> PrivateSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def accept(self) -> ProducerConnection:
        return ProducerConnection(self.socket.accept()[0])

    def has_pending(self) -> bool:
        """Return whether a connection waits to be accepted; if so, accept and close it."""
        self.socket.setblocking(False)
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(TIMEOUT)
        return True


def kernel_capacity(private: PrivateSocket) -> int:
    """Return the number of bytes of one large record that the kernel buffers for a connection.

    A record of 1.5 times this size is sent in part, and its remainder fits into the buffer once
    the first part has been read.
    """
    sender = Sender(private.path, max_wait=0, max_record_size=1 << 24)
    sender.send("x" * (1 << 23))
    with private.accept() as connection:
        buffered = len(connection.read_available())
        sender.close()  # before the peer: it would connect again, to report the lost record
    assert buffered < 1 << 23
    return buffered
