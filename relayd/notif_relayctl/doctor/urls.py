# SPDX-License-Identifier: Apache-2.0
"""The options of a service, besides oslo.messaging's own, that may name this relay in a URL.

A program that reads from several brokers has an option for them. Middleware has its own option for
the URL that it sends to. Any other option with a URL of the transport is taken for that of a
consumer. URLs of other programs can start with unix:// too, such as that of a container engine:
the name of the option or its path must show that the relay is meant.
"""

import os
from collections.abc import Iterator

from oslo_config import cfg

from notif_relay import paths
from notif_relayctl.doctor import transport_url
from notif_relayctl.doctor.consumer import Reader
from notif_relayctl.doctor.destination import Sockets

Sections = dict[str, dict[str, list[str]]]
"""The text of options, by section and name. An option may be set several times."""

READERS = (("notification", "messaging_urls"),)
"""Options, by section, that name what a consumer reads from: that of ceilometer. aodh, blazar,
designate, senlin, vitrage and watcher have no option of their own."""

OPTION_NAMES = ("transport_url", "messaging_url", "notification_url")
"""Parts of the names of options for transport URLs."""

DEFAULTS = ("transport_url", "notification_transport_url")
"""Names of oslo.messaging's own option."""

MAX_URLS = 20
"""URLs of a service that are checked. ceilometer has one for each broker."""


def own_readers(conf: cfg.ConfigOpts) -> list[Reader]:
    """Return the URLs of this transport in the options of known consumers."""
    return [
        Reader(section, option, url)
        for section, option in READERS
        for text in conf[section][option]
        if (url := transport_url.parse(text))
    ]


def middleware(sections: Sections) -> list[Reader]:
    """Return the URLs that middleware sends to: of ceilometermiddleware and keystonemiddleware."""
    return [
        Reader(section, option, url)
        for section, option, text in _last(sections)
        if _is_middleware(section, option) and (url := transport_url.parse(text))
    ]


def other_readers(sections: Sections, sockets: Sockets) -> list[Reader]:
    """Return the URLs of this transport in options of unknown programs."""
    known = {*READERS, ("DEFAULT", DEFAULTS[0]), ("DEFAULT", DEFAULTS[1])}
    directories = {
        os.path.realpath(os.path.dirname(path)) for path in (*sockets.public, *sockets.ingest)
    }
    return [
        Reader(section, option, url)
        for section, option, text in _last(sections)
        if (section, option) not in known
        and not (section == "oslo_messaging_notifications" and option in DEFAULTS)
        and not _is_middleware(section, option)
        and "://" in text
        and "$" not in text  # The option that it refers to is unknown.
        and (url := transport_url.parse(text))
        and _means_relay(option, url.path, directories)
    ]


def _means_relay(option: str, path: str, directories: set[str]) -> bool:
    """Return whether a URL is one of a relay, by the name of its option or by its path."""
    if any(each in option.lower() for each in OPTION_NAMES):
        return True
    if os.path.basename(path) in (paths.PUBLIC_SOCKET, paths.INGEST_SOCKET):
        return True
    return "\0" not in path and os.path.realpath(os.path.dirname(path)) in directories


def _is_middleware(section: str, option: str) -> bool:
    if section == "audit_middleware_notifications":
        return option == "transport_url"
    return section.startswith("filter:") and option == "url"


def _last(sections: Sections) -> Iterator[tuple[str, str, str]]:
    """Yield section, name and text of each option; the last one of those set several times."""
    for section, options in sections.items():
        if section == "default":  # oslo.config accepts DEFAULT only.
            continue
        for option, texts in options.items():
            yield section, option, texts[-1]
