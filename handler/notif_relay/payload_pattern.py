# SPDX-License-Identifier: Apache-2.0
"""Patterns for the payload of notifications: the part ``payload`` of a filter.

A pattern is a JSON object of paths. A path leads through the objects of a payload to a value:

- ``{"fault": {"code": [500]}}`` and ``{"fault.code": [500]}`` are the same path. It also matches a
  key that contains the dot itself, as in ``nova_object.data``.
- A list on the way or at its end stands for each of its elements, at any depth.
- A payload that is absent, or neither an object nor a list, contains no path.

Each path has a list of alternatives. A payload matches if each path has a value for which at least
one alternative holds:

===========================  ======================================================================
a string, a number, true,    the value is equal to it, with the same JSON type; 1 equals 1.0
false or null
``{"glob": "cmp-*"}``        the value is a string that the shell glob matches, with regard to case
``{"prefix": "cmp-"}``       the value is a string that begins with it
``{"not": ["active", 0]}``   there is a value, and it is equal to none of these
``{"range": [1, null]}``     the value is a number from the first to the second; null: no limit
``{"exists": true}``         the path is in the payload, also with null or an empty list
``{"exists": false}``        the path is not in the payload
===========================  ======================================================================

This module is the home of the limits and of the meaning. ``matches`` is the plain implementation
with which the relay, which remembers results, has to agree.
"""

from __future__ import annotations

import enum
import fnmatch
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from notif_relay.errors import BadFilter

MAX_PATHS = 16
"""Maximum number of paths in one pattern."""

MAX_ALTERNATIVES = 64
"""Maximum number of alternatives of one path; each value in a ``not`` counts as one."""

MAX_DEPTH = 8
"""Maximum number of parts of a path, which are separated by dots."""

MAX_STRING_SIZE = 256
"""Maximum number of characters in a path, and in each string of an alternative."""

MAX_COMPARED = 2 * MAX_STRING_SIZE
"""Maximum number of characters of a value that are compared.

Of a longer string, the first and the last ``MAX_STRING_SIZE`` characters are compared. Only a glob
with wildcards at other positions than its ends can tell the difference.
"""

_MAX_EXACT = 2**53
"""Floating-point numbers below it are exact; whole ones are kept as integers."""

_INTEGERS = range(-(2**63), 2**64)
"""Integers that every JSON writer can write."""

_MAX_SHOWN = 40
"""Maximum number of characters of a string that an error message quotes."""


class Constant:
    """A JSON value that Python would confuse with another: True is equal to 1."""

    __slots__ = ("json",)

    def __init__(self, value: object) -> None:
        self.json = value


TRUE, FALSE = Constant(True), Constant(False)
OBJECT = Constant({})
"""Any object: no alternative but ``not`` and ``exists`` holds for it."""

Value = str | int | float | Constant | None
"""A value that alternatives are compared with, as ``value_of`` returns it."""


def value_of(item: object) -> Value:
    """Return the value for comparisons of decoded JSON other than a list."""
    if type(item) is str:
        return item if len(item) <= MAX_COMPARED else shortened(item)
    if item is True:
        return TRUE
    if item is False:
        return FALSE
    return item if item is None or isinstance(item, int | float) else OBJECT


def shortened(text: str) -> str:
    """Return the part of a long string that is compared; see ``MAX_COMPARED``."""
    return text[:MAX_STRING_SIZE] + text[-MAX_STRING_SIZE:]


class Kind(enum.Enum):
    """What an alternative compares; the value is the key of its operand."""

    EQUAL = ""
    GLOB = "glob"
    PREFIX = "prefix"
    NOT = "not"
    RANGE = "range"
    EXISTS = "exists"


