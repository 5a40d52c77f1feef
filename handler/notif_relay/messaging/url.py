# SPDX-License-Identifier: Apache-2.0
"""Which socket a transport URL names.

oslo.messaging takes a URL apart before it asks us, as if it named brokers: what stands between
the slashes becomes hosts, the path becomes a virtual host without its first slash, and what does
not fit is gone. So everything but a plain absolute path is refused here. A part that was ignored
would mean that somebody listens at another socket than the one written down.
"""

import os

from oslo_messaging import InvalidTransportURL, TransportURL

from notif_relay.connection import checked_path

EXAMPLE = "unix:///run/notif-relayd/notifications.sock"


def socket_path(url: TransportURL) -> str:
    """The public socket that ``url`` names.

    Raises:
        InvalidTransportURL: it names none, or more than a socket.
    """
    if url.hosts:
        # Not shown: there may be a password in it.
        raise _invalid(url, "has a host, user or password, or a relative path")
    if url.query:
        raise _invalid(url, f"has a query, {'&'.join(url.query)}; a ? in a path is written as %3F")
    if not url.virtual_host:
        raise _invalid(url, "has no absolute path")
    if url.virtual_host.endswith("/"):
        raise _invalid(url, "ends with a slash, so it names a directory")
    if "\N{REPLACEMENT CHARACTER}" in url.virtual_host:
        raise _invalid(url, "has a path that is not UTF-8")
    return usable(url, os.path.join("/", url.virtual_host))


def usable(url: TransportURL, path: str) -> str:
    """The path of a socket, if there can be one.

    Raises:
        InvalidTransportURL: there cannot.
    """
    try:
        return checked_path(path)
    except ValueError as error:
        raise InvalidTransportURL(str(url), f"transport_url {url}: {error}") from None


def _invalid(url: TransportURL, what: str) -> InvalidTransportURL:
    return InvalidTransportURL(
        str(url),
        f"transport_url {what}; it must be unix:// and the absolute path of the relay's public"
        f" socket, as in {EXAMPLE}",
    )
