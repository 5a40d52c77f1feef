# SPDX-License-Identifier: Apache-2.0
"""A kernel for simulations: Unix stream sockets, epoll, memfds and time, all of them obedient.

A relay in a simulation runs unchanged. What it asks of Linux is asked of this, which answers as
unix(7), epoll(7) and the kernel's net/unix/af_unix.c do, as far as the relay can tell, and which
fails as they may whenever a seed says so. What that is not: a place for any knowledge of records.

A description is what the kernel calls an open file description: a socket in a process, in the
service manager's store and in a listener's queue is the same one, and ends with the last of them.
A process has numbers for descriptions, the lowest free one first, so that numbers come again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from notif_relayd._native import routing_keys_of
from notif_relayd.net import kernel as kernel_interface
from notif_relayd.records.validator import RoutingKey

NOT_NOW = (errno.EINTR, errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
RECEIVING = (*NOT_NOW, errno.ECONNRESET)
SENDING = (*NOT_NOW, errno.EPIPE, errno.ECONNRESET)
ACCEPTING = (*NOT_NOW, errno.ECONNABORTED, errno.EMFILE, errno.ENFILE)
WATCHING = (errno.ENOMEM, errno.ENOSPC)
CREATING = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)

Buffer = bytes | bytearray | memoryview


class Killed(BaseException):
    """SIGKILL: the process is gone, wherever it was."""


class Description:
    """Anything that a descriptor stands for; by itself something that nothing ever happens to."""

    def __init__(self) -> None:
        self.holders = 0
        self.doomed = False
        """Whether the relay has a reason to end it that the other side has not given."""

    def events(self) -> int:
        return 0

    def release(self) -> None:
        """One holder less."""
        self.holders -= 1
        if not self.holders:
            self.end()

    def end(self) -> None:
        """The last holder has let go."""


class Bell(Description):
    """Something that is readable once it was rung."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = False

    def events(self) -> int:
        return self.rung * select.EPOLLIN


class Memfd(Description):
    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray()


class End(Description):
    """One end of a connection."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.peer = self
        self.queue = bytearray()
        """To be read here."""
        self.capacity = capacity
        """Bytes that it may have on the way to its peer."""
        self.no_more_to_read = False
        self.may_not_send = False
        self.error = 0

    def events(self) -> int:
        gone = self.no_more_to_read and self.may_not_send
        readable = self.queue or self.no_more_to_read
        # unix_writable(): only with three quarters free, though a send succeeds before that.
        writable = len(self.peer.queue) * 4 <= self.capacity
        return (
            bool(self.error) * select.EPOLLERR
            | gone * select.EPOLLHUP
            | bool(readable) * select.EPOLLIN
            | writable * select.EPOLLOUT
        )

    def recv(self, size: int) -> bytes:
        if self.queue:
            data = bytes(self.queue[:size])
            del self.queue[:size]
            return data
        self._report()
        if self.no_more_to_read:
            return b""
        raise fault(errno.EAGAIN)

    def send(self, data: Buffer) -> int:
        self._report()
        if self.may_not_send:
            raise fault(errno.EPIPE)
        sent = min(len(data), self.capacity - len(self.peer.queue))
        if sent <= 0:
            raise fault(errno.EAGAIN)
        self.peer.queue += data[:sent]
        return sent

    def shutdown(self) -> None:
        """Both directions, whoever holds it too."""
        for end in (self, self.peer):
            end.no_more_to_read = end.may_not_send = True

    def finish(self) -> None:
        """Send no more, but go on reading."""
        self.may_not_send = True
        self.peer.no_more_to_read = True

    def end(self) -> None:
        if self.queue:
            self.peer.error = errno.ECONNRESET
            self.queue.clear()
        self.shutdown()

    def _report(self) -> None:
        if self.error:
            number, self.error = self.error, 0
            raise fault(number)


class Listener(Description):
    """A listening socket, and those who wait in it."""

    BACKLOG = 16

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.waiting: deque[End] = deque()

    def events(self) -> int:
        return select.EPOLLIN if self.waiting else 0

    def connect(self, capacity: int) -> End | None:
        """The client's end of a new connection, unless there is no room to wait in."""
        if len(self.waiting) >= self.BACKLOG:
            return None
        client, server = End(capacity), End(capacity)
        client.peer, server.peer = server, client
        client.holders = server.holders = 1
        self.waiting.append(server)
        return client


@dataclass
class Observer:
    """Told of what the relay's process has done to a connection."""

    accepted: Callable[[Listener, End], None]
    received: Callable[[End, bytes], None]
    sent: Callable[[End, bytes], None]
    closed: Callable[[End], None]
    """By the relay itself, not because its process has ended."""


