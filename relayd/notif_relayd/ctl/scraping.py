# SPDX-License-Identifier: Apache-2.0
"""Answers Prometheus over HTTP.

Each scrape asks the relay, one after the other: nothing is kept, and only a scrape wakes this
process. A relay that does not run is a figure like any other, which Prometheus is told with 0; why
it could not be asked is logged when that changes. A client that takes its time holds up a thread
for a while, and nobody else.
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from notif_relayd.ctl.exposition import RelayCollector

PATH = "/metrics"

REQUEST_TIME = 10.0
"""Seconds that a client may take for each part of its request, and for taking the answer."""


class Scrapes:
    """The WSGI application.

    Args:
        collector: asks the relay.
        log: where problems with that are told.
    """

    def __init__(self, collector: RelayCollector, log: TextIO) -> None:
        self._collector = collector
        self._log = log
        self._answer: Callable[..., Iterable[bytes]] = make_wsgi_app(collector.registry())
        self._lock = threading.Lock()
        self._told = ""

    def __call__(
        self, environ: Mapping[str, Any], start_response: Callable[..., object]
    ) -> Iterable[bytes]:
        """Answer one request."""
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"The metrics are at {PATH}.\n".encode()]
        with self._lock:
            answer = self._answer(environ, start_response)
            self._tell(str(self._collector.problem or "the relay answers"))
        return answer

    def _tell(self, state: str) -> None:
        if state != self._told:
            self._told = state
            self._log.write(f"{state}\n")
            self._log.flush()


class Server(ThreadingMixIn, WSGIServer):
    """Listens on one address."""

    daemon_threads = True
    request_queue_size = 128
    """Connections that may wait to be accepted; with socketserver's 5 some would wait a second."""

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

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has left, or that took too long."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIME

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

    server = Listening((host, port), _Handler)
    server.set_app(Scrapes(collector, log))
    return server
