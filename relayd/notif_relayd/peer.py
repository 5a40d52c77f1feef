# SPDX-License-Identifier: Apache-2.0
"""The process at the other end of a Unix socket.

The kernel records the credentials of a process when it connects (SO_PEERCRED, unix(7)), so they
cannot be forged and are read once. The name of the command is read at the same moment, because the
process may have exited later, or its number may belong to another one. User names are not looked up
here: the lookup can take seconds if users come from a directory server, and the loop must not wait.
relayctl looks them up.
"""

import array
import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Protocol

from notif_relayd.escaping import printable

ROOT_UID = 0

_UCRED = struct.Struct("3i")

_SO_PEERGROUPS = 59
"""From asm-generic/socket.h; the Python module socket does not define it."""

_MAX_OPTION_BYTES = 1024
"""Size of the largest option that socket.getsockopt can read, in bytes: 256 groups."""

_MAX_GROUPS = 65536
"""Maximum number of supplementary groups of a process (the kernel's NGROUPS_MAX)."""

_MAX_COMMAND_BYTES = 64
"""Bytes read of a command name. The kernel keeps 15 for a process, and more for its own threads."""


class Credentials(Protocol):
    """What decides about the access of a process or an account."""

    @property
    def uid(self) -> int:
        """User ID."""

    @property
    def groups(self) -> frozenset[int]:
        """IDs of all groups."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A process, as it was when it connected."""

    pid: int
    uid: int
    gid: int
    command: str
    """Name of the command, usually up to 15 characters; empty if the process had exited."""
    groups: frozenset[int] = frozenset()
    """All groups of the process; only `gid` if the kernel does not report the others."""

    def __str__(self) -> str:
        return f"pid {self.pid} ({printable(self.command) or 'gone'}, uid {self.uid})"


class LazyPeer:
    """A peer that is looked up only when it is formatted for a log message."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def __str__(self) -> str:
        return str(peer_of(self._socket))


def uid_of(sock: socket.socket) -> int:
    """Return the user id of the peer; this takes a tenth of the time of `peer_of`."""
    return _credentials(sock)[1]


def peer_of(sock: socket.socket) -> Peer:
    """Return the process that connected, or, for a client's socket, the one that listens."""
    pid, uid, gid = _credentials(sock)
    return Peer(pid, uid, gid, _command(pid), _groups(sock) | {gid})


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    pid, uid, gid = _UCRED.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return pid, uid, gid


def _groups(sock: socket.socket) -> frozenset[int]:
    """Return the supplementary groups; none if the kernel does not report them.

    Allow lists and access rules that name groups then admit nothing. /proc is not a substitute:
    the process id may have been reused, and the groups may have changed.
    """
    try:
        groups = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION_BYTES)
        return frozenset(array.array("I", groups))
    except OSError as error:
        return _many_groups(sock) if error.errno == errno.ERANGE else frozenset()


def _many_groups(sock: socket.socket) -> frozenset[int]:
    """Read more groups than socket.getsockopt has room for."""
    groups = (ctypes.c_uint32 * _MAX_GROUPS)()
    size = ctypes.c_uint32(ctypes.sizeof(groups))
    failed = ctypes.CDLL(None).getsockopt(
        sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)
    )
    return frozenset() if failed else frozenset(groups[: size.value // ctypes.sizeof(size)])


def _command(pid: int) -> str:
    # os.open, because open() would double the time of this function.
    try:
        comm = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(comm, _MAX_COMMAND_BYTES).decode(errors="replace").strip()
        finally:
            os.close(comm)
    except OSError:
        return ""
