# SPDX-License-Identifier: Apache-2.0
"""A simulated kernel: Unix stream sockets, epoll and time.

It answers as unix(7), epoll(7) and the kernel's net/unix/af_unix.c do, as far as the relay can
observe, and causes the errors that these allow at random. It knows nothing about records.

A description is what open(2) calls an open file description. A socket in a process, in the store of
the service manager and in the queue of a listener is one description, which ends when its last
holder releases it. A process refers to descriptions by descriptors, and gets the lowest free one,
so that descriptors are used again.
"""

from __future__ import annotations

import errno
import os
import random
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

TRANSIENT_ERRORS = (errno.EINTR, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
RECV_ERRORS = (*TRANSIENT_ERRORS, errno.ECONNRESET)
SEND_ERRORS = (*TRANSIENT_ERRORS, errno.EPIPE, errno.ECONNRESET)
ACCEPT_ERRORS = (*TRANSIENT_ERRORS, errno.ECONNABORTED, errno.EMFILE, errno.ENFILE)
WATCH_ERRORS = (errno.ENOMEM, errno.ENOSPC)

MAX_DESCRIPTORS = 10_000

MAX_SHORT_TIMEOUT = 1.0
"""Seconds up to which a timeout often expires before anything happens."""

Buffer = bytes | bytearray | memoryview


class Killed(BaseException):
    """The process got SIGKILL; it may be raised by any system call."""


class Description:
    """An open file description; this base class never has events."""

    def __init__(self) -> None:
        self.holders = 0
        self.may_close = False
        """Whether the relay has a reason to close it that its peer did not cause."""

    def events(self) -> int:
        """Return the epoll events that are pending."""
        return 0

    def release(self) -> None:
        """Remove one holder."""
        self.holders -= 1
        if not self.holders:
            self.end()

    def end(self) -> None:
        """Called when the last holder has released it."""


class EventFlag(Description):
    """A description that is readable while its flag is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_set = False

    def events(self) -> int:
        return self.is_set * select.EPOLLIN


class Memfd(Description):
    """A file in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray()


class Endpoint(Description):
    """One end of a connection.

    Args:
        capacity: bytes that may be in transit to the peer.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.peer = self
        self.queue = bytearray()
        """Received data that has not been read."""
        self.capacity = capacity
        self.read_shut = False
        self.write_shut = False
        self.error = 0
        """Pending error number, as SO_ERROR."""
        self.uid = 0
        """The user of the peer."""

    def events(self) -> int:
        hung_up = self.read_shut and self.write_shut
        readable = self.queue or self.read_shut
        # unix_writable() requires three quarters of the space; a send succeeds with less.
        writable = len(self.peer.queue) * 4 <= self.capacity
        return (
            bool(self.error) * select.EPOLLERR
            | hung_up * select.EPOLLHUP
            | bool(readable) * select.EPOLLIN
            | writable * select.EPOLLOUT
        )

    def recv(self, size: int) -> bytes:
        if self.queue:
            data = bytes(self.queue[:size])
            del self.queue[:size]
            return data
        self._raise_error()
        if self.read_shut:
            return b""
        raise os_error(errno.EAGAIN)

    def send(self, data: Buffer) -> int:
        self._raise_error()
        if self.write_shut:
            raise os_error(errno.EPIPE)
        sent = min(len(data), self.capacity - len(self.peer.queue))
        if sent <= 0:
            raise os_error(errno.EAGAIN)
        self.peer.queue += data[:sent]
        return sent

    def shutdown(self) -> None:
        """Shut down both directions, for all holders."""
        for end in (self, self.peer):
            end.read_shut = end.write_shut = True

    def shutdown_write(self) -> None:
        """Shut down the direction to the peer."""
        self.write_shut = True
        self.peer.read_shut = True

    def end(self) -> None:
        if self.queue:
            self.peer.error = errno.ECONNRESET
            self.queue.clear()
        self.shutdown()

    def _raise_error(self) -> None:
        if self.error:
            number, self.error = self.error, 0
            raise os_error(number)


class Listener(Description):
    """A listening socket and its queue."""

    BACKLOG = 16

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.waiting: deque[Endpoint] = deque()

    def events(self) -> int:
        return select.EPOLLIN if self.waiting else 0

    def connect(self, capacity: int) -> Endpoint | None:
        """Return the client's end of a new connection; `None` if the queue is full."""
        if len(self.waiting) >= self.BACKLOG:
            return None
        client, server = Endpoint(capacity), Endpoint(capacity)
        client.peer, server.peer = server, client
        client.holders = server.holders = 1
        self.waiting.append(server)
        return client


@dataclass
class Observer:
    """Functions that are called after the relay's process has used a connection."""

    accepted: Callable[[Listener, Endpoint], None]
    received: Callable[[Endpoint, bytes], None]
    """Called with no data at the end of the input."""
    sent: Callable[[Endpoint, bytes], None]
    closed: Callable[[Endpoint], None]
    """Called only if the relay closes it, not at the end of the process."""


@dataclass
class Kernel:
    """The kernel, as one process at a time uses it."""

    random: random.Random
    faults: float
    """Probability that a system call fails, or transfers less than it could."""
    now: float = 1000.0
    files: dict[int, Description] = field(default_factory=dict)
    sockets: dict[int, Socket] = field(default_factory=dict)
    """The latest socket of each descriptor."""
    calls_left: int | None = None
    """System calls until the process is killed; `None` if it is not."""
    sleep: Callable[[bool], bool] = lambda _: False
    """Called when the process sleeps, with whether it does so without a timeout; returns whether
    anything has happened."""
    calls: int = 0
    """System calls so far."""

    def monotonic(self) -> float:
        return self.now

    def open(self, description: Description) -> int:
        """Return a new descriptor of the process."""
        number = next(each for each in range(3, MAX_DESCRIPTORS) if each not in self.files)
        self.files[number] = description
        description.holders += 1
        return number

    def close(self, number: int) -> None:
        """Close a descriptor of the process."""
        if number not in self.files:
            raise os_error(errno.EBADF)
        self.files.pop(number).release()

    def exit(self) -> None:
        """End the process."""
        while self.files:
            self.files.popitem()[1].release()
        self.calls_left = None

    def call(self, *errors: int, about: Description | None = None) -> None:
        """Count a system call, which may fail or be the last one of the process.

        Args:
            errors: the errors that the call may have.
            about: the connection that an error which is not transient makes the relay close.

        Raises:
            OSError: the call fails.
            Killed: the process is killed.
        """
        self.calls += 1
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left <= 0:
                raise Killed
        if errors and self.random.random() < self.faults:
            number = self.random.choice(errors)
            if about is not None and number not in TRANSIENT_ERRORS:
                about.may_close = True
            raise os_error(number)

    def partial(self, size: int) -> int:
        """Return how many of `size` bytes a call transfers."""
        if size and self.random.random() < 3 * self.faults:
            return 1 + int(self.random.random() * (size - 1))
        return size


class Socket:
    """A `socket.socket` of the process."""

    def __init__(self, kernel: Kernel, observer: Observer, description: Description) -> None:
        self._kernel = kernel
        self._observer = observer
        self.description = description
        self._number = kernel.open(description)
        kernel.sockets[self._number] = self

    def fileno(self) -> int:
        return self._number

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def getsockname(self) -> str:
        assert isinstance(self.description, Listener)
        return self.description.path

    def getsockopt(self, _level: int, option: int, size: int = 0) -> bytes:
        if option != socket.SO_PEERCRED:
            return bytes(size)
        uid = self.description.uid if isinstance(self.description, Endpoint) else 0
        return struct.pack("3i", 0, uid, 0)  # process 0, which does not exist

    def accept(self) -> tuple[Socket, str]:
        assert isinstance(self.description, Listener)
        self._kernel.call(*ACCEPT_ERRORS)
        if not self.description.waiting:
            raise os_error(errno.EAGAIN)
        end = self.description.waiting.popleft()
        connection = Socket(self._kernel, self._observer, end)
        end.holders -= 1
        self._observer.accepted(self.description, end)
        return connection, ""

    def recv(self, size: int) -> bytes:
        end = self._endpoint()
        self._kernel.call(*RECV_ERRORS, about=end)
        data = end.recv(self._kernel.partial(size))
        self._observer.received(end, data)
        self._kernel.call()
        return data

    def send(self, data: Buffer) -> int:
        end = self._endpoint()
        self._kernel.call(*SEND_ERRORS, about=end)
        sent = end.send(data[: self._kernel.partial(len(data))])
        self._observer.sent(end, bytes(data[:sent]))
        self._kernel.call()
        return sent

    def sendmsg(self, buffers: Iterable[Buffer]) -> int:
        data = b"".join(buffers)
        if not data:
            return 0
        return self.send(data)

    def shutdown(self, _how: int) -> None:
        self._endpoint().shutdown()

    def detach(self) -> int:
        number, self._number = self._number, -1
        return number

    def close(self) -> None:
        if self._number >= 0:
            end = self._endpoint()
            self._kernel.close(self._number)
            self._number = -1
            self._observer.closed(end)

    def _endpoint(self) -> Endpoint:
        if self._number < 0:
            raise os_error(errno.EBADF)
        assert isinstance(self.description, Endpoint)
        return self.description


class Epoll(Description):
    """A level-triggered `select.epoll`; it can be watched by another one."""

    ALWAYS_REPORTED = select.EPOLLERR | select.EPOLLHUP
    """Events that are reported even if not requested, until EPOLLONESHOT has disabled all."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel
        self._watched: dict[int, tuple[Description, int]] = {}
        self._number = kernel.open(self)
        self.inner = False
        """Whether another epoll watches it; its `poll` does not sleep then."""

    def fileno(self) -> int:
        return self._number

    def events(self) -> int:
        return bool(self._ready()) * select.EPOLLIN

    def register(self, number: int, events: int) -> None:
        if number in self._watched and self._watched[number][0].holders:
            raise os_error(errno.EEXIST)
        description = self._description(number)
        try:
            self._kernel.call(*WATCH_ERRORS)
        except OSError:
            description.may_close = True
            raise
        self._watched[number] = description, events | self.ALWAYS_REPORTED
        if isinstance(description, Epoll):
            description.inner = True

    def modify(self, number: int, events: int) -> None:
        self._kernel.call()
        if self._watched.get(number, (None, 0))[0] is not self._description(number):
            raise os_error(errno.ENOENT)
        self._watched[number] = self._description(number), events | self.ALWAYS_REPORTED

    def unregister(self, number: int) -> None:
        self._kernel.call()
        if self._watched.get(number, (None, 0))[0] is not self._description(number):
            raise os_error(errno.ENOENT)
        del self._watched[number]

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        self._kernel.call()
        while True:
            changed = not self.inner and self._kernel.sleep(timeout < 0 and not self._ready())
            ready = self._ready()
            if ready:
                self._kernel.random.shuffle(ready)
                for number, _ in ready:
                    description, requested = self._watched[number]
                    if requested & select.EPOLLONESHOT:
                        self._watched[number] = description, 0
                return ready
            is_over = self._kernel.random.random() < (0.5 if timeout < MAX_SHORT_TIMEOUT else 0.05)
            if timeout >= 0 and (not changed or is_over):
                self._kernel.now += timeout
                return []
            assert changed, "the relay sleeps without a timeout, and nothing can wake it"

    def close(self) -> None:
        self._watched.clear()
        self._kernel.close(self._number)

    def _ready(self) -> list[tuple[int, int]]:
        # As in Linux, a description with another holder is reported after its descriptor was
        # closed here.
        found = [
            (number, description.events() & requested)
            for number, (description, requested) in self._watched.items()
            if description.holders
        ]
        return [(number, events) for number, events in found if events]

    def _description(self, number: int) -> Description:
        if number not in self._kernel.files:
            raise os_error(errno.EBADF)
        return self._kernel.files[number]


def os_error(number: int) -> OSError:
    """Return the exception for an error number."""
    return OSError(number, os.strerror(number))
