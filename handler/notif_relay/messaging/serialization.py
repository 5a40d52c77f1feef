# SPDX-License-Identifier: Apache-2.0
"""Produces the text that the log driver would log, in a fraction of the time.

The log driver masks secrets with ``strutils.mask_dict_password``, which searches every key and
every string for each of about 35 names of secrets. That takes almost all of the driver's time.
Masking can change only messages that contain one of the names, so this module searches all
strings of a message at once.

Masking also converts values that are not plain JSON, and its result depends on the version of
oslo.utils. This module does not repeat these conversions. Masking treats each item of a
dictionary independently. Therefore items that contain a name or an unusual value are passed to
``mask_dict_password``; it would return all others unchanged, so they are not passed to it.
"""

import datetime as dt
import json
import marshal
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final

from oslo_serialization import jsonutils
from oslo_utils import strutils

_UNUSUAL: Final = "\0"
"""Represents an unusual value among a message's strings. A string that contains this character is
masked the slow way, which is correct as well."""

_KELVIN_SIGN: Final = r"\u212a"
"""The Kelvin sign, as JSON writes it. It is the only non-ASCII letter whose lower case is an ASCII
letter, and masking compares lower case."""

_MARK_SIZE: Final = 4
"""Characters in a mark. Shorter ones occur in harmless texts and take longer to search."""

_UNMASKED_TYPES: Final = frozenset({type(None), bool, int, float, dt.datetime, dt.date, uuid.UUID})
"""Types that masking leaves unchanged. Derived types are not included: they can be anything."""


def _names_of_secrets() -> list[str]:
    """Return the names that masking searches, except names that contain another one."""
    # The list is private in oslo.utils. If it does not exist, use the empty name, which occurs
    # in every string: then all messages are masked the slow way.
    names = [name.lower() for name in getattr(strutils, "_SANITIZE_KEYS", [""])]
    return [name for name in names if not any(other in name and other != name for other in names)]


def _marks(names: list[str]) -> list[str]:
    """Return about half as many strings; where a name occurs, one of these occurs as well."""
    marks: list[str] = []
    while True:
        pieces = Counter(
            name[start : start + _MARK_SIZE]
            for name in names
            for start in range(len(name) - _MARK_SIZE + 1)
        )
        piece, times = max(pieces.items(), key=itemgetter(1), default=("", 0))
        if times <= 1:
            return marks + names
        marks.append(piece)
        names = [name for name in names if piece not in name]


_NAMES: Final = [_UNUSUAL, _KELVIN_SIGN, *_names_of_secrets()]
_MARKS: Final = _marks(_NAMES[2:])
"""Without the Kelvin sign, which is searched only in a text with a backslash."""

# Circular references are detected by the recursion limit, as masking detects them.
_ENCODER: Final = json.JSONEncoder(check_circular=False, allow_nan=False)


def _encoding_function() -> Callable[[Any], str]:
    """Return a function like ``JSONEncoder.encode``, which makes a new C encoder for each call.

    That takes a tenth of the time. The class of C encoders is not documented.
    """
    try:
        pieces = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            *(None, _ENCODER.default, json.encoder.encode_basestring_ascii, None, ": ", ", "),
            *(False, False, False),
        )
        if "".join(pieces({"a": [1, None]}, 0)) == '{"a": [1, null]}':
            return lambda value: "".join(pieces(value, 0))
    except (AttributeError, TypeError):
        pass
    return _ENCODER.encode


_encode: Final = _encoding_function()


def dump(message: Mapping[str, Any]) -> str:
    """Return ``message`` as JSON with its secrets masked, as the log driver would log it.

    Raises:
        TypeError, ValueError, RecursionError: the message cannot be written as JSON. Exceptions
            that an object in the message raises during its conversion are raised as well.
    """
    text = dump_plain(message)
    return dump_any(message) if text is None else text


def dump_any(message: Mapping[str, Any]) -> str:
    """Do the same in a way that is correct for any message.

    Raises:
        TypeError, ValueError, RecursionError: see ``dump``.
    """
    if found := _found((message,), _NAMES):
        message = _masked(message, found)
    return jsonutils.dumps(message)


def dump_plain(message: Mapping[str, Any]) -> str | None:
    """Return the JSON of a message that is plain JSON without secrets, as most messages are.

    Return None for any other message. NaN and infinity are not JSON. All values are of the plain
    types of JSON, not of derived ones.
    """
    try:
        # marshal refuses objects of derived types, which json would write as their base type
        # although they may define their own conversion. This takes a fifth of the time that
        # checking the type of each value would take.
        marshal.dumps(message)  # type: ignore[arg-type]
        text = _encode(message)
    except (TypeError, ValueError):
        return None
    lowered = text.lower()
    suspected = _occurring(_MARKS, lowered) or ("\\" in lowered and _KELVIN_SIGN in lowered)
    return None if suspected and _occurring(_NAMES, lowered) else text


def _masked(message: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Mask each item that contains one of ``names``; descend into plain dictionaries."""
    masked = {}
    for key, value in message.items():
        if type(value) is dict:
            masked[key] = _masked(value, names)
        elif _found((key, value), names):
            masked.update(strutils.mask_dict_password({key: value}))
        else:
            masked[key] = value
    return masked


def _found(values: Iterable[Any], names: list[str]) -> list[str]:
    """Return those of ``names`` that occur in a key or a value at any depth of ``values``."""
    texts: list[str] = []
    _collect_strings(values, texts)
    return _occurring(names, "\n".join(texts).lower())


def _occurring(names: list[str], text: str) -> list[str]:
    return [name for name in names if name in text]


def _collect_strings(values: Iterable[Any], texts: list[str]) -> None:
    for value in values:
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif kind is dict:
            _collect_strings(value, texts)
            _collect_strings(value.values(), texts)
        elif kind is list or kind is tuple:
            _collect_strings(value, texts)
        elif kind not in _UNMASKED_TYPES:
            texts.append(_UNUSUAL)
