# SPDX-License-Identifier: Apache-2.0
"""A bridge with the target and source ``test``, which a test commands over a Unix socket.

The target writes messages to the socket, and reads commands, one a line: ``confirm COUNT`` and
``refuse REASON``. The source reads messages, one a line, and writes the number of messages of each
acknowledgement. ``unreadable REASON`` is a message that is no notification. The end of the
connection is a failure.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from typing import Generic, Protocol, TypeVar

from oslo_config import cfg

from notif_relay import Notification
from notif_relayd_bridge.brokers.schemes import SCHEMES, Scheme
from notif_relayd_bridge.brokers.source import Selection, Source, SourceEvents
from notif_relayd_bridge.brokers.target import Events, Target
from notif_relayd_bridge.main import main

PAUSE = 0.02
"""Seconds between two attempts to connect."""


class Failing(Protocol):
    """The events of both directions."""

    def failed(self, reason: str) -> None: ...


E = TypeVar("E", bound=Failing)


class SocketClient(Generic[E]):
    """The client for ``test://user:password@host/PATH``; the path is that of the socket."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._closed = threading.Event()
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self, events: E) -> None:
        self._thread = threading.Thread(target=self._run, args=[events])
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()

    def _write(self, data: bytes) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendall(data)

    def _run(self, events: E) -> None:
        while not self._closed.is_set():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                try:
                    sock.connect(self._path)
                    self._socket = sock
                    if self._closed.is_set():  # close() has not seen the socket.
                        return
                    self._read(sock, events)
                    reason = "the connection has ended"
                except OSError as error:
                    reason = str(error.strerror)
                self._socket = None
                if not self._closed.is_set():
                    events.failed(reason)
            self._closed.wait(PAUSE)

    def _read(self, sock: socket.socket, events: E) -> None:
        raise NotImplementedError


class SocketTarget(SocketClient[Events]):
    max_unconfirmed = 50

    def send(self, notification: Notification) -> None:
        self._write(notification.raw)

    def _read(self, sock: socket.socket, events: Events) -> None:
        events.connected()
        with sock.makefile() as commands:
            for line in commands:
                command, _, argument = line.strip().partition(" ")
                if command == "confirm":
                    events.confirmed(int(argument))
                else:
                    events.refused(argument)


class SocketSource(SocketClient[SourceEvents]):
    max_unacknowledged = 50

    def acknowledge(self, count: int) -> None:
        self._write(b"%d\n" % count)

    def _read(self, sock: socket.socket, events: SourceEvents) -> None:
        events.connected()
        with sock.makefile("rb") as messages:
            for line in messages:
                if line.startswith(b"unreadable "):
                    events.unreadable(line.decode().strip())
                else:
                    events.received(line)


def source_options() -> list[tuple[str, list[cfg.Opt]]]:
    return [("test", [cfg.StrOpt("password", secret=True)])]


def create_source(url: str, conf: cfg.ConfigOpts, selection: Selection) -> Source:
    return SocketSource("/" + url.partition("://")[2].partition("/")[2])


def options() -> list[tuple[str, list[cfg.Opt]]]:
    return [("test", [cfg.IntOpt("size"), cfg.StrOpt("password", secret=True)])]


def create(url: str, conf: cfg.ConfigOpts) -> Target:
    return SocketTarget("/" + url.partition("://")[2].partition("/")[2])


if __name__ == "__main__":
    SCHEMES["test"] = Scheme("support.bridge_program", "test", ())
    sys.exit(main(sys.argv[1:]))
