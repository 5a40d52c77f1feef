# SPDX-License-Identifier: Apache-2.0
"""Notifications from oslo.messaging's notifiers through a relay to oslo.messaging's listeners."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest
from oslo_config import cfg
from oslo_context.context import RequestContext
from oslo_messaging.notify import _impl_test
from oslo_messaging.notify.dispatcher import PRIORITIES

from notif_relay import records
from support.messaging import Endpoint, configuration, make_notifier, running_listener, transport_to
from support.private_socket import PrivateSocket
from support.records import record
from support.relay import RunningRelay, running_relay
from support.waiting import wait_until

MIB = 1024 * 1024


@pytest.fixture
def transport(relay: RunningRelay) -> Iterator[oslo_messaging.NotificationTransport]:
    with transport_to(relay.public) as transport:
        yield transport


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


class ContextSerializer(oslo_messaging.NoOpSerializer):  # type: ignore[misc]
    """Serialize a request context to a dictionary, as the serializers of nova and others do."""

    def serialize_context(self, ctxt: Any) -> Any:
        return ctxt.to_dict()


@pytest.mark.parametrize("serializer", [None, ContextSerializer()], ids=["object", "dictionary"])
@pytest.mark.parametrize("driver", ["messaging", "messagingv2"])
def test_listener_gets_notification_and_context(
    transport: oslo_messaging.NotificationTransport,
    endpoint: Endpoint,
    driver: str,
    serializer: ContextSerializer | None,
) -> None:
    context = RequestContext(user_id="alice", project_id="p", request_id="req-1")
    with running_listener(transport, endpoint):
        emit = make_notifier(transport, driver=driver, serializer=serializer)
        emit.info(context, "compute.create", {"host": "hôst", "n": [1, None, 2.5]})
        got = endpoint.next_notification()
    assert (got.priority, got.publisher_id, got.event_type, got.payload) == (
        "info",
        "compute.host-1",
        "compute.create",
        {"host": "hôst", "n": [1, None, 2.5]},
    )
    assert set(got.metadata) == {"message_id", "timestamp"}
    assert all(got.metadata.values())
    assert (got.context["user"], got.context["request_id"]) == ("alice", "req-1")


def test_subscriber_gets_notification_topic_and_context(
    relay: RunningRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_impl_test, "NOTIFICATIONS", [])
    conf = configuration(driver=["messagingv2", "test"])
    with transport_to(relay.public, conf) as transport, relay.subscribe() as subscriber:
        emit = make_notifier(transport, "a.topic", driver=None)
        emit.warn({}, "compute.create", {"x": 1})
        emit.warn(RequestContext(user_id="alice"), "compute.create", {"x": 1})
        bare, full = subscriber.notification(), subscriber.notification()
    (_, made, _, _), _ = _impl_test.NOTIFICATIONS
    assert bare == {**made, "_topic": "a.topic"}
    assert list(bare) == [*made, "_topic"]
    assert list(full) == [*made, "_topic", "_context"]
    assert full["_context"]["user"] == "alice"


def test_secrets_in_payload_and_context_are_masked(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport
) -> None:
    message = {
        "message_id": "1",
        "publisher_id": "p",
        "event_type": "e",
        "priority": "INFO",
        "payload": {"admin_password": "hidden", "url": "http://u:p@h/?auth_token=hidden"},
        "timestamp": "t",
    }
    target = oslo_messaging.Target(topic="notifications.info")
    context = {"auth_token": "hidden", "user": "alice", "more": {"secret_uuid": "hidden"}}
    with relay.subscribe() as subscriber:
        # Newer versions of the notifier remove such a context, so bypass it.
        transport._send_notification(target, context, message, version=2.0, retry=None)  # noqa: SLF001 (oslo.messaging)
        line = subscriber.line()
    assert b"hidden" not in line
    assert json.loads(line)["_context"]["user"] == "alice"


def test_all_seven_priorities_arrive(
    transport: oslo_messaging.NotificationTransport, endpoint: Endpoint
) -> None:
    with running_listener(transport, endpoint):
        emit = make_notifier(transport)
        for priority in PRIORITIES:
            getattr(emit, priority)({}, f"event.{priority}", priority)
        got = {
            (each.priority, each.payload)
            for each in (endpoint.next_notification() for _ in PRIORITIES)
        }
    assert got == {(priority, priority) for priority in PRIORITIES}
    assert len(PRIORITIES) == 7


def test_only_priorities_of_endpoints_are_requested(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport
) -> None:
    endpoint, other = Endpoint("error"), Endpoint("audit")
    with running_listener(transport, endpoint, other):
        before = relay.status()["records_delivered"]
        emit = make_notifier(transport)
        for priority in PRIORITIES:
            getattr(emit, priority)({}, "event", priority)
        assert endpoint.next_notification().payload == "error"
        assert other.next_notification().payload == "audit"
        relay.wait_status(records_received=7)
        assert relay.status()["records_delivered"] == before + 2


def test_listener_without_endpoints_gets_nothing(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport
) -> None:
    with running_listener(transport):
        before = relay.status()["records_delivered"]
        make_notifier(transport).info({}, "event", 1)
        relay.wait_status(records_received=1)
        assert relay.status()["records_delivered"] == before


def test_notifier_sends_one_record_per_topic(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport
) -> None:
    with relay.subscribe() as subscriber:
        make_notifier(transport, "a", "b").info({}, "event", 1)
        first, second = subscriber.notification(), subscriber.notification()
    assert (first.pop("_topic"), second.pop("_topic")) == ("a", "b")
    assert first == second


def test_exchange_is_ignored(
    transport: oslo_messaging.NotificationTransport, endpoint: Endpoint
) -> None:
    target = oslo_messaging.Target(topic="notifications", exchange="nova")
    listener = oslo_messaging.get_notification_listener(
        transport, [target], [endpoint], executor="threading"
    )
    listener.start()
    try:
        make_notifier(transport).info({}, "event", 1)
        assert endpoint.next_notification().payload == 1
    finally:
        listener.stop()
        listener.wait()


def test_endpoint_filter_is_applied(
    transport: oslo_messaging.NotificationTransport,
) -> None:
    by_type, by_context, unfiltered = Endpoint("info"), Endpoint("info"), Endpoint("info")
    by_type.filter_rule = oslo_messaging.NotificationFilter(  # type: ignore[attr-defined]
        event_type=r"^compute\..*", publisher_id="^compute", payload={"state": "^active$"}
    )
    by_context.filter_rule = oslo_messaging.NotificationFilter(  # type: ignore[attr-defined]
        context={"user": "^alice$"}
    )
    with running_listener(transport, by_type, by_context, unfiltered):
        emit = make_notifier(transport)
        emit.info({}, "compute.update", {"state": "error", "n": 1})
        emit.info({}, "volume.update", {"state": "active", "n": 2})
        emit.info({}, "compute.update", {"state": "active", "n": 3})
        emit.info(RequestContext(user_id="bob"), "x", {"n": 4})
        emit.info(RequestContext(user_id="alice"), "x", {"n": 5})
        assert sorted(unfiltered.next_notification().payload["n"] for _ in range(5)) == [
            1,
            2,
            3,
            4,
            5,
        ]
        assert by_type.next_notification().payload["n"] == 3
        assert by_context.next_notification().payload["n"] == 5
    assert by_type.calls.empty()
    assert by_context.calls.empty()


def test_last_batch_arrives_after_the_timeout(
    transport: oslo_messaging.NotificationTransport, endpoint: Endpoint
) -> None:
    with running_listener(transport, endpoint, batch_size=5, batch_timeout=0.2):
        emit = make_notifier(transport)
        sent = []
        for number in range(12):
            emit.info({}, "event", number)
            sent.append(number)
        batches: list[list[Any]] = []
        while sum(map(len, batches)) < 12:
            batches.append(endpoint.next_batch())
        emit.info({}, "event", 12)  # the listener continues after a timeout
        batches.append(endpoint.next_batch())
    assert max(map(len, batches)) <= 5
    assert sorted(each.payload for batch in batches for each in batch) == [*sent, 12]


def test_stop_delivers_an_incomplete_batch(
    relay: RunningRelay,
    transport: oslo_messaging.NotificationTransport,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint = Endpoint("info")
    with running_listener(transport, endpoint, batch_size=5):
        emit = make_notifier(transport)
        for number in range(12):
            emit.info({}, "event", number)
        both = endpoint.next_batch() + endpoint.next_batch()
        assert sorted(each.payload for each in both) == list(range(10))
        relay.wait_status(records_received=12)
        with relay.produce() as producer:
            producer.sendall(records.gap(7, "producer_congested"))
            # The listener logs the gap when it reads it, after all notifications before it.
            wait_until(
                lambda: "7 notifications were lost" in caplog.text,
                "the listener has read everything",
            )
    assert sorted(each.payload for each in endpoint.next_batch()) == [10, 11]
    assert endpoint.calls.empty()


def test_endpoint_exception_does_not_stop_the_listener(
    transport: oslo_messaging.NotificationTransport,
) -> None:
    class Failing(Endpoint):
        def receive(self, priority: str, *call: Any) -> None:
            super().receive(priority, *call)
            raise RuntimeError("no")

    failing = Failing("info")
    with (
        running_listener(transport, failing),
        running_listener(transport, failing, batch_size=1, pool="other"),
    ):
        for number in range(300):  # more than DEFAULT_WINDOW
            make_notifier(transport).info({}, "event", number)
        assert failing.next_payloads(600) == sorted([*range(300), *range(300)])


def test_remote_procedure_calls_are_refused(relay: RunningRelay) -> None:
    # Some options of remote procedure calls are registered only in the global configuration.
    transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=f"unix://{relay.public}")
    target = oslo_messaging.Target(topic="topic", server="server")
    make_client = getattr(oslo_messaging, "get_rpc_client", oslo_messaging.RPCClient)
    client = make_client(transport, target)
    server = oslo_messaging.get_rpc_server(transport, target, [Endpoint()], executor="threading")
    for use in (
        lambda: client.call({}, "method"),
        lambda: client.cast({}, "method"),
        server.start,
    ):
        with pytest.raises(NotImplementedError, match="notifications only"):
            use()
    transport.cleanup()


@pytest.mark.parametrize("retry", [None, -1, 0, 3])
def test_missing_relay_drops_without_retry_and_reports_a_gap(
    directory: Path, retry: int | None
) -> None:
    endpoint = Endpoint("info", "warn")
    with transport_to(directory / "notifications.sock") as transport:
        emit = make_notifier(transport, retry=retry)
        for number in range(3):
            emit.info({}, "event", number)
        with running_relay(directory) as relay, running_listener(transport, endpoint):
            # The notifier attempts to connect again only after its backoff.
            wait_until(
                lambda: emit.info({}, "event", 0) or relay.status()["records_received"],
                "the notifier has found the relay",
            )
            gap = endpoint.next_notification()
            while gap.priority != "warn":
                gap = endpoint.next_notification()
    assert gap.event_type == "notif_relayd.gap"
    assert gap.payload["reason"] == "relay_restarted"
    assert gap.payload["dropped"] >= 3


def test_oversized_notification_is_logged_and_dropped(
    transport: oslo_messaging.NotificationTransport,
    endpoint: Endpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running_listener(transport, endpoint):
        emit = make_notifier(transport)
        emit.info({}, "large.event", "x" * MIB)
        emit.info({}, "small.event", "x")
        assert endpoint.next_notification().event_type == "small.event"
    (message,) = (each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING)
    assert message.startswith("large.event of compute.host-1: a record of ")
    assert len(message) < 200


def test_threads_share_a_transport(
    transport: oslo_messaging.NotificationTransport, relay: RunningRelay, endpoint: Endpoint
) -> None:
    with running_listener(transport, endpoint, batch_size=50, batch_timeout=0.1):
        emit = make_notifier(transport)

        def notify(thread: int) -> None:
            for number in range(200):
                emit.info({}, "event", [thread, number])

        threads = [threading.Thread(target=notify, args=(each,)) for each in range(4)]
        for thread in threads:
            thread.start()
        got: list[Any] = []
        while len(got) < 800:
            got += [each.payload for each in endpoint.next_batch()]
        for thread in threads:
            thread.join()
    assert sorted(got) == [[thread, number] for thread in range(4) for number in range(200)]
    assert relay.status()["records_rejected"] == 0


def test_forked_process_sends(
    transport: oslo_messaging.NotificationTransport, endpoint: Endpoint
) -> None:
    with running_listener(transport, endpoint):
        emit = make_notifier(transport)
        emit.info({}, "event", "before")
        pid = os.fork()
        if not pid:
            emit.info({}, "event", "child")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        emit.info({}, "event", "parent")
        assert endpoint.next_payloads(3) == ["before", "child", "parent"]


def test_ingest_path_names_another_private_socket(directory: Path) -> None:
    with PrivateSocket(directory / "elsewhere") as private:
        conf = configuration()
        with transport_to(directory / "notifications.sock", conf):
            pass
        conf.set_override("ingest_path", str(private.path), group="oslo_messaging_notifications")
        with transport_to(directory / "notifications.sock", conf) as transport:
            make_notifier(transport).info({}, "event", 1)
            with private.accept() as incoming:
                assert json.loads(incoming.line())["payload"] == 1


def test_listening_needs_no_private_socket(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Endpoint("info")
    with running_relay(directory) as relay, relay.produce() as producer:
        relay.ingest.unlink()
        with transport_to(relay.public) as transport, running_listener(transport, endpoint):
            producer.sendall(record(payload=1))
            assert endpoint.next_notification().payload == 1
    assert not [each for each in caplog.records if each.name.endswith("producer")]
