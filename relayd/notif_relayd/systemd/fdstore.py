# SPDX-License-Identifier: Apache-2.0
"""systemd's file descriptor store: connections and state that outlive the daemon.

The service manager keeps a duplicate of every connection and passes all of them to the next
daemon, so that a restart or a crash ends no connection. The state in the daemon's memory travels in
a memfd, which the daemon stores when it stops.

A subscriber is stored together with a memfd for its last request, both in one message. A relay that
takes over after a crash therefore knows the filter of every subscriber that it finds in the store.

Three rules follow from the duplicates:

- Closing a connection does not end it, so it is shut down first.
- The manager must not drop a connection by itself when the peer hangs up, because there may be
  records left to read (``FDPOLL=0``).
- The manager may be busy. A message that it cannot take now is sent again later.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from notif_relay.request import MAX_REQUEST_SIZE
from notif_relayd.net import ancillary
from notif_relayd.net.loop import Loop
from notif_relayd.systemd.sdnotify import SEND_TIMEOUT, NotifySocket

LOG = logging.getLogger(__name__)

PRODUCER, SUBSCRIBER = "p", "s"
"""First letters of names; the connection's number follows. Short, because of `MAX_NAMES`."""

STATE = "state"

MAX_NAMES = 96 * 1024
"""Bytes of all names. systemd passes them as one environment variable, and execve(2) limits its
size to 128 KiB."""

UNKNOWN = sys.maxsize
"""Capacity of a store whose size is not known: systemd before version 254 does not tell it."""

RETRY_TIME = 0.05
"""Seconds until the next attempt after a message that the service manager did not take."""

