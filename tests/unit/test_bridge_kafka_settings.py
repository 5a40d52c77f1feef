# SPDX-License-Identifier: Apache-2.0
"""Tests of the URL, the options and the topics of the target Kafka."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg

from notif_relay import Notification
from notif_relayd_bridge.brokers.kafka.settings import (
    PROPERTIES,
    Settings,
    Topic,
    key,
    options,
    settings,
)
from notif_relayd_bridge.errors import StartError
from support.bridge_targets import create_target
from support.records import record

PASSWORD = "hard/to:guess@1"
QUOTED = "hard%2Fto:guess%401"


def parse(url: str, **properties: str) -> Settings:
    """Return the settings for a URL and options."""
    conf = cfg.ConfigOpts()
    for section, opts in options():
        conf.register_opts(opts, section)
    conf([], project="test")
    for name, value in properties.items():
        conf.set_override(name, value, "kafka")
    return settings(url, conf)


def topic_of(event_type: str) -> str:
    return Topic("{event_type}")(Notification(record(event_type)))


@given(st.text())
def test_every_event_type_becomes_a_valid_topic(event_type: str) -> None:
    topic = topic_of(event_type)
    assert re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", topic)
    assert topic not in {".", ".."}


@pytest.mark.parametrize(
    ("event_type", "topic"),
    [("a.b-c_D", "a.b-c_D"), ("a b/c", "a_b_c"), ("", "_"), ("..", "_"), ("...", "...")],
)
def test_forbidden_characters_become_underscores(event_type: str, topic: str) -> None:
    assert topic_of(event_type) == topic


@pytest.mark.parametrize("value", [None, 7, ""])
def test_record_without_a_topic_has_the_default(value: object) -> None:
    raw = record(_topic=value)
    assert Topic("{topic}.x")(Notification(raw)) == "notifications.x"
    assert Topic("{topic}.x")(Notification(b"[" * 5000)) == "notifications.x"


@pytest.mark.parametrize(
    ("priority", "topic"),
    [("INFO", "n.info"), ("Error", "n.error"), ("x" * 50, "n.other"), ("", "n.other")],
)
def test_unusual_priority_has_no_topic_of_its_own(priority: str, topic: str) -> None:
    assert Topic("n.{priority}")(Notification(record(priority=priority))) == topic


def test_key_is_the_publisher() -> None:
    assert key(Notification(record(publisher_id="nova.host"))) == b"nova.host"
    assert key(Notification(record(publisher_id="é\ud800"))) == "é?".encode()
    assert key(Notification(record())) is None


def test_guarantees_cannot_be_configured_away() -> None:
    assert not {"acks", "enable.idempotence", "delivery.report.only.error"} & set(PROPERTIES)
    properties = parse("kafka://host").properties
    assert (properties["acks"], properties["enable.idempotence"]) == ("all", "true")


def test_url_with_a_password_requires_tls_by_default() -> None:
    properties = parse(f"kafka://us%40er:{QUOTED}@a,b:1/").properties
    assert properties["bootstrap.servers"] == "a:9092,b:1"
    assert properties["sasl.username"] == "us@er"
    assert properties["sasl.password"] == PASSWORD
    assert properties["security.protocol"] == "sasl_ssl"
    assert properties["sasl.mechanism"] == "PLAIN"
    assert "security.protocol" not in parse("kafka://a").properties


def test_configured_properties_take_precedence() -> None:
    changed = {"security.protocol": "sasl_plaintext", "sasl.mechanisms": "SCRAM-SHA-512"}
    changed |= {"compression.codec": "zstd", "delivery.timeout.ms": "1000"}
    properties = parse("kafka://user:password@host", **changed).properties
    assert changed.items() <= properties.items()
    assert not {"sasl.mechanism", "compression.type", "message.timeout.ms"} & set(properties)


def test_user_without_password_is_refused() -> None:
    with pytest.raises(StartError, match="without a password"):
        parse("kafka://user@host")


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    parsed = parse(f"kafka://user:{QUOTED}@host", **{"ssl.key.password": "geheim"})
    assert "guess" not in repr(parsed)
    assert parsed.hide(f"{PASSWORD}, geheim, host") == "***, ***, host"
    # The client quotes this value.
    options = {"sasl.oauthbearer.config": "geheim", "sasl.mechanism": "geheim"}
    with pytest.raises(StartError) as error:
        create_target("kafka://host", tmp_path, **options, **{"security.protocol": "sasl_ssl"})
    assert "geheim" not in str(error.value)


def test_client_knows_every_property() -> None:
    unknown = []
    for name in PROPERTIES:
        try:
            Producer({name: "", "log_level": 0})
        except KafkaException as error:
            if "No such configuration property" in error.args[0].str():
                unknown.append(name)
    assert unknown == []


def test_unknown_and_invalid_values_are_refused_by_the_client(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"\[kafka\].*partitioner"):
        create_target("kafka://host", tmp_path, partitioner="wrong")


def test_too_old_librdkafka_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("confluent_kafka.libversion", lambda: ("2.9.9", 0x020909FF))
    with pytest.raises(StartError, match=r"librdkafka 2\.9\.9 is too old"):
        create_target("kafka://127.0.0.1", tmp_path)
