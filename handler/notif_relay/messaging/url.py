# SPDX-License-Identifier: Apache-2.0
"""Determines the socket, and how listeners share notifications, from a transport URL.

oslo.messaging parses the URL before the driver gets it, as if it named message brokers: the part
between the slashes becomes hosts, the path becomes a virtual host without its first slash, and
other parts are lost. This module therefore refuses everything except a plain absolute path and the
keys of the query that it knows. If a part were ignored, a consumer could listen at another socket
than the configured one.
"""

import os
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

from oslo_messaging import InvalidTransportURL, TransportURL

from notif_relay.connection import checked_path
from notif_relay.group import checked_membership
from notif_relay.messaging.groups import Sharing

EXAMPLE = "unix:///run/notif-relayd/notifications.sock"

OWN_COPY = "-"
"""Value of ``group`` for a listener that gets all notifications. An empty value means the same, but
oslo.messaging discards it before the driver sees a URL that is not an option's."""

_KEYS = {"group", "window", "hold"}


def socket_path(url: TransportURL) -> str:
    """Return the path of the public socket that ``url`` names.

    Raises:
        InvalidTransportURL: the URL names no socket, or has other parts.
    """
    if url.hosts:
        # The message does not contain the URL, which may include a password.
        raise _invalid(url, "has a host, user or password, or a relative path")
    if unknown := url.query.keys() - _KEYS:
        raise _invalid(
            url, f"has the unknown key {min(unknown)} in its query; write a ? in a path as %3F"
        )
    if not url.virtual_host:
        raise _invalid(url, "has no absolute path")
    if url.virtual_host.endswith("/"):
        raise _invalid(url, "ends with a slash, so it names a directory")
    if "\N{REPLACEMENT CHARACTER}" in url.virtual_host:
        raise _invalid(url, "has a path that is not UTF-8")
    return checked_socket_path(url, os.path.join("/", url.virtual_host))


def sharing(url: TransportURL) -> Sharing:
    """Return how listeners share notifications.

    Raises:
        InvalidTransportURL: a value of the query is invalid.
    """
    found = Sharing()
    group = url.query.get("group")
    if group == OWN_COPY or (group is None and _has_empty_group(url)):
        return replace(found, own_copy=True)
    try:
        window = int(url.query.get("window", found.window))
        hold = float(url.query.get("hold", found.hold))
        checked_membership(group or "any", window, hold, True)
    except ValueError as error:
        raise InvalidTransportURL(str(url), f"transport_url {url}: {error}") from None
    return replace(
        found, group=group, window=window, hold=hold, may_hold_less="hold" not in url.query
    )


def _has_empty_group(url: TransportURL) -> bool:
    """Return whether an option of the configuration is this URL with an empty group."""
    conf = url.conf
    for options in (conf, getattr(conf, "oslo_messaging_notifications", None)):
        text = getattr(options, "transport_url", None)
        if (
            isinstance(text, str)
            and parse_qs(urlsplit(text).query, keep_blank_values=True).get("group") == [""]
            and TransportURL.parse(conf, text) == url
        ):
            return True
    return False


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
