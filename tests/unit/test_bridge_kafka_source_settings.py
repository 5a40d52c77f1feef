# SPDX-License-Identifier: Apache-2.0
"""Tests of the options of the source Kafka."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, KafkaException
from oslo_config import cfg

from notif_relayd_bridge.brokers.kafka.settings import PROPERTIES, SOURCE_PROPERTIES
from notif_relayd_bridge.brokers.kafka.source import check
from notif_relayd_bridge.brokers.kafka.source_settings import (
    DEFAULT_TOPICS,
    SourceSettings,
    options,
    settings,
)
from notif_relayd_bridge.brokers.source import Selection
from notif_relayd_bridge.errors import StartError


def parse(url: str, selection: Selection, **properties: str) -> SourceSettings:
    """Return the settings for a URL and options."""
    conf = cfg.ConfigOpts()
    for section, opts in options():
        conf.register_opts(opts, section)
    conf([], project="test")
    for name, value in properties.items():
        conf.set_override(name, value, "kafka")
    return settings(url, conf, selection)


def test_guarantees_cannot_be_configured_away() -> None:
    fixed = {"group.id", "enable.auto.commit", "enable.auto.offset.store", "bootstrap.servers"}
    assert not fixed & set(SOURCE_PROPERTIES)
    parsed = parse("kafka://host", Selection("hub"))
    assert (
        parsed.properties.items()
        >= {
            "group.id": "hub",
            "enable.auto.commit": "false",
            "enable.auto.offset.store": "false",
            "auto.offset.reset": "earliest",
            "bootstrap.servers": "host:9092",
        }.items()
    )
    assert parsed.topics == list(DEFAULT_TOPICS)


def test_login_and_topics_are_configured() -> None:
    selection = Selection("hub", ("^a.*", "b"))
    changed = {"auto.offset.reset": "latest", "max.partition.fetch.bytes": "1000"}
    parsed = parse("kafka://user:pa55word@host", selection, **changed)
    assert parsed.topics == ["^a.*", "b"]
    assert parsed.properties.items() >= changed.items()
    assert parsed.properties["security.protocol"] == "sasl_ssl"
    assert parsed.properties["sasl.password"] == "pa55word"
    assert "pa55word" not in repr(parsed)
    assert parsed.hide("pa55word") == "***"


def test_new_protocol_of_groups_has_no_strategy() -> None:
    strategy = "partition.assignment.strategy"
    assert strategy in parse("kafka://host", Selection("hub")).properties
    changed = {"group.protocol": "consumer"}
    assert strategy not in parse("kafka://host", Selection("hub"), **changed).properties


def test_exchanges_are_refused() -> None:
    with pytest.raises(StartError, match="exchanges"):
        parse("kafka://host", Selection("hub", exchanges=("nova",)))


def test_invalid_pattern_is_refused() -> None:
    check(parse("kafka://host", Selection("pool", ("a", "^b.*"))))
    with pytest.raises(StartError, match="topics has an invalid pattern"):
        check(parse("kafka://host", Selection("pool", ("a", "^("))))


def test_properties_of_the_other_direction_are_unknown() -> None:
    assert not {"compression.type", "linger.ms", "topic"} & set(SOURCE_PROPERTIES)
    assert not {"auto.offset.reset", "fetch.min.bytes"} & set(PROPERTIES)
    assert {"ssl.ca.location", "sasl.mechanism"} <= set(SOURCE_PROPERTIES) & set(PROPERTIES)


def test_client_knows_every_property() -> None:
    unknown = []
    for name in SOURCE_PROPERTIES:
        try:
            Consumer({"group.id": "test", "log_level": 0, name: ""}).close()
        except KafkaException as error:
            if "No such configuration property" in error.args[0].str():
                unknown.append(name)
    assert unknown == []
