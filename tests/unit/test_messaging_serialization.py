# SPDX-License-Identifier: Apache-2.0
"""The driver sends exactly what the log driver of oslo.messaging logs, for any message.

Each test compares with the log driver and the masking of the installed oslo.messaging and
oslo.utils, because both differ between versions.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import ipaddress
import json
import logging
import subprocess
import sys
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import netaddr
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oslo_messaging.notify._impl_log import LogDriver
from oslo_utils import strutils

from notif_relay.messaging.serialization import dump

NAMES: list[str] = getattr(strutils, "_SANITIZE_KEYS")  # noqa: B009 - has no public name
"""Names of the keys whose values oslo.utils masks."""


class MessageList(logging.Handler):
    """Stores the messages that are logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def logged(message: Mapping[str, Any]) -> str:
    """Return the text that the log driver logs."""
    logger = logging.getLogger("oslo.messaging.notification")
    handler = MessageList()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        LogDriver(None, [], None).notify({}, message, "INFO", None)
    finally:
        logger.removeHandler(handler)
    (text,) = handler.texts
    return text


def notification(payload: object) -> dict[str, Any]:
    return {"event_type": "compute.instance.update", "priority": "INFO", "payload": payload}


def outcome(write: Callable[[Mapping[str, Any]], str], payload: object) -> str | type[Exception]:
    """Return the text, or the type of the exception."""
    try:
        return write(notification(payload))
    except Exception as error:  # noqa: BLE001 - any type is a result
        return type(error)


class State(str, enum.Enum):
    """A string for JSON; ``str`` returns another one."""

    ACTIVE = "active"
    SECRET = "password=abc"


class Translated(str):
    """A string whose ``str`` differs from its value, like a message of oslo.i18n."""

    __slots__ = ()

    def __str__(self) -> str:
        return "password = 'translated'"


