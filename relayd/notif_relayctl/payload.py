# SPDX-License-Identifier: Apache-2.0
"""The option --payload: patterns for the payload on a command line."""

import argparse
import contextlib
import json
import math
from collections.abc import Iterable

from notif_relay.errors import BadFilter
from notif_relay.payload_pattern import PayloadPattern
from notif_relayctl.command import utf8

WILDCARDS = "*?["


def payload(text: str) -> PayloadPattern:
    """Convert an argument, ``PATH=GLOB`` or a JSON object, to a pattern.

    A glob matches strings only. If it is a number, true, false or null, the pattern also matches
    this JSON value.
    """
    text = utf8(text)
    try:
        if text.startswith("{"):
            return PayloadPattern.from_text(text)
        path, separator, glob = text.partition("=")
        if not separator:
            raise argparse.ArgumentTypeError(f"{text!r} is neither PATH=GLOB nor a JSON object")
        string = {"glob": glob} if any(each in glob for each in WILDCARDS) else glob
        return PayloadPattern.parse({path: [string, *_value(glob)]})
    except BadFilter as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def united(patterns: Iterable[PayloadPattern]) -> dict[str, list[object]] | None:
    """Return a pattern with the alternatives of all patterns for each path; None without patterns.

    It may exceed the limits of a pattern.
    """
    paths: dict[str, list[object]] = {}
    for each in patterns:
        for path, alternatives in each.to_json().items():
            paths.setdefault(path, []).extend(alternatives)
    return paths or None


def _value(text: str) -> list[object]:
    """Return a list of the number, true, false or null that a text stands for; otherwise empty."""
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        if value is None or (isinstance(value, int | float) and math.isfinite(value)):
            return [value]
    return []
