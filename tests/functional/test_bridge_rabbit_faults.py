# SPDX-License-Identifier: Apache-2.0
"""Tests of the bridge's target for RabbitMQ with a real broker: failures and refusals."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from compare.ports import free_port
from notif_relayd_bridge.errors import StartError
from support.bridge_trial import HubTrial, OutTrial, trial
from support.central import rabbit_at
from support.proxy import Proxy
from support.rabbitmq import (
    MAX_MESSAGE_SIZE,
    Broker,
    make_certificates,
    needs_rabbitmq,
    pipeline_to,
    record,
)
from support.trial_load import SHORT
from support.waiting import wait_until

pytestmark = needs_rabbitmq

HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

TOO_LARGE, ALSO_TOO_LARGE = (record(3, payload={"text": each * MAX_MESSAGE_SIZE}) for each in "xy")


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the pause between attempts to connect, which grows while a broker restarts."""
    monkeypatch.setattr("notif_relayd_bridge.brokers.backoff.MAX_BACKOFF", 0.5)


def through(proxy: Proxy) -> str:
    """Return the URL of the broker behind a proxy."""
    return f"rabbit://guest:guest@127.0.0.1:{proxy.port}/"


def first_occurrences(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


@pytest.fixture
def no_exchange(broker: Broker) -> Iterator[None]:
    """Delete the exchange, which has other properties with durable queues than without."""
    with broker.channel() as channel:
        channel.exchange_delete("openstack")
    yield
    with broker.channel() as channel:
        channel.exchange_delete("openstack")


@pytest.mark.usefixtures("no_exchange")
def test_every_record_is_accounted_for(broker: Broker, directory: Path) -> None:
    with rabbit_at(broker) as central, trial(OutTrial, directory, central, SHORT) as running:
        running.fail_in_turn()
        books = running.books
    assert books.errors == []
    assert books.announced == running.dropped > 0
    assert books.duplicates.total() > 0


@pytest.mark.usefixtures("no_exchange")
def test_every_message_reaches_the_hub(broker: Broker, directory: Path) -> None:
    with rabbit_at(broker) as central, trial(HubTrial, directory, central, SHORT) as running:
        running.fail_in_turn()
    assert running.books.errors == []
    assert running.books.arrived == sum(running.load.emitted)


def test_oversized_message_alone_is_refused(broker: Broker) -> None:
    with pipeline_to(broker.url()) as pipeline:
        pipeline.send([*map(record, range(3)), TOO_LARGE, *map(record, range(4, 200))])
        pipeline.wait_answered()
        pipeline.send([ALSO_TOO_LARGE, record(200)])
        pipeline.wait_answered()
    assert list(pipeline.refusals) == [TOO_LARGE, ALSO_TOO_LARGE]
    assert all("PRECONDITION_FAILED" in reason for reason in pipeline.refusals.values())
    expected = [number for number in range(201) if number != 3]
    assert first_occurrences(broker.numbers("notifications.info")) == expected


def test_forbidden_topics_of_records_are_refused(broker: Broker) -> None:
    # The user may not declare the first queue, not bind the second one, and not publish with the
    # routing key of the third one.
    topics = ("forbidden", "unreadable", "unwritable")
    forbidden = [record(number, _topic=topic) for number, topic in enumerate(topics, 1)]
    with pipeline_to(broker.url("limited:p4ssword")) as pipeline:
        pipeline.send([record(0), *forbidden, record(4)])
        pipeline.wait_answered()
        pipeline.send([record(5)])
        pipeline.wait_answered()
    assert list(pipeline.refusals) == forbidden
    assert all("ACCESS_REFUSED" in reason for reason in pipeline.refusals.values())
    assert first_occurrences(broker.numbers("notifications.info")) == [0, 4, 5]


@pytest.mark.parametrize(
    ("permissions", "topics"),
    [
        (("^$", "^$", "^$"), ".*"),  # no exchange
        (("^openstack$", ".*", ".*"), ".*"),  # no queue
        ((".*", ".*", ".*"), "^$"),  # no routing key
    ],
)
def test_missing_permission_loses_no_record(
    broker: Broker, permissions: tuple[str, str, str], topics: str
) -> None:
    broker.control("set_permissions", "powerless", *permissions)
    broker.control("set_topic_permissions", "powerless", "openstack", topics, ".*")
    with pipeline_to(broker.url("powerless:p4ssword")) as pipeline:
        pipeline.send([record(0)])
        pipeline.wait_failures(3)
        assert pipeline.unanswered == 1
        assert "ACCESS_REFUSED" in pipeline.failures[0]
        broker.control("set_permissions", "powerless", ".*", ".*", ".*")
        broker.control("clear_topic_permissions", "powerless")
        pipeline.wait_answered()
    assert pipeline.refusals == {}
    assert broker.numbers("notifications.info") == [0]


def test_wrong_password_is_never_shown(
    broker: Broker, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    broker.control("add_user", "late", "other")
    with pipeline_to(broker.url("late:wr0ng%2Fsecret")) as pipeline:
        pipeline.send([record(0)])
        pipeline.wait_failures(2)
        assert "ACCESS_REFUSED" in pipeline.failures[0]
        broker.control("change_password", "late", "wr0ng/secret")
        broker.control("set_permissions", "late", ".*", ".*", ".*")
        pipeline.wait_answered()
    broker.control("delete_user", "late")
    output = "".join((caplog.text, *capfd.readouterr(), *pipeline.failures))
    assert "wr0ng" not in output
    assert "ACCESS_REFUSED" in output


def test_rejected_message_is_sent_again_alone(broker: Broker) -> None:
    sent = [record(number, _topic="full") for number in range(4)]
    arrived: list[int] = []

    def is_answered() -> bool:
        arrived.extend(broker.numbers("full.info"))
        return not pipeline.unanswered

    with Proxy(broker.port) as proxy, pipeline_to(through(proxy)) as pipeline:
        pipeline.send(sent[:1])
        pipeline.wait_answered()
        pipeline.send(sent[1:])
        pipeline.wait_failures(4)
        assert "may accept later" in pipeline.failures[0]
        assert pipeline.unanswered == 3
        # Behind the rejected one, the others would be sent with each attempt, or overtake it.
        assert proxy.sent.count(b"-000000000001") >= 4
        assert proxy.sent.count(b"-000000000003") <= 1
        wait_until(is_answered, "all answers")
    assert arrived + broker.numbers("full.info") == [0, 1, 2, 3]
    assert pipeline.refusals == {}


@pytest.mark.parametrize("number", [1, 50])
def test_deleted_queue_is_declared_again(broker: Broker, number: int) -> None:
    with pipeline_to(broker.url()) as pipeline:
        pipeline.send([record(0)])
        pipeline.wait_answered()
        with broker.channel() as channel:
            channel.queue_delete("notifications.info")
        pipeline.send(map(record, range(number)))
        pipeline.wait_answered()
    assert first_occurrences(broker.numbers("notifications.info")) == list(range(number))
    assert pipeline.refusals == {}


def test_queue_with_other_properties_is_used(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with broker.channel() as channel:
        channel.queue_declare(
            "notifications.info", durable=True, auto_delete=False, arguments={"x-max-length": 9}
        )
    with pipeline_to(broker.url()) as pipeline:
        pipeline.send([record(0)])
        pipeline.wait_answered()
    assert broker.numbers("notifications.info") == [0]
    assert caplog.text.count("queue notifications.info exists with other properties") == 1


def test_records_wait_for_a_memory_alarm_to_end(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        Proxy(broker.port) as proxy,
        pipeline_to(through(proxy), heartbeat_timeout_threshold=2) as pipeline,
    ):
        pipeline.wait_connected()
        broker.control("set_vm_memory_high_watermark", "absolute", "1")
        try:
            pipeline.send([record(0)])
            wait_until(lambda: "short of memory" in caplog.text, "a log message")
            blocked = len(proxy.sent)
            pipeline.send(map(record, range(1, 500)))
            wait_until(lambda: proxy.sent.count(HEARTBEAT, blocked) >= 3, "heartbeats")
            assert bytes(proxy.sent[blocked:]).replace(HEARTBEAT, b"") == b""
            assert pipeline.unanswered == 500
            with pipeline_to(broker.url()) as other:
                other.wait_connected()
                other.send([record(-1)])  # closed while the broker reads nothing
        finally:
            broker.control("set_vm_memory_high_watermark", "0.4")
        pipeline.wait_answered()
    assert (pipeline.connections, pipeline.failures) == (1, [])
    assert [each for each in broker.numbers("notifications.info") if each >= 0] == list(range(500))


def test_silent_broker_is_noticed_by_its_heartbeats(broker: Broker) -> None:
    with (
        Proxy(broker.port) as proxy,
        pipeline_to(through(proxy), heartbeat_timeout_threshold=1) as pipeline,
    ):
        pipeline.wait_connected()
        proxy.stall()
        pipeline.send([record(0)])
        pipeline.wait_failures(1)
        assert "no heartbeat" in pipeline.failures[0]
        assert pipeline.unanswered == 1
        proxy.stall(False)
        pipeline.wait_answered()
    assert first_occurrences(broker.numbers("notifications.info")) == [0]


def test_idle_target_wakes_up_for_heartbeats_only(broker: Broker) -> None:
    with (
        Proxy(broker.port) as proxy,
        pipeline_to(through(proxy), heartbeat_timeout_threshold=2) as pipeline,
    ):
        pipeline.wait_connected()
        (thread,) = (each for each in threading.enumerate() if each.name == "rabbit")
        before, start = wakeups(thread), len(proxy.sent)
        wait_until(lambda: proxy.sent.count(HEARTBEAT, start) >= 5, "heartbeats")
        # The broker has sent about as many in these 3.3 s.
        assert wakeups(thread) - before < 20
        assert (pipeline.connections, pipeline.failures) == (1, [])


def wakeups(thread: threading.Thread) -> int:
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    (line,) = (each for each in status.splitlines() if each.startswith("voluntary_ctxt"))
    return int(line.split()[1])


@pytest.mark.parametrize("cut_after", [5, 300, 20_123, 100_001])
def test_connection_cut_within_a_message_loses_nothing(broker: Broker, cut_after: int) -> None:
    with Proxy(broker.port) as proxy:
        proxy.cut_after = cut_after
        with pipeline_to(through(proxy)) as pipeline:
            pipeline.send(map(record, range(500)))
            pipeline.wait_answered()
    assert len(pipeline.failures) == 1
    assert first_occurrences(broker.numbers("notifications.info")) == list(range(500))


def test_next_host_of_the_url_is_used(broker: Broker) -> None:
    url = f"rabbit://guest:guest@127.0.0.1:{free_port()},guest:guest@127.0.0.1:{broker.port}/"
    with pipeline_to(url) as pipeline:
        pipeline.send([record(0)])
        pipeline.wait_answered()
    assert broker.numbers("notifications.info") == [0]


def test_tls_options_apply(broker: Broker) -> None:
    url = f"rabbit://guest:guest@127.0.0.1:{broker.tls_port}/"
    authority = str(broker.authority)
    with pipeline_to(url, ssl=True, ssl_ca_file=authority) as pipeline:
        pipeline.send(map(record, range(2000)))
        pipeline.wait_answered()
    assert pipeline.failures == []
    assert broker.numbers("notifications.info") == list(range(2000))


def test_unknown_certificate_is_rejected(broker: Broker, directory: Path) -> None:
    make_certificates(directory)
    url = f"rabbit://guest:guest@127.0.0.1:{broker.tls_port}/?ssl=true"
    with pipeline_to(url, ssl_ca_file=str(directory / "ca.pem")) as pipeline:
        pipeline.wait_failures(1)
    assert pipeline.connections == 0
    assert "certificate verify failed" in pipeline.failures[0].lower()


def test_missing_file_for_tls_is_an_error(directory: Path) -> None:
    with (
        pytest.raises(StartError, match=f"ssl_ca_file .* cannot read {directory}/none"),
        pipeline_to("rabbit://u:p@h/", ssl=True, ssl_ca_file=f"{directory}/none"),
    ):
        pass