class Number(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    first: str
    second: object


class Versioned:
    """An object with ``items`` that is no mapping, as in oslo.versionedobjects."""

    def __init__(self, fields: dict[str, object]) -> None:
        self._fields = fields

    def items(self) -> Any:
        return self._fields.items()


class Rows:
    """An iterable without length and membership test."""

    def __init__(self, rows: list[object]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[object]:
        return iter(self._rows)


class Reversed(list[object]):
    """A list whose iteration order differs from its storage."""

    def __iter__(self) -> Iterator[object]:
        return reversed(list(super().__iter__()))


class UpperCaseKeys(dict[str, object]):
    """A dictionary whose ``items`` differ from its storage."""

    def items(self) -> Any:
        return [(key.upper(), value) for key, value in super().items()]


def variants(name: str, where: int) -> Iterator[str]:
    """Yield the name in other cases, and with letters that are equal in some case mappings."""
    yield from (name, name.upper(), name.title(), name[:where] + name[where:].upper())
    yield name.replace("k", "\u212a")  # Kelvin sign, whose lower case is k
    yield name.replace("s", "\u017f")  # long s, equal to s if case is ignored
    yield name.replace("i", "\u0130")  # its lower case is i with a combining dot


FORMS = [
    "%s",
    "x%s9",
    "%s=abc",
    "%s = 'a b'",
    '%s = "a b"',
    '%s12 "abc"',
    "cmd --%s abc --force",
    "<%s>abc</%s>",
    "{'%s': 'abc'}",
    '{"%s": "abc"}',
    '{"a_%s1": u"abc", "x": "y"}',
    "['--%s', '--x', 'abc']",
    "%s --x abc",
    "%s\nabc\t'%s': 'ü'",
]
"""Forms of a secret in a text; a different rule masks each of them."""


def secret_texts() -> st.SearchStrategy[str]:
    names = st.tuples(st.sampled_from(NAMES), st.integers(0, 20)).flatmap(
        lambda drawn: st.sampled_from(list(variants(*drawn)))
    )
    return st.builds(
        lambda form, name: form.replace("%s", name), st.sampled_from(FORMS), names
    ) | st.tuples(st.text(max_size=4), names, st.text(max_size=4)).map("".join)


TEXTS = st.text(max_size=12) | secret_texts()
PIECES = st.sampled_from(["pass", "wor", "word", "to", "ken", "secret"[:3], "ret", "_"])
PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | PIECES
    | st.datetimes()
    | st.dates()
    | st.uuids()
)
ODD = (
    st.binary(max_size=4)
    | st.sampled_from([b"password=abc", bytearray(b"token"), "password=1".encode("utf-16")])
    | st.sampled_from([*State, *Number, Translated("plain"), decimal.Decimal("1.50")])
    | st.sampled_from([ValueError("password=abc"), dt.timedelta(1), object, len, 1j, object()])
    | st.sampled_from([ipaddress.ip_address("::1"), netaddr.IPAddress("10.0.0.1")])
    | st.sampled_from(
        [netaddr.IPNetwork("10.0.0.0/30"), range(3), ipaddress.ip_network("10.0.0.0/30")]
    )
    | st.frozensets(TEXTS, max_size=3)
)
KEYS = TEXTS | st.sampled_from(
    ["password", "uuid", 1, 1.5, True, None, State.SECRET, Translated("k")]
)


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(children, max_size=4)
    dictionaries = st.dictionaries(KEYS, children, max_size=4)
    of_strings = st.dictionaries(TEXTS, children, max_size=4)
    return (
        lists
        | dictionaries
        | lists.map(tuple)
        | st.builds(Pair, TEXTS, children)
        | lists.map(collections.deque)
        | lists.map(Rows)
        | lists.map(Reversed)
        | of_strings.map(collections.OrderedDict)
        | of_strings.map(types.MappingProxyType)
        | of_strings.map(collections.UserDict)
        | of_strings.map(UpperCaseKeys)
        | of_strings.map(Versioned)
        | of_strings.map(dict.values)
    )


def plain_containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(children, max_size=4) | st.dictionaries(TEXTS, children, max_size=4)


@settings(max_examples=150)
@given(st.recursive(PLAIN | ODD, containers, max_leaves=12))
@example([{"password": {"a": "kept"}}, ("token",)])
def test_any_payload_equals_log_driver_output(payload: Any) -> None:
    assert outcome(dump, payload) == outcome(logged, payload)


@settings(max_examples=150)
@given(st.recursive(PLAIN, plain_containers, max_leaves=30))
@example({"a": {"b": [{"to\u212aen": "abc"}]}})
def test_plain_payload_equals_log_driver_output(payload: Any) -> None:
    assert outcome(dump, payload) == outcome(logged, payload)


@settings(max_examples=150)
@given(st.recursive(ODD, containers, max_leaves=2), st.recursive(PLAIN, plain_containers))
@example(State.ACTIVE, None)
@example([Translated("plain")], {})
def test_odd_values_equal_log_driver_output(odd: Any, plain: Any) -> None:
    for payload in (odd, [odd, plain], {"odd": odd, "plain": plain}, {"a": {"b": [{"c": odd}]}}):
        assert outcome(dump, payload) == outcome(logged, payload)


@pytest.mark.parametrize("name", NAMES)
def test_every_secret_name_is_masked_in_any_place(name: str) -> None:
    for variant in variants(name, len(name) // 2):
        payload: dict[str, Any] = {variant: "abc", "nested": {"a": [{variant: ["abc"]}]}}
        for number, form in enumerate(FORMS):
            text = form.replace("%s", variant)
            payload |= {text: text, f"text{number}": text, f"list{number}": [text, {"a": (text,)}]}
        for key, value in payload.items():
            # Each key separately: a secret anywhere makes the driver take its slow path.
            assert dump(notification({key: value})) == logged(notification({key: value}))
        assert dump(notification(payload)) == logged(notification(payload))
    assert json.loads(dump(notification({name: "abc"})))["payload"] == {name: "***"}


@pytest.mark.parametrize("field", ["message_id", "publisher_id", "event_type", "timestamp"])
def test_secrets_are_masked_outside_the_payload_too(field: str) -> None:
    message = notification({}) | {field: "password=abc"}
    assert dump(message) == logged(message)
    assert "abc" not in dump(message)


def test_secret_name_across_two_strings_is_not_masked() -> None:
    payload = {"pass": "word=abc", "to": ["ken", "=abc"], "x": {"sec": "ret"}}
    assert dump(notification(payload)) == json.dumps(notification(payload))


@pytest.mark.parametrize("secret", [{}, {"password": "abc"}, {"a": uuid.UUID(int=1)}])
def test_iterator_in_payload_is_written(secret: dict[str, Any]) -> None:
    def payload() -> dict[str, Any]:
        return {"once": map(str, [1, 2]), "again": iter(["password=abc"]), **secret}

    text = dump(notification(payload()))
    assert text == logged(notification(payload()))
    assert json.loads(text)["payload"]["once"] == ["1", "2"]


def test_message_is_not_modified() -> None:
    payload = {"password": "abc", "nested": {"token": ["abc"], "text": "password=abc"}}
    message = notification(payload)
    dump(message)
    assert message["payload"] is payload
    assert payload == {"password": "abc", "nested": {"token": ["abc"], "text": "password=abc"}}


@pytest.mark.parametrize("payload", [object(), {"a": {(1, 2): 3}}, {b"bytes": 1}, {"a": 1j}])
def test_unserializable_payload_fails_as_in_log_driver(payload: object) -> None:
    expected = outcome(logged, payload)
    assert isinstance(expected, type)
    assert outcome(dump, payload) is expected


def test_circular_payload_is_refused() -> None:
    payload: dict[str, Any] = {"name": "circle"}
    payload["self"] = [payload]
    for write in (logged, dump):
        with pytest.raises((RecursionError, ValueError)):
            write(notification(payload))


WITHOUT_PRIVATE_NAMES = """
import importlib.util, json.encoder, sys
import oslo_utils
json.encoder.c_make_encoder = None
spec = importlib.util.find_spec("oslo_utils.strutils")
module = importlib.util.module_from_spec(spec)
source = spec.loader.get_source(spec.name).replace("_SANITIZE_KEYS", "_RENAMED")
exec(compile(source, spec.origin, "exec"), module.__dict__)
sys.modules[spec.name] = oslo_utils.strutils = module
from notif_relay.messaging.serialization import dump
print(dump({"payload": {"password": "abc", "text": "token=abc", "list": [{"a": None}]}, "n": 1}))
"""


def test_secrets_are_masked_without_private_names_of_others() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_PRIVATE_NAMES],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == {
        "payload": {"password": "***", "text": "token=***", "list": [{"a": None}]},
        "n": 1,
    }
