# SPDX-License-Identifier: Apache-2.0
"""Sockets whose last close(2) waits, and how to pass them to a relay."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator

from notif_relayd.net.ancillary import SO_PASSRIGHTS

LINGER = 600
"""Seconds that the close takes: far more than a test waits."""


@contextlib.contextmanager
def lingering() -> Iterator[socket.socket]:
    """A TCP socket with unsent data and SO_LINGER; its peer reads nothing until the end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sender = socket.create_connection(server.getsockname())
        with sender, server.accept()[0]:  # The peer goes first, which ends the lingering.
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER))
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.send(bytes(65536))
            sender.setblocking(True)  # A non-blocking socket does not linger.
            yield sender


def pass_on(connection: socket.socket, data: bytes, passed: socket.socket, flags: int = 0) -> None:
    """Pass a socket, and close it: its last reference is on the way."""
    fds = array.array("i", [passed.fileno()])
    connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], flags)
    passed.close()


def plainly(connection: socket.socket, passed: socket.socket) -> None:
    """With an ordinary byte, after one without."""
    connection.send(b" ")
    pass_on(connection, b" ", passed)


def out_of_band(connection: socket.socket, passed: socket.socket) -> None:
    """With a byte that an ordinary recv(2) skips."""
    pass_on(connection, b" ", passed, socket.MSG_OOB)
    with contextlib.suppress(BrokenPipeError):  # The relay may have noticed already.
        connection.send(b" ")


def nested(connection: socket.socket, passed: socket.socket) -> None:
    """In the queue of another socket that is passed."""
    inner, outer = socket.socketpair()
    with outer:
        pass_on(outer, b"x", passed)
        pass_on(connection, b" ", inner)


def in_a_backlog(connection: socket.socket, passed: socket.socket) -> None:
    """In a connection that a passed socket has not accepted."""
    with socket.socket(socket.AF_UNIX) as client:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("")  # to a name that the kernel chooses
        listener.listen()
        client.connect(listener.getsockname())
        pass_on(client, b"x", passed)
        pass_on(connection, b" ", listener)


def nested_after_nothing(connection: socket.socket, passed: socket.socket) -> None:
    """Behind an empty message in the queue of another socket."""
    inner, outer = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with outer:
        outer.send(b"")
        pass_on(outer, b"x", passed)
        pass_on(connection, b" ", inner)


WAYS: list[Callable[[socket.socket, socket.socket], None]] = [
    *(plainly, out_of_band, nested, nested_after_nothing, in_a_backlog)
]


def permit(fd: int) -> None:
    """Undo what the relay has set on a connection: peers may pass descriptors again."""
    with socket.socket(fileno=os.dup(fd)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 1)
