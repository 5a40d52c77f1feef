# SPDX-License-Identifier: Apache-2.0
"""Parts of the relay with a loop in the test's process; a test can run single iterations."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from notif_relayd.access.policy import Policy
from notif_relayd.context import Context
from notif_relayd.control.server import ControlServer
from notif_relayd.fanout.fanout import Fanout
from notif_relayd.ingest.intake import Intake
from notif_relayd.net.loop import Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.records.validator import RoutingKey
from notif_relayd.settings import ConnectionLimits, GroupLimits
from notif_relayd.systemd.fdstore import FdStore
from notif_relayd.systemd.sdnotify import NotifySocket
from support.relay import connect

LOG = RateLimitedLog(logging.getLogger(__name__))
"""The log of the parts of the relay."""


class LoopHarness:
    """A loop with one listening socket, and the parts of the relay that accept from it.

    Args:
        directory: where the socket is created.
        max_connections: maximum number of connections, for each user and in total.
        loop: the loop; several harnesses may share one.
    """

    def __init__(self, directory: Path, max_connections: int, loop: Loop) -> None:
        self.loop = loop
        self.path = directory / "listener.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.fspath(self.path))
        self.listener.listen(1024)
        self.limits = ConnectionLimits(
            "max_connections",
            max_connections=max_connections,
            per_user=max_connections,
            rate=10_000,
        )
        self.notify = NotifySocket(None)
        store = FdStore(self.loop, self.notify, 0, (), {})
        self.context = Context(self.loop, LOG, itertools.count(), store)
        self.sockets: list[socket.socket] = [self.listener]
        self.parts: list[Intake | Fanout | ControlServer] = []

    def intake(
        self,
        publish: Callable[[bytes, list[RoutingKey]], float] = lambda *_: 0.0,
        limit: int = 1 << 20,
    ) -> Intake:
        intake = Intake(self.context, self.limits, limit, publish)
        self.parts.append(intake)
        intake.listen(self.listener)
        return intake

    def fanout(self) -> Fanout:
        fanout = Fanout(self.context, self.limits, Policy([]), 1 << 20, 1 << 20, GroupLimits())
        self.parts.append(fanout)
        fanout.listen(self.listener)
        return fanout

    def connect(self, number: int = 1) -> socket.socket:
        """Open this number of connections; return the last one."""
        self.sockets += [connect(self.path) for _ in range(number)]
        return self.sockets[-1]

    def run_once(self) -> None:
        """Run one iteration of the loop as a relay does."""
        self.loop.run_once()
        for each in self.parts:
            if isinstance(each, Intake):
                each.flush()

    def close(self) -> None:
        for each in (*self.parts, *self.sockets, self.notify):
            each.close()


def use_clock(
    harness: LoopHarness, monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    """Use the clocks in `clock` for the parts of the relay that are created from now on."""
    clocks = {
        name: vars(clock)[name] for name in ("monotonic", "thread_time") if hasattr(clock, name)
    }
    monkeypatch.setattr(harness.loop, "kernel", replace(harness.loop.kernel, **clocks))


def is_refused(connection: socket.socket) -> bool:
    """Return whether the relay has sent an error; nothing follows it."""
    connection.setblocking(False)
    try:
        data = connection.recv(4096, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    assert b"notif_relayd.error" in data
    return True


def drain_socket(connection: socket.socket) -> int:
    """Read all available data; return its size in bytes."""
    size = 0
    with contextlib.suppress(BlockingIOError):
        while data := connection.recv(1 << 20):
            size += len(data)
    return size


def read_available(client: socket.socket) -> bytes:
    """Return the available data of a non-blocking socket, at most 64 KiB."""
    try:
        return client.recv(1 << 16)
    except BlockingIOError:
        return b""
