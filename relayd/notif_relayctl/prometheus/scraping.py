# SPDX-License-Identifier: Apache-2.0
"""HTTP server for Prometheus.

Each scrape queries the relay, one scrape after the other. Nothing is cached, and only a scrape
wakes this process. If the query fails, the scrape succeeds with notif_relayd_up 0; the reason is
logged when it changes.

A client cannot block other clients: each connection has one deadline and a maximum request size,
and if there are too many connections, the oldest is closed. The server of prometheus_client has no
such limits: each idle client occupies a thread until it disconnects, and under the unit's
TasksMax=64 fewer than 64 of them make every scrape fail.
"""

import contextlib
import http.client
import io
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TextIO
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from notif_relayctl.prometheus.exposition import RelayCollector
from notif_relayd.escaping import printable

PATH = "/metrics"

NAME = "name[]"
"""Parameter that selects a metric by its name; may be repeated. An empty one is ignored."""

INDEX = f"""\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>notif-relayd exporter</title></head>
<body>
<h1>notif-relayd exporter</h1>
<p>Metrics of the relay for Prometheus: <a href="{PATH.removeprefix("/")}">{PATH}</a></p>
</body>
</html>
"""
"""The page at /. The link is relative, because a proxy may serve the exporter under a prefix."""

OPENMETRICS = "application/openmetrics-text"

METHODS = ("GET", "HEAD")

REQUEST_TIMEOUT = 10.0
"""Seconds from the start of a connection until the client has sent the request and received the
answer; the default scrape_timeout of Prometheus."""

MAX_REQUEST = 16 * 1024
"""Bytes of a request, including its headers; Prometheus sends less than 1 KiB."""

MAX_CONNECTIONS = 32
"""Concurrent connections. Each has a thread; the unit's TasksMax= allows twice as many."""

REPORT_INTERVAL = 10.0
"""Minimum interval, in seconds, between two messages about unexpected errors."""


