# SPDX-License-Identifier: Apache-2.0
"""Tests of the URL, the options and the subjects of the target NATS."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relay import Notification
from notif_relayd_bridge.brokers import address
from notif_relayd_bridge.brokers.nats.settings import MAX_SUBJECT, Subject
from notif_relayd_bridge.errors import StartError
from support.bridge_targets import create_target
from support.records import record


def subject_of(event_type: str, text: str = "notifications.{event_type}") -> str:
    return Subject(text)(Notification(record(event_type)))


@pytest.mark.parametrize(
    ("event_type", "subject"),
    [
        ("compute.instance.create.end", "notifications.compute.instance.create.end"),
        ("a b", "notifications.a_b"),
        ("a*b.>", "notifications.a_b._"),
        ("a\tb\0c\x7f", "notifications.a_b_c_"),
        ("a..b.", "notifications.a._.b._"),
        ("", "notifications._"),
        ("größe", "notifications.gr__e"),
    ],
)
def test_subject_has_no_forbidden_characters(event_type: str, subject: str) -> None:
    assert subject_of(event_type) == subject


@given(st.text())
def test_every_event_type_becomes_a_valid_subject(event_type: str) -> None:
    tokens = subject_of(event_type).split(".")
    assert tokens[0] == "notifications"
    assert all(token and token.isascii() and token.isprintable() for token in tokens)
    assert not set("".join(tokens)) & set(" *>")


def test_long_subject_is_cut() -> None:
    subject = subject_of("a." * MAX_SUBJECT)
    assert MAX_SUBJECT <= len(subject) <= MAX_SUBJECT + 1
    assert not subject.endswith(".")


def test_template_may_have_several_fields() -> None:
    assert subject_of("a.b", "os.{priority}.{event_type}.x") == "os.info.a.b.x"


def test_unusual_priority_is_other() -> None:
    subject = Subject("os.{priority}")
    assert subject(Notification(record(priority="x.y"))) == "os.other"
    assert subject(Notification(record(priority="ERROR"))) == "os.error"


@pytest.mark.parametrize(
    ("text", "wildcard"),
    [
        ("notifications.{event_type}", "notifications.>"),
        ("os.x{priority}.y", "os.>"),
        ("os.region.{priority}.y", "os.region.>"),
        ("notifications", "notifications"),
    ],
)
def test_wildcard_contains_the_subjects(text: str, wildcard: str) -> None:
    assert Subject(text).wildcard == wildcard


INVALID_TEMPLATES = """
{event_type} x{event_type} $$JS.{event_type} _INBOX.{event_type} a>b.{priority} *.{priority}
a.> a..b .a a. a.{x} a.{event_type!r} a.{priority:9} a.{
"""


@pytest.mark.parametrize("text", ["", "a b.{priority}", "x" * 999, *INVALID_TEMPLATES.split()])
def test_invalid_template_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"\[nats\] subject"):
        create_target("nats://host", tmp_path, subject=text)


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("nats://a", ["a:4222"]),
        ("nats://a/", ["a:4222"]),
        ("nats://a:1,b,[::1]:3", ["a:1", "b:4222", "[::1]:3"]),
        ("nats://u:p@a:1,b:2", ["a:1", "b:2"]),
    ],
)
def test_servers_of_a_url(url: str, servers: list[str]) -> None:
    assert [str(server) for server in address.parse(url, "nats", 4222).servers] == servers


def test_credentials_of_a_url_are_decoded_and_not_shown() -> None:
    parsed = address.parse("nats://us%40er:pass%2Fw/or@d%3A1:2@host", "nats", 4222)
    assert (parsed.user, parsed.password) == ("us@er", "pass/w/or@d:1:2")
    assert "pass" not in repr(parsed)
    assert address.parse("nats://token@host", "nats", 4222).password is None


@pytest.mark.parametrize("hosts", ["host:x", "", "a,,b", "h/path", "h?x=1", "h h", "h:99999", "[h"])
def test_invalid_url_is_refused_without_its_password(hosts: str) -> None:
    with pytest.raises(StartError) as error:
        address.parse(f"nats://user:secret@{hosts}", "nats", 4222)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"create_stream": True},
        {"stream": "a.b"},
        {"stream": "a b"},
        {"tls_ca_file": "/missing"},
        {"tls_cert_file": "/missing"},
        {"tls_key_file": "/missing"},
        {"user_credentials": "/missing"},
        {"nkeys_seed": "/missing"},
    ],
)
def test_invalid_option_is_refused(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"\[nats\]"):
        create_target("nats://host", tmp_path, **options)