class Alternative(NamedTuple):
    """One alternative of a path."""

    kind: Kind
    operands: tuple[Value, ...]
    """One value; for NOT at least one; for RANGE two, which may be None; for EXISTS ``TRUE`` or
    ``FALSE``."""

    def to_json(self) -> object:
        """Return the alternative as JSON that ``PayloadPattern.parse`` accepts."""
        operands = [each.json if isinstance(each, Constant) else each for each in self.operands]
        if self.kind is Kind.EQUAL:
            return operands[0]
        return {self.kind.value: operands if self.kind in _WITH_LIST else operands[0]}


_WITH_LIST = (Kind.NOT, Kind.RANGE)

Paths = tuple[tuple[str, tuple[Alternative, ...]], ...]
"""Pairs of a path, its parts joined with dots, and its alternatives. Both are sorted and without
duplicates."""


@dataclass(frozen=True, slots=True)
class PayloadPattern:
    """A valid pattern. Patterns with the same meaning are equal, whatever their order and form."""

    paths: Paths

    @classmethod
    def parse(cls, requested: object) -> PayloadPattern:
        """Return the pattern that decoded JSON describes.

        Raises:
            BadFilter: it is malformed or exceeds a limit of this module; the message names the
                path.
        """
        if not isinstance(requested, Mapping):
            raise BadFilter(f"payload must be an object of paths, not {_shown(requested)}")
        if not requested:
            raise BadFilter("payload has no paths; omit payload to match all notifications")
        found: dict[str, tuple[Alternative, ...]] = {}
        for path, alternatives in _flattened("", requested):
            if path in found:
                raise BadFilter(f"payload path {_quoted(path)} occurs twice")
            if len(found) == MAX_PATHS:
                raise BadFilter(f"payload has more than {MAX_PATHS} paths")
            found[path] = _alternatives(path, alternatives)
        return cls(tuple(sorted(found.items(), key=lambda item: item[0])))

    @classmethod
    def from_text(cls, text: str) -> PayloadPattern:
        """Return the pattern that a text describes, such as an option of a configuration file.

        Raises:
            BadFilter: as for ``parse``, or the text is not JSON.
        """
        try:
            requested = json.loads(text)
        except RecursionError:
            raise BadFilter("payload is nested too deeply") from None
        except ValueError as error:
            raise BadFilter(f"payload is not JSON: {error}") from None
        return cls.parse(requested)

    def to_json(self) -> dict[str, list[object]]:
        """Return the pattern as JSON that ``parse`` accepts, with the parts of paths joined."""
        return {path: [each.to_json() for each in some] for path, some in self.paths}

    @property
    def globs(self) -> set[str]:
        """The globs in this pattern."""
        return {
            str(each.operands[0])
            for _, some in self.paths
            for each in some
            if each.kind is Kind.GLOB
        }

    @property
    def compiled_size(self) -> int:
        """Number of characters of the globs with ``?`` or ``[``, which the relay compiles.

        They count for ``notif_relay.request.MAX_COMPILED`` together with those of other keys.
        """
        return sum(len(glob) for glob in self.globs if "?" in glob or "[" in glob)

    def matches(self, payload: object = None) -> bool:
        """Return whether a payload matches.

        Args:
            payload: decoded JSON; None if the notification has no payload.
        """
        return all(_holds(alternatives, payload, path) for path, alternatives in self.paths)


def splits(path: str) -> list[tuple[str, str]]:
    """Return the keys that a path may begin with, each with the remaining path."""
    parts = path.split(".")
    return [(".".join(parts[:n]), ".".join(parts[n:])) for n in range(1, len(parts) + 1)]


def _holds(alternatives: tuple[Alternative, ...], payload: object, path: str) -> bool:
    values = _values_at(payload, path)
    if values is None:
        return Alternative(Kind.EXISTS, (FALSE,)) in alternatives
    return Alternative(Kind.EXISTS, (TRUE,)) in alternatives or any(
        holds(each, value) for each in alternatives for value in values
    )


