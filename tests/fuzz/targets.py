# SPDX-License-Identifier: Apache-2.0
"""Parsers of untrusted data, each compared with a simple reference implementation.

A target is a function of bytes that raises an exception if the results differ. Fuzzers run it with
their inputs, and a unit test with the stored seeds.
"""

import fnmatch
import json
from typing import Any, NoReturn
from unittest import mock

from notif_relay.group import GroupRequest
from notif_relay.records import PRODUCER_REASONS
from notif_relayd.handover.errors import StateError
from notif_relayd.handover.state import decode, encode
from notif_relayd.records import subscription_request
from notif_relayd.records.filters import PAYLOAD, Filter, View
from notif_relayd.records.framing import Framer
from notif_relayd.records.selector import Selector
from notif_relayd.records.validator import RoutingKey, Validator

KINDS: list[RoutingKey] = [
    ("a.b", "INFO", "p:1"),
    ("compute.instance.create.end", "error", "nova-compute:host"),
    ("", "", ""),
    ("[x]*?", "WARN", "\n"),
]
KEYS = ("event_type", "priority", "publisher_id")


class Pairs(list[tuple[str, object]]):
    """A JSON object that keeps duplicate keys."""

    def values(self, key: str) -> list[object]:
        """Return all values of a key."""
        return [value for each, value in self if each == key]

    def value(self, key: str) -> object:
        """Return the value of a key, or a list if the key is missing or duplicate."""
        found = self.values(key)
        return found[0] if len(found) == 1 else found


def records(data: bytes) -> None:
    """Frame and validate records.

    The first byte selects the size limit, the second one the size of the reads.
    """
    if len(data) < 2:
        return
    limit, step, stream = 16 + 4 * data[0], 1 + data[1], data[2:]
    framer, validator = Framer(limit), Validator(limit)
    out, rejected = b"", 0
    for start in range(0, len(stream), step):
        lines = framer.feed(stream[start : start + step])
        if lines:
            validated = validator.validate(lines)
            assert len(validated.routing_keys) == validated.records.count(b"\n")
            with mock.patch("notif_relayd.records.validator.routing_keys_of", return_value=[]):
                assert validator.validate(lines) == validated
            out += validated.records
            rejected += len(validated.rejected)
    *whole, tail = stream.split(b"\n")
    try:
        good = [line for line in whole if len(line) < limit and _is_record(line)]
    except RecursionError:
        return  # The maximum nesting depth is not checked here.
    assert out == b"".join(line + b"\n" for line in good)
    partial, skipping = framer.save()
    assert partial == (b"" if skipping else tail)
    assert skipping == (len(tail) >= limit)
    assert rejected + framer.oversized - skipping == len(whole) - len(good)


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(
            line.decode(),
            parse_constant=_refuse,
            # Python limits the length of a number; JSON does not.
            parse_int=lambda digits: int(digits) if len(digits) < 20 else 0.5,
            parse_float=lambda _: 0.5,
            object_pairs_hook=Pairs,
        )
    except ValueError:
        return False
    if not isinstance(record, Pairs):
        return False
    event_types, priorities = record.values("event_type"), record.values("priority")
    texts = [each for each in event_types + priorities if isinstance(each, str)]
    if not event_types or not priorities or len(texts) < len(event_types) + len(priorities):
        return False
    if not any(each.startswith("notif_relayd.") for each in texts[: len(event_types)]):
        return True
    return event_types == ["notif_relayd.gap"] and len(line) < 768 and _is_gap(record)


def _is_gap(record: Pairs) -> bool:
    payload = record.value("payload")
    if not isinstance(payload, Pairs) or not (_each_once(record) and _each_once(payload)):
        return False
    dropped, reason = payload.value("dropped"), payload.value("reason")
    known = type(dropped) is int and 0 <= dropped < 2**53
    return (known or dropped is None) and reason in PRODUCER_REASONS


def _each_once(record: Pairs) -> bool:
    keys = [key for key, _ in record]
    return len(set(keys)) == len(keys)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def request(data: bytes) -> None:
    """Parse a request line without its newline."""
    done = subscription_request.parse_done(data)
    if done is not None:
        content = json.loads(data)
        assert content.pop("done") == done.done >= 0
        assert content.pop("group_since", None) == done.group_since
        assert not content
    try:
        parsed = subscription_request.parse(data)
    except subscription_request.RequestError:
        return
    assert done is None
    content, lets_through, asked = json.loads(data), parsed.filter, parsed.requested
    expected = {"filter": {}} | content
    if "hold" in expected:
        expected["hold"] = float(expected["hold"])
        if not expected["hold"]:
            del expected["hold"]
    assert json.loads(parsed.line) == expected
    assert len(parsed.line) <= parsed.charge
    assert asked == content.get("filter", {})
    _check_group(parsed.group, content)
    assert Filter.parse(lets_through.request) == lets_through
    globs_by_key = {key: asked[key] for key in asked if key != PAYLOAD}
    without = Filter.parse(globs_by_key)
    for kind in KINDS:
        fields = dict(zip(KEYS, kind, strict=True))
        assert without(kind) == all(
            any(_matches(key, fields[key], glob) for glob in globs)
            for key, globs in globs_by_key.items()
        )
    if lets_through.payload is not None:
        _check_payload(lets_through)
    else:
        assert all(lets_through(kind) == without(kind) for kind in KINDS)


def _check_payload(wanted: Filter) -> None:
    """Compare a pattern with the selector, for payloads that its own values make up."""
    assert wanted.payload is not None
    selector: Selector[str] = Selector()
    selector.add(View(wanted), "target")
    for path, alternatives in wanted.payload.to_json().items():
        for each in alternatives:
            payload: object = [each] if path.count(".") % 2 else each
            for part in reversed(path.split(".")):
                payload = {part: payload}
            for kind in KINDS:
                record = json.dumps(dict(zip(KEYS, kind, strict=True)) | {"payload": payload})
                selected = selector.select([kind], record.encode())
                assert bool(selected) == wanted(kind, payload)


def _check_group(group: GroupRequest | None, content: Any) -> None:
    if group is None:
        assert not content.keys() & {"group", "window", "hold"}
        return
    assert content["group"] == group.name
    assert 0 < len(group.name) <= 64
    assert all(each.isascii() and (each.isalnum() or each in "._:/-") for each in group.name)
    assert content.get("window") == group.window
    assert group.window is None or 0 < group.window <= 65536
    assert float(content.get("hold", 0)) == group.hold >= 0


def _matches(key: str, value: str, glob: str) -> bool:
    if key == "priority":
        value, glob = value.upper(), glob.upper()
    return fnmatch.fnmatchcase(value, glob)


def state(data: bytes) -> None:
    """Decode the saved state of a relay."""
    try:
        found = decode(data)
    except StateError:
        return
    assert decode(b"".join(encode(found))) == found


TARGETS = {"records": records, "requests": request, "state": state}
