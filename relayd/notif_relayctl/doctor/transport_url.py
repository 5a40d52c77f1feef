# SPDX-License-Identifier: Apache-2.0
"""Parser for the URL of the library's transport, as oslo.messaging and the library read it.

The library's own parser, notif_relay/messaging/url.py, requires oslo.messaging, which is not
installed with relayctl. A test compares the two.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlparse

from notif_relay.connection import checked_path
from notif_relay.group import checked_membership
from notif_relay.messaging.groups import DEFAULT_HOLD, DEFAULT_WINDOW

SCHEME = "unix"

OWN_COPY = "-"
"""Value of ``group`` for a listener that shares nothing."""

KEYS = ("group", "window", "hold")


@dataclass(frozen=True, slots=True)
class UnixUrl:
    """A transport URL with the scheme ``unix``."""

    path: str
    """The public socket; empty if there is none."""
    query: Mapping[str, str]
    """Values by key, without the empty ones, which oslo.messaging discards."""
    empty: frozenset[str] = frozenset()
    """Keys with an empty value."""
    own_copy: bool = False
    """Whether a listener shares nothing; ``window`` and ``hold`` then have no effect."""
    problem: str = ""
    """Why the transport refuses the URL; empty if it accepts it. Never contains a password."""
    problem_is_query: bool = False
    """Whether the problem is in the query only."""
    has_fragment: bool = False
    """Whether the URL contains a ``#``; oslo.messaging discards the rest."""

    @property
    def window(self) -> int:
        """Maximum number of unfinished notifications of one connection."""
        return int(self.query.get("window", DEFAULT_WINDOW))

    @property
    def hold(self) -> float | None:
        """Seconds for which a group keeps its place; `None` if the URL does not state it."""
        return float(self.query["hold"]) if "hold" in self.query else None


def parse(text: str | None, *, is_default: bool = False) -> UnixUrl | None:
    """Return a URL of the library's transport; `None` for any other text.

    Args:
        text: the value of an option.
        is_default: whether it is oslo.messaging's own option. Only there has an empty ``group`` a
            meaning.
    """
    if not text or text[: len(SCHEME)].lower() != SCHEME:
        return None
    try:
        url = urlparse(text)
        values = parse_qs(url.query, keep_blank_values=True)
    except ValueError:
        return UnixUrl("", {}, problem="it is not a valid URL")
    if url.scheme.partition("+")[0] != SCHEME:
        return None
    query = {key: ",".join(filter(None, each)) for key, each in values.items() if any(each)}
    path = os.path.join("/", unquote(url.path[1:])) if len(url.path) > 1 else ""
    if not url.path.startswith("/"):
        path = ""
    empty = frozenset(values.keys() - query.keys())
    own_copy = query.get("group") == OWN_COPY or (is_default and "group" in empty)
    try:
        problem = _path_problem(any(url.netloc.split(",")), path)
    except ValueError as error:
        problem = str(error)
    path_is_right = not problem
    if path_is_right:
        problem = _query_problem(query, own_copy)
    return UnixUrl(
        path, query, empty, own_copy, problem, path_is_right and bool(problem), bool(url.fragment)
    )


def _path_problem(has_host: bool, path: str) -> str:
    """Return why the transport refuses the path of a URL.

    Raises:
        ValueError: no socket can have the path.
    """
    if has_host:
        return "it has a host, a user or a password, or a path that is not absolute"
    if not path:
        return "it has no absolute path"
    if path.endswith("/"):
        return "it ends with a slash, so it names a directory"
    if "\N{REPLACEMENT CHARACTER}" in path:
        return "its path is not UTF-8"
    checked_path(path)
    return ""


def _query_problem(query: Mapping[str, str], own_copy: bool) -> str:
    """Return why the transport refuses a query."""
    if unknown := query.keys() - set(KEYS):
        key = min(unknown)
        return f"its query has the unknown key {key[:40]!r}; the known ones are {', '.join(KEYS)}"
    if own_copy:
        return ""
    window, hold = query.get("window", str(DEFAULT_WINDOW)), query.get("hold", str(DEFAULT_HOLD))
    try:
        notifications = int(window)
    except ValueError:
        return f"window must be a number of notifications, not {window[:40]!r}"
    try:
        seconds = float(hold)
    except ValueError:
        return f"hold must be a number of seconds, not {hold[:40]!r}"
    try:
        checked_membership(query.get("group", "any"), notifications, seconds, True)
    except ValueError as error:
        return str(error)
    return ""
