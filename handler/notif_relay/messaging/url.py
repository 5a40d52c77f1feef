# SPDX-License-Identifier: Apache-2.0
"""Determines the socket from a transport URL.

oslo.messaging parses the URL before the driver gets it, as if it named message brokers: the part
between the slashes becomes hosts, the path becomes a virtual host without its first slash, and
other parts are lost. This module therefore refuses everything except a plain absolute path. If
a part were ignored, a consumer could listen at another socket than the configured one.
"""

import os

from oslo_messaging import InvalidTransportURL, TransportURL

from notif_relay.connection import checked_path

EXAMPLE = "unix:///run/notif-relayd/notifications.sock"


def socket_path(url: TransportURL) -> str:
    """Return the path of the public socket that ``url`` names.

    Raises:
        InvalidTransportURL: the URL names no socket, or has other parts.
    """
    if url.hosts:
        # The message does not contain the URL, which may include a password.
        raise _invalid(url, "has a host, user or password, or a relative path")
    if url.query:
        raise _invalid(url, f"has a query, {'&'.join(url.query)}; write a ? in a path as %3F")
    if not url.virtual_host:
        raise _invalid(url, "has no absolute path")
    if url.virtual_host.endswith("/"):
        raise _invalid(url, "ends with a slash, so it names a directory")
    if "\N{REPLACEMENT CHARACTER}" in url.virtual_host:
        raise _invalid(url, "has a path that is not UTF-8")
    return checked_socket_path(url, os.path.join("/", url.virtual_host))


def checked_socket_path(url: TransportURL, path: str) -> str:
    """Return the absolute path of a socket.

    Args:
        url: the transport URL, for the error message.
        path: the path to check.

    Raises:
        InvalidTransportURL: no socket can have this path.
    """
    try:
        return checked_path(path)
    except ValueError as error:
        raise InvalidTransportURL(str(url), f"transport_url {url}: {error}") from None


def _invalid(url: TransportURL, problem: str) -> InvalidTransportURL:
    return InvalidTransportURL(
        str(url),
        f"transport_url {problem}; it must be unix:// and the absolute path of the relay's public"
        f" socket, as in {EXAMPLE}",
    )
