# SPDX-License-Identifier: Apache-2.0
"""The request that a subscriber sends: what it wants to see, as one line of JSON.

What is wrong with a filter is said where it is written, with a traceback that points there; the
relay has the same limits and the last word.
"""

import json
from collections.abc import Iterable

from notif_relay.errors import BadFilter

Patterns = str | Iterable[str] | None

MAX_PATTERNS = 64
"""Patterns for one key."""

MAX_PATTERN_SIZE = 256
"""Characters of one pattern."""

MAX_COMPILED = 128
"""Characters of all patterns together that have a ``?`` or a ``[``, which cost the relay most."""

MAX_SIZE = 64 * 1024
"""Bytes of the longest request, its newline included."""


def filter_request(event_type: Patterns, priority: Patterns, publisher_id: Patterns) -> bytes:
    """The line that asks for matching notifications, for all of them where each key is None.

    Raises:
        BadFilter: a key has no patterns, too many, or too long ones, or too many have a ``?``
            or a ``[``.
    """
    given = {"event_type": event_type, "priority": priority, "publisher_id": publisher_id}
    wanted = {key: _checked(key, each) for key, each in given.items() if each is not None}
    globs = [glob for key, each in wanted.items() for glob in _compared(key, each)]
    size = sum(len(glob) for glob in globs if "?" in glob or "[" in glob)
    if size > MAX_COMPILED:
        raise BadFilter(
            f"the patterns with ? or [ have {size} characters together; at most {MAX_COMPILED} are"
            " allowed"
        )
    try:
        request = json.dumps({"filter": wanted}, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        raise BadFilter("a pattern is no text: it has half of a surrogate pair in it") from None
    if len(request) > MAX_SIZE:
        raise BadFilter(
            f"the filter takes {len(request)} bytes; at most {MAX_SIZE} are allowed in all"
        )
    return request


def _checked(key: str, patterns: str | Iterable[str]) -> list[str]:
    checked = [patterns] if isinstance(patterns, str) else list(patterns)
    if not checked:
        raise BadFilter(f"{key} has no patterns: leave it out to get every {key}")
    if len(checked) > MAX_PATTERNS:
        raise BadFilter(f"{key} has {len(checked)} patterns; at most {MAX_PATTERNS} are allowed")
    for pattern in checked:
        if not isinstance(pattern, str):
            raise BadFilter(f"a pattern of {key} must be a string, not {pattern!r}")
    for glob in _compared(key, checked):
        if len(glob) > MAX_PATTERN_SIZE:
            raise BadFilter(
                f"a pattern of {key} has {len(glob)} characters; at most {MAX_PATTERN_SIZE}"
                f" are allowed: {glob[:40]!r}..."
            )
    return checked


def _compared(key: str, patterns: list[str]) -> list[str]:
    """As the relay compares and measures them: a few letters are longer in upper case."""
    return [each.upper() for each in patterns] if key == "priority" else patterns
