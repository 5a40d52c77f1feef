# SPDX-License-Identifier: Apache-2.0
"""The filter request of a subscriber: one line of JSON.

This module is the home of the limits; the daemon imports them. The library checks them as well,
so that an invalid filter raises an exception where the program defines it.
"""

import json
from collections.abc import Iterable

from notif_relay.errors import BadFilter

Patterns = str | Iterable[str] | None

MAX_PATTERNS = 64
"""Maximum number of patterns for one key."""

MAX_PATTERN_SIZE = 256
"""Maximum number of characters in one pattern."""

MAX_COMPILED = 128
"""Maximum number of characters in all patterns with ``?`` or ``[`` of one filter together.

The relay compiles each of these patterns to a regular expression; 128 characters take 2 ms.
"""

MAX_REQUEST_SIZE = 64 * 1024
"""Maximum size of a request in bytes, including its newline."""


def filter_request(event_type: Patterns, priority: Patterns, publisher_id: Patterns) -> bytes:
    """Return the request line for the notifications that match all given patterns.

    Args:
        event_type: one pattern or several, of which one has to match; None matches everything.
        priority: likewise; compared without regard to case.
        publisher_id: likewise.

    Raises:
        BadFilter: a key has no patterns, a pattern is not a string or not valid Unicode, or the
            filter exceeds a limit of this module.
    """
    given = {"event_type": event_type, "priority": priority, "publisher_id": publisher_id}
    checked = {
        key: _checked(key, patterns) for key, patterns in given.items() if patterns is not None
    }
    globs = [glob for key, patterns in checked.items() for glob in _normalized(key, patterns)]
    size = sum(len(glob) for glob in globs if "?" in glob or "[" in glob)
    if size > MAX_COMPILED:
        raise BadFilter(
            f"the patterns with ? or [ have {size} characters together; at most {MAX_COMPILED} are"
            " allowed"
        )
    try:
        request = json.dumps({"filter": checked}, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        raise BadFilter("a pattern contains an unpaired surrogate") from None
    if len(request) > MAX_REQUEST_SIZE:
        raise BadFilter(
            f"the filter takes {len(request)} bytes; at most {MAX_REQUEST_SIZE} are allowed"
        )
    return request


def _checked(key: str, patterns: str | Iterable[str]) -> list[str]:
    checked = [patterns] if isinstance(patterns, str) else list(patterns)
    if not checked:
        raise BadFilter(f"{key} has no patterns; omit {key} to match all notifications")
    if len(checked) > MAX_PATTERNS:
        raise BadFilter(f"{key} has {len(checked)} patterns; at most {MAX_PATTERNS} are allowed")
    for pattern in checked:
        if not isinstance(pattern, str):
            raise BadFilter(f"a pattern of {key} must be a string, not {pattern!r}")
    for glob in _normalized(key, checked):
        if len(glob) > MAX_PATTERN_SIZE:
            raise BadFilter(
                f"a pattern of {key} has {len(glob)} characters; at most {MAX_PATTERN_SIZE}"
                f" are allowed: {glob[:40]!r}..."
            )
    return checked


def _normalized(key: str, patterns: list[str]) -> list[str]:
    """Return the patterns as the relay compares them; a few letters are longer in upper case."""
    return [pattern.upper() for pattern in patterns] if key == "priority" else patterns
