# SPDX-License-Identifier: Apache-2.0
"""What the log driver would have logged, in a fraction of the time.

The log driver masks each message with ``strutils.mask_dict_password``, which asks of every key
and every string, one by one, whether it contains one of some 35 names of secrets. That is nearly
all that such a call costs. But masking can only change a message in which one of the names
occurs, so here they are looked for once, in all the message's strings together.

Masking also turns whatever is no plain JSON into something else, and not every oslo.utils does
so in the same way. None of that is done over again here. Each item of a dictionary is masked
whatever stands beside it: the few with a name or something unusual in them are given to
``mask_dict_password``, and all others are what it would have made of them.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from oslo_serialization import jsonutils
from oslo_utils import strutils

_LEFT_ALONE = frozenset({type(None), bool, int, float, dt.datetime, dt.date, uuid.UUID})
"""Types that masking does not look into. One derived from them may be anything."""

_UNUSUAL = "\0"
"""Stands among a message's strings for what is not plain. One that has it in it is no worse off:
it is masked the slow way."""


def dump(message: Mapping[str, Any]) -> str:
    """The JSON of ``message``, its secrets masked: the text that the log driver would log.

    Raises:
        TypeError, ValueError, RecursionError: it cannot be written as JSON. Whatever an object
            in it raises while it is converted is raised as well.
    """
    # A private name, read anew since services have been seen to add to it. The empty name, in an
    # oslo.utils that has no such list, occurs everywhere: then all is masked the slow way.
    names = getattr(strutils, "_SANITIZE_KEYS", [""])
    if found := _found([_UNUSUAL, *(name.lower() for name in names)], (message,)):
        message = _masked(message, found)
    text: str = jsonutils.dumps(message)
    return text


def _masked(message: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Mask each item that has one of ``names`` in it, going into plain dictionaries."""
    masked = {}
    for key, value in message.items():
        if type(value) is dict:
            masked[key] = _masked(value, names)
        elif _found(names, (key, value)):
            masked.update(strutils.mask_dict_password({key: value}))
        else:
            masked[key] = value
    return masked


def _found(names: list[str], values: Iterable[Any]) -> list[str]:
    """Which of ``names`` occur in a string, a key or value at any depth of ``values``."""
    texts: list[str] = []
    _gather(values, texts)
    # As mask_password() compares, for which the Kelvin sign is a k, but a long s is no s.
    text = "\n".join(texts).lower()
    return [name for name in names if name in text]


def _gather(values: Iterable[Any], texts: list[str]) -> None:
    for value in values:
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif kind is dict:
            _gather(value, texts)
            _gather(value.values(), texts)
        elif kind is list or kind is tuple:
            _gather(value, texts)
        elif kind not in _LEFT_ALONE:
            texts.append(_UNUSUAL)
