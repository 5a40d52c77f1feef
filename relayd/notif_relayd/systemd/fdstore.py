# SPDX-License-Identifier: Apache-2.0
"""systemd's file descriptor store: connections and state that outlive the process.

The service manager keeps a duplicate of every connection and passes all of them to the next
process, so that neither a restart nor a crash ends a connection. A relay that stops writes its
state into a memfd and stores that as well.

A subscriber is stored together with a memfd for its last request, both in one message. A relay that
takes over after a crash therefore knows the filter of each subscriber in the store.

Three rules follow from the duplicates:

- Closing a connection does not end it, so it is shut down first.
- The service manager must not drop a connection when the peer hangs up, because the socket may hold
  unread records (``FDPOLL=0``).
- The service manager may be busy. A message that it cannot take at once is sent again later.
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
from notif_relayd.net.kernel import Kernel
from notif_relayd.net.loop import Loop
from notif_relayd.systemd.sdnotify import SEND_TIMEOUT, NotifySocket

LOG = logging.getLogger(__name__)

PRODUCER, SUBSCRIBER = "p", "s"
"""Prefixes of the names of connections, before the number. Short because of `MAX_NAMES`."""

STATE = "state"
"""Name of the memfd with the state."""

MAX_NAMES = 96 * 1024
"""Maximum size of all names in bytes. systemd passes them in one environment variable, whose size
execve(2) limits to 128 KiB."""

UNKNOWN = sys.maxsize
"""Capacity of a store whose size is unknown: systemd before version 254 does not pass it."""

RETRY_INTERVAL = 0.05
"""Seconds until a message that the service manager could not take is sent again."""

UNFINISHED = b"!"
"""First byte of a stored request while it is written. No JSON text starts with it."""

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class FdStore:
    """The service manager's store, if there is one.

    Args:
        loop: the event loop.
        notify: the notification socket of the service manager.
        capacity: maximum number of descriptors in the store; 0 without a store, `UNKNOWN` if
            the number is unknown.
        names: names of the descriptors in the store, one entry for each descriptor.
        requests: memfds with the last requests of these subscribers, by connection number.
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
        """Whether there is a store."""
        self._loop = loop
        self._kernel = loop.kernel
        self._notify = notify
        self._capacity = capacity
        self._stored = Counter(names)
        """Number of descriptors in the store, by name."""
        self._count = self._stored.total()
        """Number of descriptors that are in the store or about to be stored."""
        self._name_bytes_left = MAX_NAMES - sum(len(name) + 1 for name in self._stored.elements())
        self._to_store: dict[str, tuple[int, ...]] = {}
        """By name: descriptors that the service manager has not got yet."""
        self._to_remove: list[str] = []
        """Names that the service manager has not removed yet."""
        self._requests = dict(requests)
        self._scheduled = False
        self._full = False
        """Whether it has been logged that the store is full."""
        has_state = self._remove(STATE)
        for name in list(self._stored):
            if name[0] == SUBSCRIBER and int(name[1:]) not in self._requests:
                self._remove(name)
        if has_state:
            # After a crash of this process, the next one must not restore an outdated state.
            self._synchronize(SEND_TIMEOUT)
            notify.barrier()

    def keep_producer(self, number: int, connection: socket.socket) -> None:
        """Store the connection of a producer at the end of this iteration of the loop."""
        name = f"{PRODUCER}{number}"
        if self._has_room(name, 1):
            self._store(name, connection.fileno())

    def keep_subscriber(self, number: int, connection: socket.socket) -> None:
        """Store the connection and a request memfd of a subscriber at the end of this iteration.

        Do nothing for a subscriber that is in the store already.
        """
        name = f"{SUBSCRIBER}{number}"
        if self._has_room(name, 2):
            try:
                self._requests[number] = self._kernel.memfd_create("request", os.MFD_CLOEXEC)
            except OSError as error:
                LOG.warning("cannot store a connection for a restart: %s", error.strerror)
            else:
                self._store(name, connection.fileno(), self._requests[number])

    def request_of(self, number: int) -> bytes:
        """Return the stored request of a subscriber; empty if there is none."""
        fd = self._requests.get(number)
        return b"" if fd is None else self._kernel.pread(fd, MAX_REQUEST_SIZE, 0)

    def keep_request(self, number: int, request: bytes) -> None:
        """Replace the stored request of a subscriber.

        If the request cannot be written, the connection is removed from the store: a crash then
        ends the connection, instead of leaving it without its filter.
        """
        fd = self._requests.get(number)
        if fd is None:
            return
        try:
            _overwrite(self._kernel, fd, request)
        except OSError as error:
            LOG.warning("cannot store a filter for a restart: %s", error.strerror)
            self._forget_subscriber(number)

    def close_connection(self, kind: str, number: int, connection: socket.socket) -> None:
        """End a connection and remove it from the store."""
        stored = self._remove(f"{kind}{number}")
        if kind == SUBSCRIBER and number in self._requests:
            self._kernel.close(self._requests.pop(number))
        if stored:
            # The duplicate in the store would keep the connection open.
            with contextlib.suppress(OSError):  # The peer may have hung up.
                connection.shutdown(socket.SHUT_RDWR)
        self._kernel.close_socket(connection)

    def save_state(self, state: Iterable[bytes]) -> None:
        """Store the state for the next process; no other method may be called afterwards."""
        try:
            fd = _sealed(self._kernel, state)
        except OSError as error:
            LOG.error("cannot save the state for the next process: %s", error.strerror)
            return
        sent = self._synchronize(SEND_TIMEOUT) and self._send_fds(STATE, [fd], SEND_TIMEOUT)
        self._kernel.close(fd)
        if not (sent and self._notify.barrier()):
            LOG.error("the service manager did not confirm that it keeps the connections")

    def _forget_subscriber(self, number: int) -> None:
        self._remove(f"{SUBSCRIBER}{number}")
        self._kernel.close(self._requests.pop(number))

    def _has_room(self, name: str, count: int) -> bool:
        """Return whether `count` descriptors can be stored under a name that is not in use."""
        if not self.usable or name in self._stored or name in self._to_store:
            return False
        # One descriptor and its name are reserved for the state.
        names = self._name_bytes_left - count * (len(name) + 1)
        if names > len(STATE) and self._count + count < self._capacity:
            return True
        if not self._full:
            self._full = True
            LOG.warning(
                "the descriptor store is full with %d descriptors: further connections end with "
                "this process; raise FileDescriptorStoreMax=",
                self._count,
            )
        return False

    def _store(self, name: str, *fds: int) -> None:
        self._count += len(fds)
        self._name_bytes_left -= len(fds) * (len(name) + 1)
        self._to_store[name] = fds
        self._schedule()

    def _remove(self, name: str) -> bool:
        """Remove a name from the store; return whether the service manager had it."""
        stored = self._stored.pop(name, 0)
        count = stored + len(self._to_store.pop(name, ()))
        self._count -= count
        self._name_bytes_left += count * (len(name) + 1)
        if stored:
            self._to_remove.append(name)
            self._schedule()
        return bool(stored)

    def _schedule(self, seconds: float = 0) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_in(seconds, self._send_changes)

    def _send_changes(self) -> None:
        self._scheduled = False
        if not self._synchronize(0):
            self._schedule(RETRY_INTERVAL)

    def _synchronize(self, timeout: float) -> bool:
        """Send all changes to the service manager; return whether all were sent.

        Args:
            timeout: seconds to wait for each message.
        """
        while self._to_remove:
            name = self._to_remove[-1]
            if not self._notify.send(f"FDSTOREREMOVE=1\nFDNAME={name}", timeout=timeout):
                return False
            self._to_remove.pop()
        for name, fds in list(self._to_store.items()):
            if not self._send_fds(name, fds, timeout):
                return False
            del self._to_store[name]
            self._stored[name] = len(fds)
        return True

    def _send_fds(self, name: str, fds: Sequence[int], timeout: float) -> bool:
        return self._notify.send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds, timeout)


def _overwrite(kernel: Kernel, fd: int, request: bytes) -> None:
    """Replace the content of a memfd with a request of at least one byte.

    The first byte is written last. If the process is killed before that, the content is not a
    request; it is never a mixture of two requests.

    Raises:
        OSError: memory is exhausted.
    """
    kernel.pwrite(fd, UNFINISHED, 0)
    if kernel.pwrite(fd, request[1:], 1) != len(request) - 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    kernel.ftruncate(fd, len(request))
    kernel.pwrite(fd, request[:1], 0)


def _sealed(kernel: Kernel, content: Iterable[bytes]) -> int:
    """Return a sealed memfd with the content.

    Raises:
        OSError: memory is exhausted.
    """
    fd = kernel.memfd_create(STATE, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in content:
            view = memoryview(part)
            while view:
                view = view[kernel.write(fd, view) :]
        kernel.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        kernel.close(fd)
        raise
    return fd
