# SPDX-License-Identifier: Apache-2.0
"""Services with an HTTP API, on a port of the loopback interface."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.services import program, running_service
from support.waiting import wait_until

WORKERS = 2

NOTIFYING = """
logging_context_format_string = %(name)s %(message)s
logging_default_format_string = %(name)s %(message)s
[oslo_messaging_notifications]
driver = log
driver = unix
sock_path = {public}
"""
"""End of a configuration, to be continued in [DEFAULT]: both drivers get each notification."""


@dataclass(frozen=True)
class Server:
    """A program that runs the application of a service."""

    program: str
    file: str
    """Name of the configuration file."""
    configuration: str
    variable: str
    """Environment variable that names the configuration file."""
    value: str


# Not on the command line of gunicorn, because keystone reads that as its own.
GUNICORN = Server(
    "gunicorn",
    "gunicorn.conf.py",
    """
bind = "127.0.0.1:0"
control_socket_disable = True
workers = {workers}
wsgi_app = "{application}"
""",
    "GUNICORN_CMD_ARGS",
    "--config {file}",
)

# Without lazy-apps: the workers are forked after the application is loaded.
UWSGI = Server(
    "uwsgi",
    "uwsgi.ini",
    """
[uwsgi]
die-on-term = true
enable-threads = true
http-socket = 127.0.0.1:0
master = true
module = {application}
need-app = true
processes = {workers}
""",
    "UWSGI_INI",
    "{file}",
)


class WebService:
    """The API of a running service."""

    def __init__(self, url: str) -> None:
        self._url = url

    def request(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, Any, Any]:
        """Send a request, and return the status, the headers and the parsed body of the answer.

        Args:
            method: Method of HTTP.
            path: Path in the service.
            body: What is sent: bytes, or anything else as JSON.
            **headers: Headers, with `_` in place of `-`.
        """
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=data,
            headers={"Content-Type": "application/json", **given},
        )
        try:
            answer = urllib.request.urlopen(request, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            text = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, answer.headers, json.loads(text) if is_json else text


@contextmanager
def running_web_service(
    server: Server, application: str, directory: Path, **variables: str
) -> Iterator[str]:
    """Run a service until the end of the block, and yield its URL.

    Args:
        server: Program that runs the application.
        application: Module and name of the WSGI application.
        directory: Directory for the configuration and the log of the server.
        **variables: Environment variables of the service.
    """
    file = directory / server.file
    file.write_text(server.configuration.format(workers=WORKERS, application=application))
    variables[server.variable] = server.value.format(file=file)
    log = directory / f"{server.program}.log"
    with running_service(log, program(server.program), **variables):
        # From then on, a connection waits until a worker accepts it.
        wait_until(lambda: address(log), f"{server.program} listens")
        yield f"http://{address(log)}"


def address(log: Path) -> str | None:
    """Return the address in the log of a server, if it listens."""
    match = re.search(r"127\.0\.0\.1:[1-9]\d*", log.read_text())
    return match and match[0]


def logged(log: Path) -> list[bytes]:
    """Return the notifications that `driver = log` has written, each with its line end."""
    lines = log.read_bytes().splitlines(keepends=True)
    return [
        line.partition(b" ")[2]
        for line in lines
        if line.startswith(b"oslo.messaging.notification") and line.endswith(b"\n")
    ]
