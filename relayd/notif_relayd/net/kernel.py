# SPDX-License-Identifier: Apache-2.0
"""The system calls that a simulation replaces."""

import fcntl
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from notif_relayd.net import ancillary


class Epoll(Protocol):
    """The methods of `select.epoll` that the relay uses."""

    def fileno(self) -> int: ...
    def register(self, fd: int, eventmask: int, /) -> None: ...
    def modify(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout: float, /) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Kernel:
    """The functions through which the relay calls the system.

    The fields have the names of the functions in `os`, `time`, `select` and `fcntl`; the last three
    are those of `ancillary`. Methods of sockets are not listed, because a simulation passes its own
    socket objects. Where a call is made for each read or batch, the constructors bind the function,
    so that the indirection costs nothing.
    """

    monotonic: Callable[[], float] = time.monotonic
    thread_time: Callable[[], float] = time.thread_time
    epoll: Callable[[], Epoll] = select.epoll
    getpid: Callable[[], int] = os.getpid
    memfd_create: Callable[[str, int], int] = os.memfd_create
    pread: Callable[[int, int, int], bytes] = os.pread
    pwrite: Callable[[int, bytes | memoryview, int], int] = os.pwrite
    write: Callable[[int, bytes | memoryview], int] = os.write
    ftruncate: Callable[[int, int], None] = os.ftruncate
    fcntl: Callable[[int, int, int], int] = fcntl.fcntl
    close: Callable[[int], None] = os.close
    protect: Callable[[socket.socket], bool] = ancillary.protect
    receive: Callable[[socket.socket, int], bytes] = ancillary.receive
    close_socket: Callable[[socket.socket], None] = ancillary.close


SYSTEM = Kernel()
"""The real system."""