def _values_at(payload: object, path: str) -> list[Value] | None:
    """Return the values to which a path leads; None if it is not in the payload."""
    is_present = False
    values = []
    pending = [(payload, path)]  # not recursive: lists may be nested deeply
    while pending:
        item, remaining = pending.pop()
        is_present |= not remaining
        if isinstance(item, list):
            pending += [(each, remaining) for each in item]
        elif not remaining:
            values.append(value_of(item))
        elif isinstance(item, dict):
            pending += [(item[key], rest) for key, rest in splits(remaining) if key in item]
    return values if is_present else None


def holds(alternative: Alternative, value: Value) -> bool:
    """Return whether an alternative holds for a value; never for one with ``exists``."""
    kind, operands = alternative
    if kind is Kind.EQUAL:
        return value == operands[0]
    if kind is Kind.NOT:
        return value not in operands
    if kind is Kind.RANGE:
        low, high = operands
        return isinstance(value, int | float) and bool(
            (not isinstance(low, int | float) or low <= value)
            and (not isinstance(high, int | float) or value <= high)
        )
    if kind is Kind.EXISTS or not isinstance(value, str):
        return False
    text = str(operands[0])
    if kind is Kind.PREFIX:
        return value.startswith(text)
    return re.match(fnmatch.translate(text), value) is not None


def _flattened(start: str, requested: Mapping[object, object]) -> Iterator[tuple[str, object]]:
    """Yield the paths of an object, with what they lead to."""
    for key, item in requested.items():
        if not isinstance(key, str):
            raise BadFilter(f"payload must have strings as keys, not {_shown(key)}")
        path = f"{start}.{key}" if start else key
        if len(path) > MAX_STRING_SIZE:
            raise BadFilter(
                f"payload path {_quoted(path)} has {len(path)} characters; at most"
                f" {MAX_STRING_SIZE} are allowed"
            )
        parts = path.split(".")
        if "" in parts:
            raise BadFilter(f"payload path {_quoted(path)} has an empty part")
        if len(parts) > MAX_DEPTH or (len(parts) == MAX_DEPTH and isinstance(item, Mapping)):
            raise BadFilter(f"payload path {_quoted(path)} has more than {MAX_DEPTH} parts")
        _check_unicode(path, path)
        if not isinstance(item, Mapping):
            yield path, item
        elif item:
            yield from _flattened(path, item)
        else:
            raise BadFilter(f"payload path {_quoted(path)} has no alternatives")


def _alternatives(path: str, requested: object) -> tuple[Alternative, ...]:
    if not isinstance(requested, list | tuple):
        raise BadFilter(
            f"payload path {_quoted(path)} must have a list of alternatives, not"
            f" {_shown(requested)}"
        )
    if not requested:
        raise BadFilter(f"payload path {_quoted(path)} has no alternatives")
    found = [_alternative(path, each) for each in requested[: MAX_ALTERNATIVES + 1]]
    count = sum(len(each.operands) if each.kind is Kind.NOT else 1 for each in found)
    if count > MAX_ALTERNATIVES:
        raise BadFilter(
            f"payload path {_quoted(path)} has more than {MAX_ALTERNATIVES} alternatives"
        )
    return tuple(sorted(set(found), key=_text))


def _text(alternative: Alternative) -> str:
    return json.dumps(alternative.to_json())


def _alternative(path: str, requested: object) -> Alternative:
    if not isinstance(requested, Mapping):
        return Alternative(Kind.EQUAL, (_scalar(path, requested),))
    keys = list(requested)
    if len(keys) != 1 or keys[0] not in _READERS:
        raise BadFilter(
            f"payload path {_quoted(path)}: an alternative must be a string, a number, true, false,"
            f" null, or an object with one of the keys {', '.join(_READERS)}"
        )
    return _READERS[keys[0]](path, requested[keys[0]])


def _not(path: str, operand: object) -> Alternative:
    if not isinstance(operand, list | tuple) or not operand:
        raise BadFilter(
            f"payload path {_quoted(path)}: not must have a list of values, not {_shown(operand)}"
        )
    values = {_scalar(path, each) for each in operand[: MAX_ALTERNATIVES + 1]}
    excluded = [Alternative(Kind.EQUAL, (each,)) for each in values]
    return Alternative(Kind.NOT, tuple(each.operands[0] for each in sorted(excluded, key=_text)))


