# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a Unix socket.

The kernel noted it when the peer connected (SO_PEERCRED, unix(7)), so it cannot be forged and is
asked once. The command's name is read at the same moment, because the process may be gone, or be
another, when somebody wants to know. User names are not looked up here: that can take seconds
where users come from a directory server, and the loop must not wait. relayctl does it.
"""

import socket
import struct
from dataclasses import dataclass

_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True)
class Peer:
    """A process, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    command: str
    """The kernel's short name of it, at most 15 characters; empty when it was gone already."""

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command or 'gone'}, uid {self.uid})"


def peer_of(sock: socket.socket) -> Peer:
    """The process that connected to, or (asked from the client's side) listens on a socket."""
    ucred = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(ucred)
    return Peer(pid, uid, gid, _command(pid))


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as comm:
            return comm.read().decode(errors="replace").strip()
    except OSError:
        return ""
