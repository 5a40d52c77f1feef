# SPDX-License-Identifier: Apache-2.0
"""Answers Prometheus over HTTP.

Each scrape asks the relay, one after the other: nothing is kept, and only a scrape wakes this
process. A relay that does not run is a figure like any other, which Prometheus is told with 0; why
it could not be asked is logged when that changes.

A client cannot keep others out: a request has one deadline, however slowly it arrives, and a
bounded size, and when there are too many connections the oldest one is closed.
"""

import contextlib
import http.client
import io
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from notif_relayctl.prometheus.exposition import RelayCollector
from notif_relayd.escaping import printable

PATH = "/metrics"

REQUEST_TIME = 10.0
"""Seconds from the start of a connection in which its request must come and its answer be taken:
Prometheus' own limit by default."""

MAX_REQUEST = 16 * 1024
"""Bytes of a request, its headers included; Prometheus sends less than 1 KiB."""

MAX_CONNECTIONS = 32
"""Connections at once, each with a thread. The unit's TasksMax= leaves room for as many again."""

REPORT_INTERVAL = 10.0
"""Seconds between two messages about unexpected errors."""


class Log:
    """Where problems are told; unexpected ones at most once every `REPORT_INTERVAL` seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._state = ""
        self._quiet_until = 0.0
        self._held_back = 0

    def tell_state(self, state: str) -> None:
        """Say how the relay is doing, if that has changed."""
        if state != self._state:
            self._state = state
            self._write(state)

    def tell_error(self, error: BaseException | None) -> None:
        """Say that something has failed for a reason that is not known."""
        now = time.monotonic()
        if now < self._quiet_until:
            self._held_back += 1
            return
        more = f" (and {self._held_back} more before it)" if self._held_back else ""
        self._quiet_until, self._held_back = now + REPORT_INTERVAL, 0
        self._write(f"a request could not be answered: {error!r}{more}")

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):  # The client is gone.
            self._stream.write(f"{printable(line)}\n")
            self._stream.flush()


class Scrapes:
    """The WSGI application.

    Args:
        collector: asks the relay.
        log: where problems with that are told.
    """

    def __init__(self, collector: RelayCollector, log: Log) -> None:
        self._collector = collector
        self._log = log
        self._answer: Callable[..., Iterable[bytes]] = make_wsgi_app(collector.registry())
        self._lock = threading.Lock()

    def __call__(
        self, environ: Mapping[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        """Answer one request."""
        if environ["PATH_INFO"] != PATH:
            return _say(start_response, "404 Not Found", f"The metrics are at {PATH}.")
        if not self._lock.acquire(timeout=REQUEST_TIME):
            return _say(start_response, "503 Service Unavailable", "Too many scrapes at once.")
        try:
            answer = self._answer(environ, start_response)
            self._log.tell_state(str(self._collector.problem or "the relay answers"))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next scrape may work
            self._log.tell_error(error)
            return _say(start_response, "500 Internal Server Error", "See the exporter's log.")
        finally:
            self._lock.release()
        return answer


def _say(start_response: Callable[..., object], status: str, sentence: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{sentence}\n".encode()]


class Server(ThreadingMixIn, WSGIServer):
    """Listens on one address."""

    daemon_threads = True
    request_queue_size = 128
    """Connections that may wait to be accepted; with socketserver's 5 some would wait a second."""

    log: Log
    """Where unexpected errors are told."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connections: dict[socket.socket, None] = {}
        """The oldest first."""
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind, without http.server's looking for the name of the host, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    @property
    def url(self) -> str:
        """Where to scrape."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}{PATH}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection; close the oldest one if there are too many."""
        with self._lock:
            self._connections[request] = None
            if len(self._connections) > MAX_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                with contextlib.suppress(OSError):  # It may just have ended.
                    oldest.shutdown(socket.SHUT_RDWR)  # which its thread notices
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - theirs
        """Say nothing of a client that has left, or that took too long."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.log.tell_error(error)


class _Bounded(io.RawIOBase):
    """A connection with one deadline for all that is read and written, and a bound on the former.

    Reads raise LineTooLong beyond that, of which http.server makes the status 431.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + REQUEST_TIME
        self._left = MAX_REQUEST

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            raise http.client.LineTooLong("request")
        self._set_timeout()
        size = self._connection.recv_into(buffer, min(len(buffer), self._left))
        self._left -= size
        return size

    def write(self, data: Any) -> int:
        self._set_timeout()
        self._connection.sendall(data)
        return len(data)

    def _set_timeout(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)


class _Handler(WSGIRequestHandler):
    # For an error before the request line is known.
    command = requestline = ""
    request_version = "HTTP/1.0"

    def setup(self) -> None:
        self.connection = self.request
        bounded = _Bounded(self.connection)
        self.rfile, self.wfile = io.BufferedReader(bounded), io.BufferedWriter(bounded)

    def handle(self) -> None:
        try:
            super().handle()
        except http.client.LineTooLong:
            self.send_error(431)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say nothing of a scrape."""


def listen(host: str, port: int, collector: RelayCollector, log: TextIO) -> Server:
    """A server on the first address that the host has; port 0 is any that is free.

    Raises:
        OSError: that is not possible.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    class Listening(Server):
        address_family = found[0][0]

    server = Listening((host, port))
    server.log = Log(log)
    server.set_app(Scrapes(collector, server.log))
    return server
