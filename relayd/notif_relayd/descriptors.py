# SPDX-License-Identifier: Apache-2.0
"""Connections that outlive the daemon: systemd's file descriptor store, and what is put there.

The service manager keeps a duplicate of every connection, and gives all of them to the next
daemon: after a restart and after a crash nobody has to connect again. What was in the daemon's
memory comes along in a sealed memfd if the daemon has had the time to write it. A subscriber's
filter is kept beside its connection at once, since after a crash nobody could ask for it again.

Three things follow from somebody else's holding a connection too. To close it does not end it, so
it is shut down first. The manager must not let it go by itself when the peer hangs up, because
there may be records left to read (so FDPOLL=0). And the manager may be busy: what it cannot be
told now it is told later.
"""

import contextlib
import fcntl
import logging
import os
import re
import socket
import stat
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from systemd import daemon

from notif_relayd import ancillary
from notif_relayd.loop import Loop
from notif_relayd.notify import PATIENCE, NotifySocket
from notif_relayd.state import State, StateError, decode

LOG = logging.getLogger(__name__)

PRODUCER, SUBSCRIBER, FILTER = "p", "s", "f"
"""First letters of names, which the connection's number follows. Short, because of `MAX_NAMES`."""

STATE = "state"

MAX_NAMES = 96 * 1024
"""Bytes of all names: they come as one environment variable, which execve(2) limits to 128 KiB."""

UNKNOWN = sys.maxsize
"""A store of any size: systemd tells how large it is since version 254 only."""

RETRY_TIME = 0.05
"""Seconds until the next attempt when the service manager has not read what it was told."""

_NAME = re.compile(rf"(?P<kind>[{PRODUCER}{SUBSCRIBER}{FILTER}])(?P<number>[1-9][0-9]{{0,18}})")

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(slots=True)
class Inherited:
    """What the store gave back."""

    producers: dict[int, socket.socket] = field(default_factory=dict)
    """By the number of the connection."""
    subscribers: dict[int, socket.socket] = field(default_factory=dict)
    filters: dict[int, bytes] = field(default_factory=dict)
    """The last request of the subscriber with that number."""
    state: State | None = None
    names: list[str] = field(default_factory=list)
    """Under which it all is still in the store."""

    @property
    def next_id(self) -> int:
        """A number for the next connection, which none has had that is known."""
        if self.state is not None:
            return self.state.next_id
        return 1 + max([0, *self.producers, *self.subscribers])


def inherit(passed: Iterable[tuple[str, int]]) -> Inherited:
    """Sort out descriptors, each with its name; what cannot be used is closed, and logged."""
    inherited = Inherited()
    states = []
    for name, fd in passed:
        known = _NAME.fullmatch(name)
        if name == STATE or known:
            inherited.names.append(name)
        if name == STATE:
            states.append(_content(fd))
        elif known is None:
            LOG.warning("systemd passed a descriptor named %r, which is not used", name)
            os.close(fd)
        else:
            number = int(known["number"])
            if known["kind"] == FILTER:
                inherited.filters[number] = _content(fd)
            elif not daemon.is_socket_unix(fd, socket.SOCK_STREAM, listening=0):
                LOG.warning("the descriptor %r from the store is no connection", name)
                os.close(fd)
            else:
                mine = inherited.producers if known["kind"] == PRODUCER else inherited.subscribers
                mine[number] = socket.socket(fileno=fd)
                mine[number].setblocking(False)
    try:
        if len(states) > 1:
            raise StateError("there are two")
        inherited.state = decode(states[0]) if states else None
    except StateError as error:
        LOG.error("the state of the relay before is of no use: %s", error)
    return inherited


def _content(fd: int) -> bytes:
    """All that is in a memfd, which is closed; nothing where it is none."""
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        size = os.fstat(fd).st_size
        return os.pread(file.fileno(), size, 0)


