# SPDX-License-Identifier: Apache-2.0
"""Connected sockets for tests without a relay process."""

from __future__ import annotations

import contextlib
import socket


def connected_pair(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return two connected non-blocking sockets, which are closed with `stack`."""
    first, second = socket.socketpair()
    for each in (first, second):
        stack.enter_context(each)
        each.setblocking(False)
    return first, second


def read_available(connection: socket.socket) -> bytes:
    """Return the data that has arrived, at most 1 MiB; empty if there is none."""
    with contextlib.suppress(BlockingIOError):
        return connection.recv(1 << 20)
    return b""


def fill(connection: socket.socket) -> None:
    """Send until the socket's buffer is full."""
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.send(bytes(1000))
