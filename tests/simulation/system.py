# SPDX-License-Identifier: Apache-2.0
"""What surrounds the relay's process: its system calls, compiled module, signals and manager."""

import errno
import fcntl
import select
from collections.abc import Sequence
from typing import TypeVar

from notif_relayd._native import routing_keys_of
from notif_relayd.net.kernel import Kernel as SystemCalls
from notif_relayd.net.loop import Events
from notif_relayd.records.validator import RoutingKey
from simulation.kernel import Buffer, Description, Epoll, EventFlag, Kernel, Memfd

CREATE_ERRORS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC)
WRITE_ERRORS = (errno.ENOMEM, errno.ENOSPC)

_Producer = TypeVar("_Producer")


class MemfdCalls:
    """System calls for memfds."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def memfd_create(self, _name: str, _flags: int) -> int:
        self._kernel.call(*CREATE_ERRORS)
        return self._kernel.open(Memfd())

    def ftruncate(self, number: int, size: int) -> None:
        self._kernel.call()
        del self._content(number)[size:]

    def pread(self, number: int, size: int, offset: int) -> bytes:
        return bytes(self._content(number)[offset : offset + size])

    def pwrite(self, number: int, data: Buffer, offset: int) -> int:
        self._kernel.call(*WRITE_ERRORS)
        self._content(number)[offset : offset + len(data)] = data
        return len(data)

    def write(self, number: int, data: Buffer) -> int:
        self._kernel.call(*WRITE_ERRORS)
        written = self._kernel.partial(len(data))
        self._content(number).extend(data[:written])
        return written

    def fcntl(self, number: int, command: int, _argument: int) -> int:
        assert command == fcntl.F_ADD_SEALS
        self._content(number)
        return 0

    def _content(self, number: int) -> bytearray:
        description = self._kernel.files[number]
        assert isinstance(description, Memfd)
        return description.content


def system_calls(kernel: Kernel) -> SystemCalls:
    """Return the system calls of a process in the simulation."""
    memfds = MemfdCalls(kernel)
    return SystemCalls(
        monotonic=kernel.monotonic,
        thread_time=kernel.monotonic,
        epoll=lambda: Epoll(kernel),
        getpid=lambda: 1,
        memfd_create=memfds.memfd_create,
        pread=memfds.pread,
        pwrite=memfds.pwrite,
        write=memfds.write,
        ftruncate=memfds.ftruncate,
        fcntl=memfds.fcntl,
        close=kernel.close,
        protect=lambda _: True,
        receive=lambda connection, size: connection.recv(size),
        close_socket=lambda connection: connection.close(),
    )


class Native:
    """The module `_native` on top of the simulated kernel."""

    MAX_SOCKETS = 4

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.batches = 0
        """Batches of valid records that were relayed."""

    def wait(
        self,
        epoll: int,
        seconds: float,
        producers: dict[int, _Producer],
        read_size: int,
        rules: tuple[bytes, int],
        sockets: list[int],
        max_records: list[int],
        threshold: int,
        _peek: bool,
        /,
    ) -> tuple[float, Events, tuple[_Producer, bytes, list[RoutingKey], list[int | None]] | None]:
        assert len(sockets) == len(max_records) <= self.MAX_SOCKETS
        polled = self._kernel.files[epoll]
        assert isinstance(polled, Epoll)
        happened = polled.poll(seconds)
        awake = self._kernel.now
        if len(happened) == 1 and happened[0][1] == select.EPOLLIN:
            number, _ = happened[0]
            if number in producers:
                batch = self._read(number, read_size)
                if batch:
                    routing_keys = routing_keys_of(batch, rules)
                    self.batches += bool(routing_keys)
                    recipients = sockets if routing_keys and len(batch) < threshold else []
                    results = [
                        self._send(each, batch) if len(routing_keys) <= limit else None
                        for each, limit in zip(recipients, max_records, strict=False)
                    ]
                    return awake, [], (producers[number], batch, routing_keys, results)
        return awake, happened, None

    def _read(self, number: int, size: int) -> bytes:
        try:
            return self._kernel.sockets[number].recv(size)
        except OSError:
            return b""

    def _send(self, number: int, batch: bytes) -> int:
        try:
            return self._kernel.sockets[number].send(batch)
        except OSError as error:
            return -(error.errno or 0)


class Signals:
    """The signals of a process; only a signal to stop is simulated."""

    def __init__(self, kernel: Kernel) -> None:
        self.stop = False
        self.pending = EventFlag()
        """Set to send a signal."""
        self._number = kernel.open(self.pending)

    def fileno(self) -> int:
        return self._number

    def handle(self, _events: int) -> None:
        self.pending.is_set = False
        self.stop = True


class ServiceManager:
    """The notification socket, and the file descriptor store behind it.

    Args:
        kernel: decides which messages are not taken.
        capacity: descriptors that the store takes.
    """

    usable = True

    def __init__(self, kernel: Kernel, capacity: int) -> None:
        self._kernel = kernel
        self.capacity = capacity
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
            assert name not in self.store, "two connections have the same name"
            assert fields["FDPOLL"] == "0"
            self._keep(name, [self._kernel.files[number] for number in fds])
        return True

    def barrier(self) -> bool:
        return True

    def _keep(self, name: str, descriptions: list[Description]) -> None:
        count = sum(map(len, self.store.values())) + len(descriptions)
        assert count <= self.capacity, "the relay stores more than the store takes"
        self.store[name] = descriptions
        for description in descriptions:
            description.holders += 1
