# SPDX-License-Identifier: Apache-2.0
"""Sockets whose last close(2) blocks, and ways to pass them to a relay."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator

from notif_relayd.net.ancillary import SO_PASSRIGHTS

LINGER = 600
"""Seconds that close(2) blocks: far more than a test waits."""


@contextlib.contextmanager
def lingering_socket() -> Iterator[socket.socket]:
    """Yield a TCP socket with unsent data and SO_LINGER; its peer reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sender = socket.create_connection(server.getsockname())
        with sender, server.accept()[0]:  # The peer is closed first, which ends the lingering.
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.send(bytes(65536))
            sender.setblocking(True)  # A non-blocking socket does not linger.
            yield sender


def pass_socket(
    connection: socket.socket, data: bytes, passed: socket.socket, flags: int = 0
) -> None:
    """Pass a socket and close it, so that the message holds its last reference."""
    fds = array.array("i", [passed.fileno()])
    connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], flags)
    passed.close()


def pass_plainly(connection: socket.socket, passed: socket.socket) -> None:
    """Pass the socket with a normal byte, after a byte without a socket."""
    connection.send(b" ")
    pass_socket(connection, b" ", passed)


def pass_out_of_band(connection: socket.socket, passed: socket.socket) -> None:
    """Pass the socket with an out-of-band byte, which a plain recv(2) skips."""
    pass_socket(connection, b" ", passed, socket.MSG_OOB)
    with contextlib.suppress(BrokenPipeError):  # The relay may have disconnected already.
        connection.send(b" ")


def pass_nested(connection: socket.socket, passed: socket.socket) -> None:
    """Pass another socket, in whose receive queue the socket is."""
    inner, outer = socket.socketpair()
    with outer:
        pass_socket(outer, b"x", passed)
        pass_socket(connection, b" ", inner)


def pass_in_backlog(connection: socket.socket, passed: socket.socket) -> None:
    """Pass a listening socket; the socket is in a connection that it has not accepted."""
    with socket.socket(socket.AF_UNIX) as client:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("")  # The kernel chooses a name.
        listener.listen()
        client.connect(listener.getsockname())
        pass_socket(client, b"x", passed)
        pass_socket(connection, b" ", listener)


def pass_nested_after_empty(connection: socket.socket, passed: socket.socket) -> None:
    """Pass another socket, in whose receive queue the socket follows an empty message."""
    inner, outer = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with outer:
        outer.send(b"")
        pass_socket(outer, b"x", passed)
        pass_socket(connection, b" ", inner)


PASSING_METHODS: list[Callable[[socket.socket, socket.socket], None]] = [
    pass_plainly,
    pass_out_of_band,
    pass_nested,
    pass_nested_after_empty,
    pass_in_backlog,
]


def permit_passing(fd: int) -> None:
    """Let the peer of a connection pass descriptors again, which the relay has forbidden."""
    with socket.socket(fileno=os.dup(fd)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 1)
