# SPDX-License-Identifier: Apache-2.0
"""The control socket: one JSON request a line, one JSON answer a line.

It is asked seldom and by few, so everything here is the plain way. It must only never make the
loop wait: an answer that the socket does not take at once is sent when it does.
"""

import inspect
import socket
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from notif_relayd.access.admission import Admission
from notif_relayd.access.request_pacer import RequestPacer
from notif_relayd.control.schema import Request
from notif_relayd.net import ancillary
from notif_relayd.net.acceptor import Acceptor
from notif_relayd.net.loop import HANGUP, NOT_NOW, NOTHING, READ, WRITE, Loop
from notif_relayd.net.ratelimit import RateLimitedLog
from notif_relayd.peer import Peer
from notif_relayd.settings import ConnectionLimits

LIMITS = ConnectionLimits("connections", max_connections=32, per_user=16, rate=10_000)
"""relayctl closes its connection after one answer."""

MAX_REQUEST = 4096
"""Bytes of the longest request, its newline included."""

SHARE = 0.05
"""Share of the loop's processor time for the answers to one user. An answer about 2000 connections
takes 10 ms."""

BURST = 0.5
"""Seconds of processor time that the answers to one user may take at once."""

Method = Callable[..., object]
"""Gets the request's `id` where one is given; raises LookupError when that is nobody's."""


def answer(methods: Mapping[str, Method], request: bytes) -> bytes:
    """The answer to one request line."""
    return msgspec.json.encode(_answer(methods, request)) + b"\n"


def _answer(methods: Mapping[str, Method], request: bytes) -> dict[str, object]:
    try:
        asked = msgspec.json.decode(request, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"error": f"not a request: {error}"}
    method = methods.get(asked.method)
    if method is None:
        known = ", ".join(sorted(methods))
        return {"error": f"there is no method {asked.method!r}; there are {known}"}
    about = () if asked.id is None else (asked.id,)
    try:
        inspect.signature(method).bind(*about)
    except TypeError:
        needs = "takes no id" if about else "needs an id"
        return {"error": f"the method {asked.method!r} {needs}"}
    try:
        return {"result": method(*about)}
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
        loop: says when there is something to read, or room for an answer.
        log: where refused connections are reported.
        methods: what may be asked, and who knows the answer.
    """

    def __init__(self, loop: Loop, log: RateLimitedLog, methods: Mapping[str, Method]) -> None:
        self._loop = loop
        self._log = log
        self._methods = methods
        self._admission = Admission(LIMITS)
        self._clients: dict[int, _Client] = {}
        self._pacer = RequestPacer(loop.call_in, self._answer, SHARE, BURST)

    def listen(self, listener: socket.socket) -> Acceptor:
        """Answer whoever comes through `listener`."""
        return Acceptor(
            self._loop, self._log, listener, self._admission, self._welcome, lambda *_: None
        )

    def close(self) -> None:
        """Let everybody go."""
        for client in list(self._clients.values()):
            self._disconnect(client)

    @property
    def has_connections(self) -> bool:
        """Whether somebody is connected."""
        return bool(self._clients)

    def _welcome(self, connection: socket.socket, peer: Peer) -> None:
        client = _Client(connection, peer)
        self._loop.watch(connection.fileno(), READ, partial(self._on_event, client))
        self._clients[connection.fileno()] = client

    def _disconnect(self, client: _Client) -> None:
        fd = client.socket.fileno()
        self._loop.forget(fd)
        del self._clients[fd]
        self._pacer.leave(client.peer.uid, fd)
        ancillary.close(client.socket)
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
            if error.errno not in NOT_NOW:
                self._disconnect(client)

    def _read(self, client: _Client) -> None:
        data = ancillary.receive(client.socket, MAX_REQUEST)
        client.request += data
        if not self._serve(client) and (not data or len(client.request) >= MAX_REQUEST):
            self._disconnect(client)

    def _serve(self, client: _Client) -> bool:
        """Have a request answered, now or later, if one is complete; return whether one is."""
        if b"\n" not in client.request:
            return False
        fd = client.socket.fileno()
        self._loop.change(fd, NOTHING)
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
