# SPDX-License-Identifier: Apache-2.0
"""Tests of the parts of the bridge's target for RabbitMQ that need no broker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslo_config import cfg

from notif_relayd_bridge.brokers.rabbit import driver
from notif_relayd_bridge.brokers.rabbit.ledger import Ledger, UnexpectedConfirmationError
from notif_relayd_bridge.brokers.rabbit.message import UnsendableRecordError, contents
from notif_relayd_bridge.brokers.schemes import SCHEMES
from notif_relayd_bridge.errors import StartError

BASIC = {
    "message_id": "1",
    "publisher_id": "p",
    "event_type": "e",
    "priority": "INFO",
    "payload": {"number": 1},
    "timestamp": "2026-01-31 12:00:00",
}


class Reports:
    """Events that lists the answers."""

    def __init__(self) -> None:
        self.answers: list[int | str] = []

    def confirmed(self, count: int) -> None:
        self.answers.append(count)

    def refused(self, reason: str) -> None:
        self.answers.append(reason)

    def connected(self) -> None:
        raise AssertionError("connected")

    def failed(self, reason: str) -> None:
        raise AssertionError(reason)


def reported(ledger: Ledger) -> list[int | str]:
    reports = Reports()
    ledger.report(reports)
    return reports.answers


def sent(**fields: Any) -> dict[str, Any]:
    """Return the notification that is sent for a record with these fields."""
    body = contents(json.dumps({**BASIC, **fields}).encode(), "notifications").body(None)
    message: dict[str, Any] = json.loads(json.loads(body.data)["oslo.message"])
    return message


def keys(**fields: Any) -> list[str]:
    """Return the routing keys of a record with these fields."""
    record = json.dumps({**BASIC, **fields}).encode()
    return [each.routing_key for each in contents(record, "notifications").addresses]


def test_single_confirmations_wait_for_the_messages_before() -> None:
    ledger = Ledger()
    for _ in range(4):
        ledger.add(1, names_topic=False)
    ledger.confirm(3, multiple=False)
    ledger.confirm(2, multiple=False)
    assert reported(ledger) == []
    ledger.confirm(1, multiple=False)
    assert reported(ledger) == [3]
    assert len(ledger) == 1


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans())))
def test_confirmations_count_each_message_once(steps: list[tuple[int, bool]]) -> None:
    ledger, confirmed, total = Ledger(), set(), 0
    for _ in range(9):
        ledger.add(1, names_topic=False)
    for number, multiple in steps:
        ledger.confirm(number, multiple)
        confirmed |= set(range(1, number + 1)) if multiple else {number}
        total += sum(each for each in reported(ledger) if isinstance(each, int))
        assert total == min(set(range(1, 11)) - confirmed) - 1


def test_record_is_confirmed_with_the_last_of_its_messages() -> None:
    ledger = Ledger()
    ledger.add(3, names_topic=True)
    ledger.confirm(1, multiple=False)
    ledger.confirm(3, multiple=False)
    assert reported(ledger) == []
    ledger.confirm(2, multiple=False)
    assert reported(ledger) == [1]


def test_refusals_are_reported_in_their_turn() -> None:
    ledger = Ledger()
    ledger.add(1, names_topic=False)
    ledger.add_refused("why")
    ledger.add(1, names_topic=False)
    assert reported(ledger) == []
    ledger.confirm(2, multiple=True)
    assert reported(ledger) == [1, "why", 1]


def test_confirmation_of_a_refused_record_is_a_refusal() -> None:
    ledger = Ledger()
    ledger.add(1, names_topic=False)
    record = ledger.single()
    assert record is not None
    record.refuse("no queue")
    ledger.confirm(1, multiple=False)
    assert reported(ledger) == ["no queue"]
    assert ledger.single() is None


def test_numbers_restart_on_a_new_channel() -> None:
    ledger = Ledger()
    ledger.add(2, names_topic=True)
    record = ledger.single()
    assert record is not None
    assert record.names_topic
    record.refuse("too large")
    ledger.restart()
    ledger.add(1, names_topic=False)
    ledger.confirm(1, multiple=True)
    assert reported(ledger) == ["too large", 1]


@pytest.mark.parametrize("number", [0, -1, 3, 2**63])
def test_confirmation_of_no_message_is_an_error(number: int) -> None:
    ledger = Ledger()
    ledger.add(2, names_topic=False)
    with pytest.raises(UnexpectedConfirmationError):
        ledger.confirm(number, multiple=True)


def test_reserved_names_of_a_record_are_not_sent() -> None:
    message = sent(_topic="t", _reply_q="q", _msg_id="1", _unique_id="2", _context_user="root")
    assert len(message.pop("_unique_id")) == 32
    assert message == BASIC


def test_context_is_a_prefix_of_its_names() -> None:
    message = sent(_context={"user": "u"}, extra=1)
    assert (message["_context_user"], message["extra"]) == ("u", 1)
    assert "_context" not in message


@pytest.mark.parametrize("context", [None, 1, "text", ["user"]])
def test_context_of_another_type_is_ignored(context: object) -> None:
    assert sent(_context=context).keys() == BASIC.keys() | {"_unique_id"}


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("versioned", ["versioned.info"]),
        (["b", "a", 1], ["a.info", "b.info"]),
        ([], ["notifications.info"]),
        (7, ["notifications.info"]),
    ],
)
def test_topics_of_a_record_are_routing_keys(topic: object, expected: list[str]) -> None:
    assert keys(_topic=topic) == expected


@pytest.mark.parametrize("priority", ["", "compute.host-1", "INFO.x", "WARNING", "#"])
def test_only_priorities_of_notifications_are_sent(priority: str) -> None:
    with pytest.raises(UnsendableRecordError):
        keys(priority=priority)


@pytest.mark.parametrize(
    "url",
    [
        "rabbit://user:s3cr/et@host:5672/",
        "rabbit://user:s3cret@host:port/",
        "rabbit://user:1234/s3cret@host/",
        "rabbit://user:s3cret@[host/",
    ],
)
def test_invalid_url_is_reported_without_the_password(url: str) -> None:
    with pytest.raises(StartError) as raised:
        SCHEMES["rabbit"].create(url, configuration())
    assert "s3cr" not in str(raised.value)
    assert "percent-encoded" in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    "query",
    [
        "ssl=maybe",
        "no_such_option=1",
        "kombu_compression=none",
        "rabbit_ha_queues=1&rabbit_quorum_queue=1",
        "rabbit_stream_fanout=1",
    ],
)
def test_invalid_option_is_reported(query: str) -> None:
    with pytest.raises(StartError, match="oslo_messaging_rabbit"):
        SCHEMES["rabbit"].create(f"rabbit://user:s3cret@host/?{query}", configuration())


def test_address_of_version_6_has_brackets() -> None:
    assert driver.create("rabbit://u:p@[::1]:1234/", configuration()).address == "[::1]:1234"


def test_passwords_are_removed_from_reasons() -> None:
    used = driver.create("rabbit://user:s3cret@host:1234/", configuration())
    assert used.describe(OSError("user:s3cret\n")) == "host:1234: user:***\\n"
    assert len(used.describe(OSError("x" * 10_000))) < 1000


def configuration() -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    conf([], project="bridge", default_config_files=[])
    return conf