class DescriptorStore:
    """The service manager's store, as far as there is one.

    Args:
        loop: for what has to be tried again.
        notify: where the service manager listens.
        capacity: descriptors that the store takes; 0 where there is none, `UNKNOWN` at times.
        names: what is in it already.
    """

    def __init__(
        self,
        loop: Loop,
        notify: NotifySocket,
        capacity: int,
        names: Iterable[str],
    ) -> None:
        self.usable = capacity > 0
        self._loop = loop
        self._notify = notify
        self._capacity = capacity
        self._stored = set(names)
        self._room_for_names = MAX_NAMES - sum(len(name) + 1 for name in self._stored)
        self._to_store: dict[str, int] = {}
        self._to_remove: list[str] = []
        self._filters: dict[int, int] = {}
        self._scheduled = False
        self._full = False
        for name in names:
            if name[0] == FILTER and f"{SUBSCRIBER}{name[1:]}" not in self._stored:
                self._let_go(name)
        if self._let_go(STATE):
            # It is history now, and must not be what the next relay finds after a crash.
            self._work(PATIENCE)
            notify.finish()

    def keep(self, kind: str, number: int, connection: socket.socket) -> None:
        """Have a connection kept from the end of this turn on."""
        self._keep(f"{kind}{number}", connection.fileno())

    def keep_filter(self, number: int, request: bytes) -> None:
        """Have a subscriber's request kept that it may not have to repeat."""
        if not self._keeps(f"{SUBSCRIBER}{number}"):
            return
        fd = self._filters.get(number)
        try:
            if fd is None:
                # The one that a relay before has stored cannot be written to from here.
                self._let_go(f"{FILTER}{number}")
                fd = self._filters[number] = os.memfd_create("filter", os.MFD_CLOEXEC)
            # Cut off here, it is no request any more, and will end the connection.
            os.ftruncate(fd, 0)
            os.pwrite(fd, request, 0)
        except OSError as error:
            LOG.warning("a filter cannot be kept: %s", error.strerror)
            self._let_go(f"{SUBSCRIBER}{number}")
            self._let_go(f"{FILTER}{number}")
            return
        if not self._keep(f"{FILTER}{number}", fd):
            self._let_go(f"{SUBSCRIBER}{number}")

    def give_up(self, kind: str, number: int, connection: socket.socket) -> None:
        """End a connection."""
        if self._let_go(f"{kind}{number}"):
            with contextlib.suppress(OSError):  # The peer may have been faster.
                connection.shutdown(socket.SHUT_RDWR)
        if kind == SUBSCRIBER:
            self._let_go(f"{FILTER}{number}")
            if number in self._filters:
                os.close(self._filters.pop(number))
        ancillary.close(connection)

    def leave(self, state: bytes) -> None:
        """Leave everything to the next daemon; nothing may change any more."""
        try:
            fd = _sealed(state)
        except OSError as error:
            LOG.error("the state cannot be left to the next relay: %s", error.strerror)
            return
        told = self._work(PATIENCE) and self._tell_of(STATE, fd, PATIENCE)
        os.close(fd)
        if not (told and self._notify.finish()):
            LOG.error("the service manager does not confirm that it keeps the connections")

    def _keeps(self, name: str) -> bool:
        return name in self._stored or name in self._to_store

    def _keep(self, name: str, fd: int) -> bool:
        if not self.usable or self._keeps(name):
            return self.usable
        count = len(self._stored) + len(self._to_store) + 1  # one more for the state
        if self._room_for_names <= len(name) or count >= self._capacity:
            if not self._full:
                self._full = True
                LOG.warning(
                    "the service manager keeps %d descriptors and no more: further connections "
                    "will not outlive this process; see FileDescriptorStoreMax=",
                    count - 1,
                )
            return False
        self._room_for_names -= len(name) + 1
        self._to_store[name] = fd
        self._schedule()
        return True

    def _let_go(self, name: str) -> bool:
        """Keep it no longer; whether the service manager had it."""
        if not self._keeps(name):
            return False
        self._room_for_names += len(name) + 1
        if self._to_store.pop(name, None) is not None:
            return False
        self._stored.remove(name)
        self._to_remove.append(name)
        self._schedule()
        return True

    def _schedule(self, seconds: float = 0) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_in(seconds, self._run)

    def _run(self) -> None:
        self._scheduled = False
        if not self._work(0):
            self._schedule(RETRY_TIME)

    def _work(self, patience: float) -> bool:
        """Tell the service manager what it does not know yet; whether it knows all now."""
        while self._to_remove:
            name = self._to_remove[-1]
            if not self._notify.tell(f"FDSTOREREMOVE=1\nFDNAME={name}", patience=patience):
                return False
            self._to_remove.pop()
        for name, fd in list(self._to_store.items()):
            if not self._tell_of(name, fd, patience):
                return False
            del self._to_store[name]
            self._stored.add(name)
        return True

    def _tell_of(self, name: str, fd: int, patience: float) -> bool:
        return self._notify.tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", [fd], patience)


def _sealed(content: bytes) -> int:
    """A memfd that nobody can change any more."""
    fd = os.memfd_create(STATE, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