_UNFINISHED = b"!"
"""First byte of a request that is being written. No JSON text starts with it."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class FdStore:
    """The service manager's store, if there is one.

    Args:
        loop: for messages that have to be sent again.
        notify: the service manager's notification socket.
        capacity: number of descriptors that the store takes; 0 without a store, `UNKNOWN` if the
            number is not known.
        names: names of the descriptors that are in the store already.
        requests: memfds with the last requests of the subscribers in the store, by number.
    """

    def __init__(
        self,
        loop: Loop,
        notify: NotifySocket,
        capacity: int,
        names: Iterable[str],
        requests: Mapping[int, int],
    ) -> None:
        self.usable = capacity > 0
        self._loop = loop
        self._notify = notify
        self._capacity = capacity
        self._stored = Counter(names)
        """Number of descriptors in the store, by name."""
        self._count = self._stored.total()
        self._room_for_names = MAX_NAMES - sum(len(name) + 1 for name in self._stored.elements())
        self._to_store: dict[str, tuple[int, ...]] = {}
        self._to_remove: list[str] = []
        self._requests = dict(requests)
        self._scheduled = False
        self._full = False
        has_state = self._remove(STATE)
        for name in list(self._stored):
            if name[0] == SUBSCRIBER and int(name[1:]) not in self._requests:
                self._remove(name)
        if has_state:
            # The next relay must not find it after a crash of this one.
            self._work(SEND_TIMEOUT)
            notify.finish()

    def keep_producer(self, number: int, connection: socket.socket) -> None:
        """Store a producer's connection at the end of this iteration of the loop."""
        name = f"{PRODUCER}{number}"
        if self._has_room(name, 1):
            self._store(name, connection.fileno())

    def keep_subscriber(self, number: int, connection: socket.socket) -> None:
        """Store a subscriber's connection, and room for its request, at the end of this iteration.

        A subscriber that is in the store already is left as it is.
        """
        name = f"{SUBSCRIBER}{number}"
        if self._has_room(name, 2):
            try:
                self._requests[number] = os.memfd_create("request", os.MFD_CLOEXEC)
            except OSError as error:
                LOG.warning("a connection cannot be stored: %s", error.strerror)
            else:
                self._store(name, connection.fileno(), self._requests[number])

    def request_of(self, number: int) -> bytes:
        """Return the stored request of a subscriber; empty if it has made none."""
        fd = self._requests.get(number)
        return b"" if fd is None else os.pread(fd, MAX_REQUEST_SIZE, 0)

    def keep_request(self, number: int, request: bytes) -> None:
        """Replace what is stored as the subscriber's last request.

        If the request cannot be written, the connection is removed from the store: a crash then
        ends it, instead of leaving it without its filter.
        """
        fd = self._requests.get(number)
        if fd is None:
            return
        try:
            _overwrite(fd, request)
        except OSError as error:
            LOG.warning("a filter cannot be stored: %s", error.strerror)
            self._forget_subscriber(number)

    def close_connection(self, kind: str, number: int, connection: socket.socket) -> None:
        """End a connection and remove it from the store."""
        stored = self._remove(f"{kind}{number}")
        if kind == SUBSCRIBER and number in self._requests:
            os.close(self._requests.pop(number))
        if stored:
            with contextlib.suppress(OSError):  # The peer may have hung up.
                connection.shutdown(socket.SHUT_RDWR)
        ancillary.close(connection)

    def leave(self, state: Iterable[bytes]) -> None:
        """Leave everything to the next daemon; nothing may change any more."""
        try:
            fd = _sealed(state)
        except OSError as error:
            LOG.error("the state cannot be left to the next relay: %s", error.strerror)
            return
        told = self._work(SEND_TIMEOUT) and self._tell_of(STATE, [fd], SEND_TIMEOUT)
        os.close(fd)
        if not (told and self._notify.finish()):
            LOG.error("the service manager does not confirm that it keeps the connections")

    def _forget_subscriber(self, number: int) -> None:
        self._remove(f"{SUBSCRIBER}{number}")
        os.close(self._requests.pop(number))

    def _has_room(self, name: str, count: int) -> bool:
        """Whether `count` further descriptors may be stored under a name that is not in use."""
        if not self.usable or name in self._stored or name in self._to_store:
            return False
        # One name and one descriptor are left for the state.
        names = self._room_for_names - count * (len(name) + 1)
        if names > len(STATE) and self._count + count < self._capacity:
            return True
        if not self._full:
            self._full = True
            LOG.warning(
                "the service manager keeps %d descriptors and no more: further connections "
                "will not outlive this process; see FileDescriptorStoreMax=",
                self._count,
            )
        return False

    def _store(self, name: str, *fds: int) -> None:
        self._count += len(fds)
        self._room_for_names -= len(fds) * (len(name) + 1)
        self._to_store[name] = fds
        self._schedule()

    def _remove(self, name: str) -> bool:
        """Stop storing everything under a name; return whether the service manager had it."""
        stored = self._stored.pop(name, 0)
        count = stored + len(self._to_store.pop(name, ()))
        self._count -= count
        self._room_for_names += count * (len(name) + 1)
        if stored:
            self._to_remove.append(name)
            self._schedule()
        return bool(stored)

    def _schedule(self, seconds: float = 0) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_in(seconds, self._run)

    def _run(self) -> None:
        self._scheduled = False
        if not self._work(0):
            self._schedule(RETRY_TIME)

    def _work(self, timeout: float) -> bool:
        """Tell the service manager what it does not know yet; whether it knows all now."""
        while self._to_remove:
            name = self._to_remove[-1]
            if not self._notify.tell(f"FDSTOREREMOVE=1\nFDNAME={name}", timeout=timeout):
                return False
            self._to_remove.pop()
        for name, fds in list(self._to_store.items()):
            if not self._tell_of(name, fds, timeout):
                return False
            del self._to_store[name]
            self._stored[name] = len(fds)
        return True

    def _tell_of(self, name: str, fds: Sequence[int], timeout: float) -> bool:
        return self._notify.tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds, timeout)


def _overwrite(fd: int, request: bytes) -> None:
    """Replace the content of a memfd with a request of at least one byte.

    The first byte is written last. A process that is killed meanwhile therefore leaves either the
    whole request or something that is not a request, and never a mixture of two requests.

    Raises:
        OSError: there is not enough memory.
    """
    os.pwrite(fd, _UNFINISHED, 0)
    if os.pwrite(fd, request[1:], 1) != len(request) - 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, len(request))
    os.pwrite(fd, request[:1], 0)


def _sealed(content: Iterable[bytes]) -> int:
    """Return a memfd with the content, which cannot be changed any more.

    Raises:
        OSError: there is not enough memory.
    """
    fd = os.memfd_create(STATE, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for piece in content:
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd
