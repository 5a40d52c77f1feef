# SPDX-License-Identifier: Apache-2.0
"""A proxy between a client and a server, which stalls, cuts, resets and refuses connections."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable

from support.waiting import TIMEOUT

_SIZE = 64 * 1024


class Proxy:
    """Forwards the connections to a port on the loopback interface, in a thread.

    Args:
        port: the port of the server.
        address: host and port in the server's protocol, for which clients are told the proxy's.
    """

    def __init__(self, port: int, address: Callable[[int], bytes] | None = None) -> None:
        self.sent = bytearray()
        """What the clients have sent; may be cleared."""
        self.cut_after: int | None = None
        """Bytes from clients after which all connections are cut, once."""
        self.cut_answer_after: int | None = None
        """Further bytes from the server after which its connection is cut, once."""
        self.was_cut = threading.Event()
        """Set when connections are cut; then new ones are refused if `refuses_after_cut`."""
        self.refuses_after_cut = False
        self._server = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._others: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._is_stalled = False
        self._is_refusing = False
        self._is_closing = False
        self._followed = threading.Event()
        self._replacement = (address(port), address(self.port)) if address else None
        self._thread = threading.Thread(target=self._forward)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closing = True
        self._wake.send(b"x")
        self._thread.join()
        self._selector.close()
        for each in (*self._others, self._listener, self._wake, self._woken):
            each.close()

    def stall(self, stalled: bool = True) -> None:
        """Stop forwarding and accepting, or go on."""
        self._is_stalled = stalled
        self._wake.send(b"x")

    def refuse(self, refused: bool = True) -> None:
        """Reset all connections and refuse new ones, or accept them again."""
        self._is_refusing = refused
        self._followed.clear()
        self._wake.send(b"x")
        assert self._followed.wait(TIMEOUT)

    def _forward(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._woken:
                    sock.recv(_SIZE)
                    self._follow(self._is_stalled)
                    if self._is_refusing:
                        self._reset_all()
                    self._followed.set()
                    break  # Other events may be of sockets that are closed now.
                if sock is self._listener:
                    self._accept()
                elif sock in self._others:
                    self._copy(sock)

    def _follow(self, is_stalled: bool) -> None:
        watched = {key.fileobj for key in self._selector.get_map().values()}
        for each in (*self._others, self._listener):
            if is_stalled and each in watched:
                self._selector.unregister(each)
            elif not is_stalled and each not in watched:
                self._selector.register(each, selectors.EVENT_READ)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._is_refusing:
            _reset(client)
            return
        try:
            server = socket.create_connection(self._server)
        except OSError:
            client.close()
            return
        self._clients.add(client)
        for sock, other in ((client, server), (server, client)):
            self._others[sock] = other
            self._selector.register(sock, selectors.EVENT_READ)

    def _copy(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(_SIZE)
            is_cut = False
            if sock in self._clients:
                self.sent += data
                is_cut = self.cut_after is not None and len(self.sent) > self.cut_after
                if is_cut:
                    data = data[: len(data) - (len(self.sent) - (self.cut_after or 0))]
                    self.cut_after = None
            else:
                is_cut = self.cut_answer_after is not None and len(data) > self.cut_answer_after
                if is_cut:
                    data = data[: self.cut_answer_after]
                    self.cut_answer_after = None
                elif self.cut_answer_after is not None:
                    self.cut_answer_after -= len(data)
                if self._replacement:
                    data = data.replace(*self._replacement)
            self._is_refusing |= is_cut and self.refuses_after_cut
            self._others[sock].sendall(data)
        except OSError:
            data, is_cut = b"", False
        if is_cut or not data:
            self._end(sock)
        if is_cut:
            self.was_cut.set()

    def _end(self, sock: socket.socket) -> None:
        for each in (sock, self._others[sock]):
            with contextlib.suppress(KeyError):
                self._selector.unregister(each)
            self._clients.discard(each)
            del self._others[each]
            each.close()

    def _reset_all(self) -> None:
        for each in list(self._others):
            with contextlib.suppress(KeyError):  # It is stalled.
                self._selector.unregister(each)
            _reset(each)
        self._others.clear()
        self._clients.clear()


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