class Log:
    """Log of the exporter; unexpected errors are rate-limited by `REPORT_INTERVAL`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._state = ""
        self._quiet_until = 0.0
        self._suppressed = 0

    def report_state(self, state: str) -> None:
        """Log the state of the relay and the bridges if it has changed."""
        if state != self._state:
            self._state = state
            self._write(state)

    def report_error(self, error: BaseException | None) -> None:
        """Log an unexpected error, unless another was logged within `REPORT_INTERVAL`."""
        now = time.monotonic()
        if now < self._quiet_until:
            self._suppressed += 1
            return
        more = f" ({self._suppressed} earlier errors not logged)" if self._suppressed else ""
        self._quiet_until, self._suppressed = now + REPORT_INTERVAL, 0
        self._write(f"cannot answer a request: {error!r}{more}")

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):  # The log is closed or full.
            self._stream.write(f"{printable(line)}\n")
            self._stream.flush()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: str
    headers: list[tuple[str, str]]
    body: bytes


def _text(status: str, sentence: str, *headers: tuple[str, str]) -> _Answer:
    kind = ("Content-Type", "text/plain; charset=utf-8")
    return _Answer(status, [kind, *headers], f"{sentence}\n".encode())


class Application:
    """The WSGI application: the metrics, and a page that links them.

    Args:
        collector: queries the relay.
        log: receives errors and the state of the relay.
    """

    def __init__(self, collector: RelayCollector, log: Log) -> None:
        self._collector = collector
        self._log = log
        self._lock = threading.Lock()

    def __call__(
        self, environ: Mapping[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        """Answer one request; HEAD is answered like GET, without the body."""
        answer = self._answer(environ)
        size = ("Content-Length", str(len(answer.body)))
        start_response(answer.status, [*answer.headers, size])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def _answer(self, environ: Mapping[str, Any]) -> _Answer:
        path = environ["PATH_INFO"]
        if path not in ("/", PATH):
            return _text("404 Not Found", f"The metrics are at {PATH}.")
        if environ["REQUEST_METHOD"] not in METHODS:
            allow = ("Allow", ", ".join(METHODS))
            return _text("405 Method Not Allowed", f"Use {' or '.join(METHODS)}.", allow)
        if path == "/":
            headers = [("Content-Type", "text/html; charset=utf-8")]
            return _Answer("200 OK", headers, INDEX.encode())
        return self._scrape(environ)

    def _scrape(self, environ: Mapping[str, Any]) -> _Answer:
        if not self._lock.acquire(timeout=REQUEST_TIMEOUT):
            return _text("503 Service Unavailable", "Too many scrapes.")
        begun: list[Any] = []
        names = parse_qs(environ["QUERY_STRING"]).get(NAME)
        collector = _Selected(self._collector, frozenset(names)) if names else self._collector
        request = {**environ, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}
        # The library fails at versions that are no numbers, and repeats any other.
        for key, kind in (("HTTP_ACCEPT", OPENMETRICS), ("HTTP_ACCEPT_ENCODING", "gzip")):
            request[key] = kind if _accepts(environ.get(key, ""), kind) else ""
        try:
            body = make_wsgi_app(collector)(request, lambda *start: begun.extend(start))
            self._log.report_state(self._collector.state)
        except Exception as error:  # noqa: BLE001 - the next scrape may succeed
            self._log.report_error(error)
            return _text("500 Internal Server Error", "See the exporter's log.")
        finally:
            self._lock.release()
        status, headers = begun
        return _Answer(status, headers, b"".join(body))


def _accepts(header: str, kind: str) -> bool:
    """Return whether a header of a request accepts a media type or an encoding."""
    for each in header.lower().split(","):
        name, *parameters = (part.strip() for part in each.split(";"))
        if name == kind and not any(re.fullmatch(r"q=0(\.0*)?", part) for part in parameters):
            return True
    return False


class _Selected(Collector):
    """The samples of another collector that have one of these names.

    That of prometheus_client asks a collector for its names when it is registered; these depend on
    the relay.
    """

    def __init__(self, collector: Collector, names: frozenset[str]) -> None:
        self._collector = collector
        self._names = names

    def collect(self) -> Iterator[Metric]:
        for each in self._collector.collect():
            each.samples = [sample for sample in each.samples if sample.name in self._names]
            if each.samples:
                yield each


class Server(ThreadingMixIn, WSGIServer):
    """Threaded server on one address, with limits for its clients."""

    daemon_threads = True
    request_queue_size = 128
    """Length of the queue of new connections. With the default of 5, some clients wait a second."""

    log: Log
    """Receives unexpected errors."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._connections: dict[socket.socket, None] = {}
        """Open connections, the oldest first."""
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the look-up of the host name in http.server, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    @property
    def url(self) -> str:
        """The URL to scrape."""
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}{PATH}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection; close the oldest connection if there are too many."""
        with self._lock:
            self._connections[request] = None
            if len(self._connections) > MAX_CONNECTIONS:
                oldest = next(iter(self._connections))
                del self._connections[oldest]
                with contextlib.suppress(OSError):  # The client may have closed it.
                    oldest.shutdown(socket.SHUT_RDWR)  # This ends its thread.
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - base class
        """Log the error, unless the client closed the connection or exceeded its deadline."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.log.report_error(error)


class _Bounded(io.RawIOBase):
    """A connection with one deadline for all operations and a maximum number of bytes to read.

    Reading more raises `LineTooLong`, which http.server answers with status 431.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + REQUEST_TIMEOUT
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
    # Values for an error that occurs before the request line is parsed.
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

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - base class
        """Do not log scrapes."""


def listen(host: str, port: int, collector: RelayCollector, log: TextIO) -> Server:
    """Return a server on the first address of a host.

    Args:
        host: name or address.
        port: the port; 0 for a free one.
        collector: queries the relay.
        log: receives the messages of the server.

    Raises:
        OSError: the name is unknown, or the address cannot be used.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)

    class Listening(Server):
        address_family = found[0][0]

    server = Listening((host, port))
    server.log = Log(log)
    server.set_app(Application(collector, server.log))
    return server
