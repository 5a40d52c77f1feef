# SPDX-License-Identifier: Apache-2.0
"""The request of a subscriber for a filter and a group: one line of JSON.

This module is the home of the limits; the daemon imports them. The library checks them as well,
so that an invalid filter raises an exception where the program defines it.
"""

import fnmatch
import itertools
import json
import re
from collections.abc import Iterable, Mapping

from notif_relay.errors import BadFilter
from notif_relay.escaping import shown
from notif_relay.group import Membership
from notif_relay.payload_pattern import PayloadPattern
from notif_relay.priorities import OTHER_SPELLINGS, PRIORITIES
from notif_relay.records import EVENT_TYPE_PREFIX, GAP

Patterns = str | Iterable[str] | None

Payload = Mapping[str, object] | None
"""A pattern for the payload, as ``PayloadPattern.parse`` accepts it; None matches everything."""

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


def filter_request(
    event_type: Patterns,
    priority: Patterns,
    publisher_id: Patterns,
    membership: Membership | None = None,
    payload: Payload = None,
) -> bytes:
    """Return the request line for the notifications that match all given patterns.

    Args:
        event_type: one pattern or several, of which one has to match; None matches everything.
        priority: likewise; compared without regard to case.
        publisher_id: likewise.
        membership: the group whose share of these notifications is requested; None: all of them.
        payload: the pattern for the payload; None matches everything.

    Raises:
        BadFilter: a key has no patterns, a pattern is not a string or not valid Unicode, a pattern
            cannot match any notification, or the filter exceeds a limit of this module. The
            message names the argument.
    """
    given = {"event_type": event_type, "priority": priority, "publisher_id": publisher_id}
    checked = {
        key: _checked(key, patterns) for key, patterns in given.items() if patterns is not None
    }
    sizes = {key: _compiled_size(key, patterns) for key, patterns in checked.items()}
    wanted: dict[str, object] = {**checked}
    if payload is not None:
        pattern = PayloadPattern.parse(payload)
        wanted["payload"] = pattern.to_json()
        sizes["payload"] = pattern.compiled_size
    size = sum(sizes.values())
    if size > MAX_COMPILED:
        named = " and ".join(key for key in sizes if sizes[key])
        raise BadFilter(
            f"the patterns with ? or [ of {named} have {size} characters together; at most"
            f" {MAX_COMPILED} are allowed"
        )
    keys = {} if membership is None else membership.keys
    request = json.dumps({"filter": wanted} | keys, ensure_ascii=False).encode() + b"\n"
    if len(request) > MAX_REQUEST_SIZE:
        raise BadFilter(
            f"the filter takes {len(request)} bytes; at most {MAX_REQUEST_SIZE} are allowed"
        )
    return request


def _compiled_size(key: str, patterns: list[str]) -> int:
    return sum(len(glob) for glob in _normalized(key, patterns) if "?" in glob or "[" in glob)


def _checked(key: str, patterns: object) -> list[str]:
    if isinstance(patterns, str):
        checked = [patterns]
    elif isinstance(patterns, Iterable) and not isinstance(patterns, bytes | bytearray | Mapping):
        checked = list(itertools.islice(patterns, MAX_PATTERNS + 1))
    else:
        raise BadFilter(f"{key} must be a pattern or a list of patterns, not {shown(patterns)}")
    if not checked:
        raise BadFilter(f"{key} has no patterns; omit {key} to match all notifications")
    if len(checked) > MAX_PATTERNS:
        raise BadFilter(f"{key} has more than {MAX_PATTERNS} patterns")
    for pattern in checked:
        if not isinstance(pattern, str):
            raise BadFilter(f"a pattern of {key} must be a string, not {shown(pattern)}")
        try:
            pattern.encode()
        except UnicodeEncodeError:
            raise BadFilter(f"a pattern of {key} contains an unpaired surrogate") from None
    for glob in _normalized(key, checked):
        if len(glob) > MAX_PATTERN_SIZE:
            raise BadFilter(
                f"a pattern of {key} has {len(glob)} characters; at most {MAX_PATTERN_SIZE}"
                f" are allowed: {shown(glob)}"
            )
        if problem := _mismatch(key, glob):
            raise BadFilter(
                f"the pattern {shown(glob)} of {key} matches no notification: {problem}"
            )
    return checked


def _mismatch(key: str, glob: str) -> str:
    """Return why no notification can match a pattern; empty if one can.

    Args:
        key: the key of the pattern.
        glob: the pattern, as ``_normalized`` returns it.
    """
    if not glob:
        return "it is empty"
    if glob != glob.strip():
        return "it begins or ends with white space"
    if "," in re.sub(r"\[[^]]*\]", "", glob):
        return "it contains a comma; give several patterns separately, or write [,] for a comma"
    if _has_open_bracket(glob):
        return "a [ has no ]; write [[] for a literal ["
    return _mismatch_of_expression(key, glob)


def _mismatch_of_expression(key: str, glob: str) -> str:
    try:
        expression = fnmatch.translate(glob)
        match = re.compile(expression).match
    except re.error as error:  # a range such as [b-a], before Python 3.10.5
        return str(error)
    if "(?!)" in expression:
        return "a range in [] ends before it begins"
    if key == "priority" and not any(map(match, PRIORITIES)):
        advice = f"; write {OTHER_SPELLINGS[glob]}" if glob in OTHER_SPELLINGS else ""
        return f"the priorities are {', '.join(PRIORITIES)}{advice}"
    if key == "event_type" and glob.startswith(EVENT_TYPE_PREFIX) and match(GAP) is None:
        return f"event types that begin with {EVENT_TYPE_PREFIX} are reserved for the relay"
    return ""


def _has_open_bracket(glob: str) -> bool:
    """Return whether a ``[`` is not the start of a set, so that it would match only itself."""
    start = glob.find("[")
    while start >= 0:
        first = start + 1 + (glob[start + 1 : start + 2] == "!")
        end = glob.find("]", first + 1)  # a ] that comes first belongs to the set
        if end < 0:
            return True
        start = glob.find("[", end)
    return False


def _normalized(key: str, patterns: list[str]) -> list[str]:
    """Return the patterns as the relay compares them; a few letters are longer in upper case."""
    return [pattern.upper() for pattern in patterns] if key == "priority" else patterns