@dataclass
class Kernel:
    """What one process has of the kernel, and how it fares."""

    random: random.Random
    faults: float
    """How likely a call is to fail, or to do less than it could."""
    now: float = 1000.0
    files: dict[int, Description] = field(default_factory=dict)
    sockets: dict[int, Socket] = field(default_factory=dict)
    """The last one of each number."""
    lives: int | None = None
    """Calls until the process is killed."""
    sleep: Callable[[bool], bool] = lambda _: False
    """Called when the process sleeps, and told whether for good; whether the world has moved."""
    calls: int = 0

    def monotonic(self) -> float:
        return self.now

    def open(self, description: Description) -> int:
        number = next(each for each in range(3, 10_000) if each not in self.files)
        self.files[number] = description
        description.holders += 1
        return number

    def close(self, number: int) -> None:
        if number not in self.files:
            raise fault(errno.EBADF)
        self.files.pop(number).release()

    def exit(self) -> None:
        """The process has ended."""
        while self.files:
            self.files.popitem()[1].release()
        self.lives = None

    def call(self, *errors: int, about: Description | None = None) -> None:
        """The process makes a call, which may fail in one of these ways, or be its last."""
        self.calls += 1
        if self.lives is not None:
            self.lives -= 1
            if self.lives <= 0:
                raise Killed
        if errors and self.random.random() < self.faults:
            number = self.random.choice(errors)
            if about is not None and number not in NOT_NOW:
                about.doomed = True
            raise fault(number)

    def less(self, size: int) -> int:
        """How much of `size` bytes a call takes."""
        if size and self.random.random() < 3 * self.faults:
            return 1 + int(self.random.random() * (size - 1))
        return size


class Socket:
    """What stands for a `socket.socket` in the process."""

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

    def getsockopt(self, _level: int, _option: int, size: int = 0) -> bytes:
        return bytes(size)  # by the process 0, which is none, of root; and false

    def accept(self) -> tuple[Socket, str]:
        assert isinstance(self.description, Listener)
        self._kernel.call(*ACCEPTING)
        if not self.description.waiting:
            raise fault(errno.EAGAIN)
        end = self.description.waiting.popleft()
        connection = Socket(self._kernel, self._observer, end)
        end.holders -= 1
        self._observer.accepted(self.description, end)
        return connection, ""

    def recv(self, size: int) -> bytes:
        end = self._end()
        self._kernel.call(*RECEIVING, about=end)
        data = end.recv(self._kernel.less(size))
        if data:
            self._observer.received(end, data)
        self._kernel.call()
        return data

    def send(self, data: Buffer) -> int:
        end = self._end()
        self._kernel.call(*SENDING, about=end)
        sent = end.send(data[: self._kernel.less(len(data))])
        self._observer.sent(end, bytes(data[:sent]))
        self._kernel.call()
        return sent

    def sendmsg(self, buffers: Iterable[Buffer]) -> int:
        data = b"".join(buffers)
        if not data:
            return 0
        return self.send(data)

    def shutdown(self, _how: int) -> None:
        self._end().shutdown()

    def detach(self) -> int:
        number, self._number = self._number, -1
        return number

    def close(self) -> None:
        if self._number >= 0:
            end = self._end()
            self._kernel.close(self._number)
            self._number = -1
            self._observer.closed(end)

    def _end(self) -> End:
        if self._number < 0:
            raise fault(errno.EBADF)
        assert isinstance(self.description, End)
        return self.description


