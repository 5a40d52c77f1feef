# SPDX-License-Identifier: Apache-2.0
"""A proxy between a client and a server, which stalls and cuts connections."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading

_SIZE = 64 * 1024


class Proxy:
    """Forwards the connections to a port on the loopback interface, in a thread.

    Args:
        port: the port of the server.
    """

    def __init__(self, port: int) -> None:
        self.sent = bytearray()
        """What the clients have sent."""
        self.cut_after: int | None = None
        """Bytes from clients after which all connections are cut, once."""
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
        self._is_closing = False
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

    def _forward(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._woken:
                    sock.recv(_SIZE)
                    self._follow(self._is_stalled)
                elif sock is self._listener:
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
            self._others[sock].sendall(data)
        except OSError:
            data, is_cut = b"", False
        if is_cut or not data:
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        for each in (sock, self._others[sock]):
            with contextlib.suppress(KeyError):
                self._selector.unregister(each)
            self._clients.discard(each)
            del self._others[each]
            each.close()