def _range(path: str, operand: object) -> Alternative:
    name = f"payload path {_quoted(path)}: range"
    match operand:
        case [_, _]:
            low, high = (_bound(name, path, each) for each in operand)
        case _:
            raise BadFilter(f"{name} must have a list of two numbers, not {_shown(operand)}")
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise BadFilter(f"{name} matches nothing: its first number is the greater one")
    return Alternative(Kind.RANGE, (low, high))


def _bound(name: str, path: str, item: object) -> Value:
    if item is not None and (isinstance(item, bool) or not isinstance(item, int | float)):
        raise BadFilter(f"{name} must have numbers or null, not {_shown(item)}")
    return _scalar(path, item)


def _exists(path: str, operand: object) -> Alternative:
    if not isinstance(operand, bool):
        raise BadFilter(
            f"payload path {_quoted(path)}: exists must be true or false, not {_shown(operand)}"
        )
    return Alternative(Kind.EXISTS, (TRUE if operand else FALSE,))


def _prefix(path: str, operand: object) -> Alternative:
    return Alternative(Kind.PREFIX, (_string(path, "prefix", operand),))


def _glob(path: str, operand: object) -> Alternative:
    # Not compiled here: that would take a third of a second for 64 KiB. The relay compiles globs
    # after it has checked `compiled_size`.
    return Alternative(Kind.GLOB, (_string(path, "glob", operand),))


_READERS = {"glob": _glob, "prefix": _prefix, "not": _not, "range": _range, "exists": _exists}
"""Functions that return the alternative for a path and an operand, by the key of the operand."""


def _string(path: str, key: str, operand: object) -> str:
    if not isinstance(operand, str):
        raise BadFilter(
            f"payload path {_quoted(path)}: {key} must be a string, not {_shown(operand)}"
        )
    if len(operand) > MAX_STRING_SIZE:
        raise BadFilter(
            f"payload path {_quoted(path)}: {_quoted(operand)} has {len(operand)} characters; at"
            f" most {MAX_STRING_SIZE} are allowed"
        )
    _check_unicode(path, operand)
    return operand


def _scalar(path: str, item: object) -> Value:
    if isinstance(item, str):
        return _string(path, "a value", item)
    if item is None:
        return None
    if isinstance(item, bool):
        return TRUE if item else FALSE
    if not isinstance(item, int | float):
        raise BadFilter(
            f"payload path {_quoted(path)}: a value must be a string, a number, true, false or"
            f" null, not {_shown(item)}"
        )
    if isinstance(item, int) and item not in _INTEGERS:
        raise BadFilter(f"payload path {_quoted(path)}: an integer must have at most 64 bits")
    if not abs(item) <= sys.float_info.max:  # also NaN
        raise BadFilter(
            f"payload path {_quoted(path)}: a number must be between -1.8e308 and 1.8e308"
        )
    # The same number in one form, so that equal patterns have the same order.
    if isinstance(item, float) and item.is_integer() and abs(item) < _MAX_EXACT:
        return int(item)
    return item


def _check_unicode(path: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadFilter(f"payload path {_quoted(path)} contains an unpaired surrogate") from None


def _quoted(text: str) -> str:
    return ascii(text) if len(text) <= _MAX_SHOWN else ascii(text[:_MAX_SHOWN]) + "..."


def _shown(item: object) -> str:
    """Return a short description of what was found; deep nesting and long numbers do no harm."""
    if isinstance(item, str):
        return _quoted(item)
    if item is None or isinstance(item, bool):
        return {None: "null", True: "true", False: "false"}[item]
    if isinstance(item, Mapping):
        return "an object"
    if isinstance(item, list | tuple):
        return "a list" if item else "an empty list"
    return "a number" if isinstance(item, int | float) else f"a {type(item).__name__}"