class Epoll(Description):
    """select.epoll, level-triggered; one may watch another."""

    UNASKED = select.EPOLLERR | select.EPOLLHUP
    """Reported in any case, until EPOLLONESHOT has ended it all."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel
        self._watched: dict[int, tuple[Description, int]] = {}
        self._number = kernel.open(self)
        self.inner = False
        """Whether another watches it; then it is only asked, and the process does not sleep."""

    def fileno(self) -> int:
        return self._number

    def events(self) -> int:
        return bool(self._ready()) * select.EPOLLIN

    def register(self, number: int, events: int) -> None:
        if number in self._watched and self._watched[number][0].holders:
            raise fault(errno.EEXIST)
        description = self._description(number)
        try:
            self._kernel.call(*WATCHING)
        except OSError:
            description.doomed = True
            raise
        self._watched[number] = description, events | self.UNASKED
        if isinstance(description, Epoll):
            description.inner = True

    def modify(self, number: int, events: int) -> None:
        self._kernel.call()
        if self._watched.get(number, (None, 0))[0] is not self._description(number):
            raise fault(errno.ENOENT)
        self._watched[number] = self._description(number), events | self.UNASKED

    def unregister(self, number: int) -> None:
        self._kernel.call()
        if self._watched.get(number, (None, 0))[0] is not self._description(number):
            raise fault(errno.ENOENT)
        del self._watched[number]

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        self._kernel.call()
        while True:
            moved = not self.inner and self._kernel.sleep(timeout < 0 and not self._ready())
            ready = self._ready()
            if ready:
                self._kernel.random.shuffle(ready)
                for number, _ in ready:
                    description, asked = self._watched[number]
                    if asked & select.EPOLLONESHOT:
                        self._watched[number] = description, 0
                return ready
            if timeout >= 0 and (not moved or self._kernel.random.random() < 0.5):
                self._kernel.now += timeout
                return []
            assert moved, "the relay sleeps, and there is nobody to wake it"

    def close(self) -> None:
        self._watched.clear()
        self._kernel.close(self._number)

    def _ready(self) -> list[tuple[int, int]]:
        # A description that somebody else holds is reported though its number is closed here, as
        # Linux does.
        found = [
            (number, description.events() & asked)
            for number, (description, asked) in self._watched.items()
            if description.holders
        ]
        return [(number, events) for number, events in found if events]

    def _description(self, number: int) -> Description:
        if number not in self._kernel.files:
            raise fault(errno.EBADF)
        return self._kernel.files[number]


class Native:
    """The module `_shortcut`, as its stub describes it."""

    MAX_SOCKETS = 4

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.runs = 0
        """Of good records, which it has relayed."""

    def wait(
        self,
        epoll: int,
        seconds: float,
        producers: dict[int, Any],
        read_size: int,
        rules: tuple[bytes, int],
        sockets: list[int],
        most: int,
        _peek: bool,
    ) -> tuple[float, list[tuple[int, int]], tuple[Any, bytes, list[RoutingKey], list[int]] | None]:
        assert len(sockets) <= self.MAX_SOCKETS
        polled = self._kernel.files[epoll]
        assert isinstance(polled, Epoll)
        happened = polled.poll(seconds)
        awake = self._kernel.now
        if len(happened) == 1 and happened[0][1] == select.EPOLLIN:
            number, _ = happened[0]
            if number in producers:
                run = self._read(number, read_size)
                if run:
                    routing_keys = routing_keys_of(run, rules)
                    self.runs += bool(routing_keys)
                    sends = sockets if routing_keys and len(run) < most else []
                    results = [self._send(each, run) for each in sends]
                    return awake, [], (producers[number], run, routing_keys, results)
        return awake, happened, None

    def _read(self, number: int, size: int) -> bytes:
        try:
            return self._kernel.sockets[number].recv(size)
        except OSError:
            return b""

    def _send(self, number: int, run: bytes) -> int:
        try:
            return self._kernel.sockets[number].send(run)
        except OSError as error:
            return -(error.errno or 0)


class Files:
    """System calls for memfds."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def memfd_create(self, _name: str, _flags: int) -> int:
        self._kernel.call(*CREATING)
        return self._kernel.open(Memfd())

    def ftruncate(self, number: int, size: int) -> None:
        self._kernel.call()
        del self._content(number)[size:]

    def pread(self, number: int, size: int, offset: int) -> bytes:
        return bytes(self._content(number)[offset : offset + size])

    def pwrite(self, number: int, data: Buffer, offset: int) -> int:
        self._kernel.call(errno.ENOMEM, errno.ENOSPC)
        self._content(number)[offset : offset + len(data)] = data
        return len(data)

    def write(self, number: int, data: Buffer) -> int:
        self._kernel.call(errno.ENOMEM, errno.ENOSPC)
        written = self._kernel.less(len(data))
        self._content(number).extend(data[:written])
        return written

    def fcntl(self, number: int, command: int, _argument: int) -> int:
        assert command == fcntl.F_ADD_SEALS
        return len(self._content(number)) * 0

    def _content(self, number: int) -> bytearray:
        description = self._kernel.files[number]
        assert isinstance(description, Memfd)
        return description.content


def system_calls(kernel: Kernel) -> kernel_interface.Kernel:
    """Return the system calls of a process in the simulation."""
    files = Files(kernel)
    return kernel_interface.Kernel(
        monotonic=kernel.monotonic,
        thread_time=kernel.monotonic,
        epoll=lambda: Epoll(kernel),
        getpid=lambda: 1,
        memfd_create=files.memfd_create,
        pread=files.pread,
        pwrite=files.pwrite,
        write=files.write,
        ftruncate=files.ftruncate,
        fcntl=files.fcntl,
        close=kernel.close,
        protect=lambda _: True,
        receive=lambda connection, size: connection.recv(size),
        close_socket=lambda connection: connection.close(),
    )


class ServiceManager:
    """The notification socket and the file descriptor store behind it."""

    usable = True

    def __init__(self, kernel: Kernel, room: int) -> None:
        self._kernel = kernel
        self.room = room
        self.store: dict[str, list[Description]] = {}

    def send(self, message: str, fds: Sequence[int] = (), timeout: float = 0.0) -> bool:
        self._kernel.call()
        if self._kernel.random.random() < self._kernel.faults * (0 if timeout else 3):
            return False
        fields = dict(line.split("=", 1) for line in message.splitlines())
        name = fields.get("FDNAME", "")
        if "FDSTOREREMOVE" in fields and name in self.store:
            for description in self.store.pop(name):
                description.release()
        elif "FDSTORE" in fields:
            assert name not in self.store, "one name for two connections"
            assert fields["FDPOLL"] == "0"
            self._keep(name, [self._kernel.files[number] for number in fds])
        return True

    def barrier(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is open here."""

    def _keep(self, name: str, descriptions: list[Description]) -> None:
        count = sum(map(len, self.store.values())) + len(descriptions)
        assert count <= self.room, "more than the store takes"
        self.store[name] = descriptions
        for description in descriptions:
            description.holders += 1


def fault(number: int, *more: Any) -> OSError:
    """The exception that Python makes of an error number."""
    return OSError(number, os.strerror(number), *more)
