# SPDX-License-Identifier: Apache-2.0
"""What the relay reads from others, each with a plain way to know what must come of it.

A target is a function of bytes that raises when something is wrong, so that a fuzzer can run it,
and a unit test can run it on what fuzzers have found.
"""

import fnmatch
import json
from typing import NoReturn
from unittest import mock

from notif_relayd import requests
from notif_relayd.splitter import Splitter
from notif_relayd.state import StateError, decode, encode
from notif_relayd.validator import Kind, Validator

KINDS: list[Kind] = [
    ("a.b", "INFO", "p:1"),
    ("compute.instance.create.end", "error", "nova-compute:host"),
    ("", "", ""),
    ("[x]*?", "WARN", "\n"),
]
KEYS = ("event_type", "priority", "publisher_id")


class UndecidedError(Exception):
    """The same key twice: RFC 8259 lets everybody make of it what they like."""


def records(data: bytes) -> None:
    """The first byte is the limit, the second the size of the pieces that the rest comes in."""
    if len(data) < 2:
        return
    limit, step, stream = 16 + 4 * data[0], 1 + data[1], data[2:]
    splitter, validator = Splitter(limit), Validator(limit)
    out, rejected = b"", 0
    for start in range(0, len(stream), step):
        lines = splitter.feed(stream[start : start + step])
        if lines:
            verdict = validator.check(lines)
            assert len(verdict.kinds) == verdict.records.count(b"\n")
            with mock.patch("notif_relayd.validator.kinds_of", return_value=[]):
                assert validator.check(lines) == verdict
            out += verdict.records
            rejected += len(verdict.rejected)
    *whole, tail = stream.split(b"\n")
    try:
        good = [line for line in whole if len(line) < limit and _is_record(line)]
    except (RecursionError, UndecidedError):
        return  # How deep is too deep is nobody's business here.
    assert out == b"".join(line + b"\n" for line in good)
    rest, skipping = splitter.save()
    assert rest == (b"" if skipping else tail)
    assert skipping == (len(tail) >= limit)
    assert rejected + splitter.given_up - skipping == len(whole) - len(good)


def _is_record(line: bytes) -> bool:
    try:
        # Numbers are not looked at: Python's own limit for their length is none of JSON's.
        content = json.loads(
            line.decode(),
            parse_constant=_refuse,
            parse_int=len,
            parse_float=len,
            object_pairs_hook=_once,
        )
    except ValueError:
        return False
    if not isinstance(content, dict):
        return False
    event_type, priority = content.get("event_type"), content.get("priority")
    if not isinstance(event_type, str) or not isinstance(priority, str):
        return False
    return event_type == "notif_relayd.gap" or not event_type.startswith("notif_relayd.")


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    if keys.count("event_type") > 1 or keys.count("priority") > 1:
        raise UndecidedError
    return dict(pairs)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def request(data: bytes) -> None:
    """A request line without its newline."""
    try:
        parsed = requests.parse(data)
    except requests.RequestError:
        return
    lets_through, asked = parsed.filter, parsed.asked
    assert {"filter": asked} == json.loads(data) == json.loads(parsed.line)
    assert len(parsed.line) <= len(data)
    for kind in KINDS:
        fields = dict(zip(KEYS, kind, strict=True))
        assert lets_through(kind) == all(
            any(_matches(key, fields[key], glob) for glob in globs) for key, globs in asked.items()
        )


def _matches(key: str, value: str, glob: str) -> bool:
    if key == "priority":
        value, glob = value.upper(), glob.upper()
    return fnmatch.fnmatchcase(value, glob)


def state(data: bytes) -> None:
    """What a relay finds in the store."""
    try:
        found = decode(data)
    except StateError:
        return
    assert decode(b"".join(encode(found))) == found


TARGETS = {"records": records, "requests": request, "state": state}
