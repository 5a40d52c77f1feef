# SPDX-License-Identifier: Apache-2.0
"""The server of the control socket: one JSON request per line, one JSON answer per line.

Requests are rare, so this code is simple instead of fast. It never blocks the loop: an answer that
does not fit into the socket is sent when there is room.
"""

import inspect
import socket
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from notif_relayd.access.admission import Admission
from notif_relayd.access.request_pacer import RequestPacer
from notif_relayd.control.schema import Request
from notif_relayd.net.acceptor import Acceptor
from notif_relayd.net.loop import HANGUP, PAUSED, READ, TRANSIENT_ERRORS, WRITE, Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.peer import Peer
from notif_relayd.settings import ConnectionLimits

LIMITS = ConnectionLimits("connections", max_connections=32, per_user=16, rate=10_000)
"""Limits of the control socket. relayctl closes its connection after one answer."""

MAX_REQUEST_SIZE = 4096
"""Maximum size of a request in bytes, including its newline; a longer one closes the connection."""

SHARE = 0.05
"""Share of the loop's processor time for the answers to one user. A list of 2000 connections takes
10 ms."""

BURST = 0.5
"""Processor time, in seconds, that the answers to one user may take without a pause."""

Method = Callable[..., object]
"""Called with the `id` of the request, if there is one; raises LookupError for an unknown id."""


def answer(methods: Mapping[str, Method], line: bytes) -> bytes:
    """Return the answer to one request line."""
    return msgspec.json.encode(_answer(methods, line)) + b"\n"


def _answer(methods: Mapping[str, Method], line: bytes) -> dict[str, object]:
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"error": f"not a request: {error}"}
    method = methods.get(request.method)
    if method is None:
        known = ", ".join(sorted(methods))
        return {"error": f"there is no method {request.method!r}; the methods are {known}"}
    arguments = () if request.id is None else (request.id,)
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError:
        needs = "takes no id" if arguments else "needs an id"
        return {"error": f"the method {request.method!r} {needs}"}
    try:
        return {"result": method(*arguments)}
    except LookupError as error:
        return {"error": str(error.args[0])}


class _Client:
    __slots__ = ("peer", "request", "socket", "unsent")

    def __init__(self, connection: socket.socket, peer: Peer) -> None:
        self.socket = connection
        self.peer = peer
        self.request = b""
        self.unsent = b""


class ControlServer:
    """All connections to the control socket.

    Args:
        loop: the event loop.
        log: for refused connections.
        methods: functions that compute the answers, by the name of the method.
    """

    def __init__(self, loop: Loop, log: RateLimitedLog, methods: Mapping[str, Method]) -> None:
        self._loop = loop
        self._log = log
        self._methods = methods
        self._admission = Admission(LIMITS, loop.kernel.monotonic)
        self._clients: dict[int, _Client] = {}
        self._pacer = RequestPacer(loop.call_in, loop.kernel, self._answer, SHARE, BURST)

    def listen(self, listener: socket.socket) -> Acceptor:
        """Serve the connections to a listening socket."""
        return Acceptor(
            self._loop, self._log, listener, self._admission, self._add, lambda *_: None
        )

    def close(self) -> None:
        """Close all connections."""
        for client in list(self._clients.values()):
            self._disconnect(client)

    @property
    def has_connections(self) -> bool:
        """Whether there is a connection."""
        return bool(self._clients)

    def _add(self, connection: socket.socket, peer: Peer) -> None:
        client = _Client(connection, peer)
        self._loop.watch(connection.fileno(), READ, partial(self._on_event, client))
        self._clients[connection.fileno()] = client

    def _disconnect(self, client: _Client) -> None:
        fd = client.socket.fileno()
        self._loop.forget(fd)
        del self._clients[fd]
        self._pacer.leave(client.peer.uid, fd)
        self._loop.kernel.close_socket(client.socket)
        self._admission.leave(client.peer)

    def _on_event(self, client: _Client, events: int) -> None:
        try:
            if events & HANGUP:
                self._disconnect(client)
            elif events & WRITE:
                self._send(client)
            else:
                self._read(client)
        except OSError as error:
            if error.errno not in TRANSIENT_ERRORS:
                self._disconnect(client)

    def _read(self, client: _Client) -> None:
        data = self._loop.kernel.receive(client.socket, MAX_REQUEST_SIZE)
        client.request += data
        if not data and client.request.strip():
            client.request += b"\n"  # the end of input ends a request as well
        if not self._serve(client) and (not data or len(client.request) >= MAX_REQUEST_SIZE):
            self._disconnect(client)

    def _serve(self, client: _Client) -> bool:
        """Schedule the answer if a request is complete; return whether one is."""
        if b"\n" not in client.request:
            return False
        fd = client.socket.fileno()
        self._loop.change(fd, PAUSED)  # before `enter`, which may call `_answer` at once
        self._pacer.enter(client.peer.uid, fd)
        return True

    def _answer(self, fd: int) -> None:
        client = self._clients[fd]
        line, _, client.request = client.request.partition(b"\n")
        client.unsent = answer(self._methods, line)
        self._loop.change(fd, WRITE)

    def _send(self, client: _Client) -> None:
        client.unsent = client.unsent[client.socket.send(client.unsent) :]
        if not client.unsent and not self._serve(client):
            self._loop.change(client.socket.fileno(), READ)
