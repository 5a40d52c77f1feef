# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a Unix socket.

The kernel noted it when the peer connected (SO_PEERCRED, unix(7)), so it cannot be forged and is
asked once. The command's name is read at the same moment, because the process may be gone, or be
another, when somebody wants to know. User names are not looked up here: that can take seconds
where users come from a directory server, and the loop must not wait. relayctl does it.
"""

import array
import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass

from notif_relayd.escaping import printable

_UCRED = struct.Struct("3i")

_SO_PEERGROUPS = 59
"""asm-generic/socket.h; Python has no name for it."""

_LONGEST_OPTION = 1024
"""Bytes that Python's getsockopt can read: 256 groups."""

_MAX_GROUPS = 65536
"""Supplementary groups that a process can have: NGROUPS_MAX of the kernel."""

_LONGEST_COMMAND = 64
"""Bytes that are enough for any: the kernel has 15 for a process, and more for its own threads."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A process, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    command: str
    """The kernel's short name of it, at most 15 characters; empty when it was gone already."""
    groups: frozenset[int] = frozenset()
    """All the groups that it was in; only `gid` where the kernel does not tell the others."""

    def __str__(self) -> str:
        return f"pid {self.pid} ({printable(self.command) or 'gone'}, uid {self.uid})"


class Unknown:
    """A process that is looked up only if somebody wants to read its name."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def __str__(self) -> str:
        return str(peer_of(self._socket))


def uid_of(sock: socket.socket) -> int:
    """The user of the process, which takes a tenth of the time of all about it."""
    return _credentials(sock)[1]


def peer_of(sock: socket.socket) -> Peer:
    """The process that connected to, or (asked from the client's side) listens on a socket."""
    pid, uid, gid = _credentials(sock)
    return Peer(pid, uid, gid, _command(pid), _groups(sock) | {gid})


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return pid, uid, gid


def _groups(sock: socket.socket) -> frozenset[int]:
    """Return the supplementary groups; none if the kernel does not tell them.

    So lists and rules that name groups let nothing through for a process whose groups are unknown.
    /proc is no substitute: the number may be another process's by now, or its groups others.
    """
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _LONGEST_OPTION)
        return frozenset(array.array("I", groups))
    except OSError as error:
        return _many_groups(sock) if error.errno == errno.ERANGE else frozenset()


def _many_groups(sock: socket.socket) -> frozenset[int]:
    """Ask for more groups than Python's getsockopt has room for."""
    groups = (ctypes.c_uint32 * _MAX_GROUPS)()
    size = ctypes.c_uint32(ctypes.sizeof(groups))
    failed = ctypes.CDLL(None).getsockopt(
        sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)
    )
    return frozenset() if failed else frozenset(groups[: size.value // ctypes.sizeof(size)])


def _command(pid: int) -> str:
    # Not with open(): what it makes for one small read takes as long as the rest.
    try:
        comm = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(comm, _LONGEST_COMMAND).decode(errors="replace").strip()
        finally:
            os.close(comm)
    except OSError:
        return ""
