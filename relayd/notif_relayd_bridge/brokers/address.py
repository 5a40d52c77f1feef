# SPDX-License-Identifier: Apache-2.0
"""Parses URLs that name several servers: ``scheme://user:password@host:port,host:port``.

No message contains a part of the URL: only its parser knows where the password ends.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from notif_relayd_bridge.errors import StartError


@dataclass(frozen=True, slots=True)
class Server:
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """The servers of a broker, and how to log in there."""

    servers: tuple[Server, ...]
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)


def parse(url: str, scheme: str, default_port: int) -> Address:
    """Return the parts of a URL; user and password are decoded.

    Args:
        url: the URL.
        scheme: its scheme, for messages.
        default_port: the port of a server for which the URL has none.

    Raises:
        StartError: the URL is invalid.
    """
    form = f"{scheme}://USER:PASSWORD@HOST:PORT,HOST:PORT"
    rest = url.partition("://")[2]
    login, at, hosts = rest.rpartition("@")
    hosts, _, more = hosts.partition("/")
    if more or "?" in hosts or "#" in hosts:
        raise StartError(
            f"the URL of the broker has something after its hosts, but the form is {form}: move "
            f"options to the section [{scheme}]"
        )
    if not at:
        return Address(_servers(hosts, form, default_port))
    user, colon, password = login.partition(":")
    return Address(
        _servers(hosts, form, default_port), unquote(user), unquote(password) if colon else None
    )


def _servers(hosts: str, form: str, default_port: int) -> tuple[Server, ...]:
    servers = []
    for each in hosts.split(","):
        host = port = None
        if each.isprintable() and " " not in each:
            with contextlib.suppress(ValueError):
                parts = urlsplit(f"//{each}")
                host, port = parts.hostname, parts.port
        if not host:
            raise StartError(f"the URL of the broker has an invalid host or port: write {form}")
        servers.append(Server(host, default_port if port is None else port))
    return tuple(servers)
