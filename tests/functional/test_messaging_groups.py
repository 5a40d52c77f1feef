# SPDX-License-Identifier: Apache-2.0
"""Listeners of oslo.messaging that share notifications, requeue them, and select topics."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest
from oslo_messaging import NotificationResult

from notif_relay import subscription
from notif_relay.messaging import requeue
from notif_relay.messaging.groups import group_name
from support.messaging import (
    TOPIC,
    Endpoint,
    configuration,
    make_notifier,
    running_listener,
    transport_to,
)
from support.records import record
from support.relay import RunningRelay, next_relay, running_relay
from support.scripts import Scripts
from support.waiting import TIMEOUT, wait_until


@pytest.fixture
def transport(relay: RunningRelay) -> Iterator[oslo_messaging.NotificationTransport]:
    with transport_to(relay.public) as transport:
        yield transport


@contextlib.contextmanager
def driver_transport(relay: RunningRelay) -> Iterator[oslo_messaging.NotificationTransport]:
    """Yield a transport whose notifiers can have ``driver="unix"``."""
    conf = configuration()
    with transport_to(relay.public, conf) as transport:
        conf.set_override("sock_path", str(relay.public), group="oslo_messaging_notifications")
        yield transport


def emit(transport: oslo_messaging.NotificationTransport, *payloads: object) -> None:
    notifier = make_notifier(transport)
    for payload in payloads:
        notifier.info({}, "event", payload)


def handled(*endpoints: Endpoint) -> list[Any]:
    """Return the payloads that the endpoints got so far."""
    return [call.payload for each in endpoints for batch in each.calls.queue for call in batch]


def wait_handled(count: int, *endpoints: Endpoint) -> None:
    wait_until(lambda: len(handled(*endpoints)) >= count, f"{count} are handled")


def groups(relay: RunningRelay) -> list[str]:
    return sorted(each["group"] for each in relay.request("groups"))


def wait_finished(relay: RunningRelay) -> None:
    wait_until(
        lambda: not any(each["unfinished"] + each["lag"] for each in relay.request("groups")),
        "everything is finished",
    )


@pytest.mark.parametrize(
    ("pools", "copies"), [((None, None), 1), (("p", "p"), 1), (("p", "q"), 2), ((None, "p"), 2)]
)
def test_listeners_of_a_topic_or_pool_share_the_work(
    relay: RunningRelay,
    transport: oslo_messaging.NotificationTransport,
    pools: tuple[str | None, str | None],
    copies: int,
) -> None:
    first, second = Endpoint("info"), Endpoint("info")
    with (
        running_listener(transport, first, pool=pools[0]),
        running_listener(transport, second, pool=pools[1]),
    ):
        names = {f"topic:{TOPIC}" if pool is None else pool for pool in pools}
        assert groups(relay) == sorted(names)
        emit(transport, *range(25))
        wait_handled(25 * copies, first, second)
        wait_finished(relay)
    assert sorted(handled(first, second)) == sorted([*range(25)] * copies)


def test_listeners_share_each_topic_that_both_have(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport
) -> None:
    both, one, default = Endpoint("info"), Endpoint("info"), Endpoint("info")
    with (
        running_listener(transport, both, topics=("a", "b")),
        running_listener(transport, one, topics=("a",)),
        running_listener(transport, default),
    ):
        for topic in ("a", "b", "c", "a.info"):
            make_notifier(transport, topic).info({}, "event", topic)
        with driver_transport(relay) as other:
            make_notifier(other, driver="unix").info({}, "event", "unix")
            make_notifier(other, "b", driver="unix").info({}, "event", "unix b")
            make_notifier(other, "c", TOPIC, driver="unix").info({}, "event", "unix c")
        wait_handled(3, both, one)
        wait_handled(2, default)
        wait_finished(relay)
    assert sorted(handled(both, one)) == ["a", "b", "unix b"]
    assert set(handled(one)) <= {"a"}
    assert sorted(handled(default)) == ["unix", "unix c"]


def test_driver_writes_other_topics_than_the_default(relay: RunningRelay) -> None:
    with driver_transport(relay) as transport, relay.subscribe() as subscriber:
        for topics in ([TOPIC], ["a"], ["a", TOPIC]):
            make_notifier(transport, *topics, driver="unix").info({}, "event", 1)
        read = [subscriber.notification() for _ in range(3)]
    assert [each.pop("_topic", None) for each in read] == [None, "a", ["a", TOPIC]]
    assert len({tuple(each) for each in read}) == 1


@pytest.mark.parametrize("configured", [False, True])
def test_url_without_a_group_gives_each_listener_a_copy(
    relay: RunningRelay, configured: bool
) -> None:
    if configured:
        url = f"unix://{relay.public}?group="
        transport = oslo_messaging.get_notification_transport(configuration(transport_url=url))
    else:
        url = f"unix://{relay.public}?group=-"
        transport = oslo_messaging.get_notification_transport(configuration(), url=url)
    first, second = Endpoint("info"), Endpoint("info")
    with running_listener(transport, first), running_listener(transport, second, pool="p"):
        assert groups(relay) == []
        emit(transport, 1)
        assert first.next_payloads(1) == second.next_payloads(1) == [1]
    transport.cleanup()


def test_url_names_the_group_its_window_and_hold(relay: RunningRelay) -> None:
    with (
        transport_to(relay.public, query="group=g&window=2&hold=0") as transport,
        running_listener(transport, Endpoint("info"), topics=("a", "b"), pool="p"),
    ):
        assert groups(relay) == ["g"]
    wait_until(lambda: groups(relay) == [], "the group is not held")


def test_default_hold_is_what_the_relay_permits(directory: Path) -> None:
    with (
        running_relay(directory, "--relayd-max_hold", "1.5") as relay,
        transport_to(relay.public) as transport,
    ):
        with running_listener(transport, Endpoint("info")):
            assert groups(relay) == [f"topic:{TOPIC}"]
        assert relay.request("groups")[0]["hold_seconds"] <= 1.5
        with (
            transport_to(relay.public, query="hold=60") as other,
            pytest.raises(oslo_messaging.MessagingException, match=r"max_hold = 1\.5 seconds"),
            running_listener(other, Endpoint("info")),
        ):
            pass


def test_lower_max_hold_after_an_outage_does_not_stop_listeners(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "MAX_BACKOFF", 0.1)
    default = f"topic:{TOPIC}"
    with contextlib.ExitStack() as stack:
        with running_relay(directory) as relay:
            for query in ("", "group=b&hold=60"):
                transport = stack.enter_context(transport_to(relay.public, query=query))
                stack.enter_context(running_listener(transport, Endpoint("info")))
            assert groups(relay) == ["b", default]
        with next_relay(directory, "--relayd-max_hold", "1.5") as relay:
            wait_until(lambda: groups(relay) == [default], "the default is adapted")
            wait_until(lambda: '"hold" is 60' in caplog.text, "the other listener is refused")
        with next_relay(directory) as relay:
            wait_until(lambda: groups(relay) == ["b", default], "both have joined again")
    assert not [each for each in caplog.records if each.levelno > logging.WARNING]


def test_long_and_unusual_names_are_digested() -> None:
    names = ["p", "a b", "a" * 65, "\udcff", "topic:é"]
    made = [group_name(name) for name in names]
    assert made[0] == "p"
    assert len(set(made)) == len(names)
    assert {len(each) for each in made[1:]} == {55}


class Requeueing(Endpoint):
    """An endpoint that requeues odd payloads of one priority until their third time."""

    def receive(self, priority: str, *call: Any) -> Any:
        super().receive(priority, *call)
        payloads = [each["payload"] for each in call[0]] if len(call) == 1 else [call[3]]
        again = [each for each in payloads if each % 2 and handled(self).count(each) < 3]
        return NotificationResult.REQUEUE if again and priority == "info" else None


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requeue, "MIN_PAUSE", 0.02)


def test_requeued_notifications_are_handled_again(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport, short_pauses: None
) -> None:
    endpoint = Requeueing("info")
    with running_listener(transport, endpoint, allow_requeue=True):
        emit(transport, *range(4))
        wait_handled(8, endpoint)
        wait_finished(relay)
    assert sorted(handled(endpoint)) == [0, 1, 1, 1, 2, 3, 3, 3]


def test_requeued_batch_is_handled_again_by_priority(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport, short_pauses: None
) -> None:
    endpoint = Requeueing("info", "error")
    with running_listener(transport, endpoint, allow_requeue=True, batch_size=4):
        notifier = make_notifier(transport)
        for payload in (0, 1):
            notifier.info({}, "event", payload)
            notifier.error({}, "event", 10 + payload)
        wait_handled(8, endpoint)
        wait_finished(relay)
    assert sorted(handled(endpoint)) == [0, 0, 0, 1, 1, 1, 10, 11]
    assert {len(batch) for batch in endpoint.calls.queue} == {2}


def test_requeued_notifications_are_not_requeued_without_permission(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport
) -> None:
    endpoint = Requeueing("info")
    with running_listener(transport, endpoint):
        emit(transport, 1)
        wait_handled(1, endpoint)
        wait_finished(relay)
    assert handled(endpoint) == [1]


def test_pauses_grow_to_a_limit() -> None:
    pauses = [requeue.pause(attempts) for attempts in (1, 2, 3, 6, 7, 10**6)]
    assert pauses == [0.1, 0.2, 0.4, 3.2, 5, 5]


def test_requeued_notifications_go_to_another_listener_at_the_end(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport
) -> None:
    endpoint, other = Requeueing("info"), Endpoint("info")
    with running_listener(transport, endpoint, allow_requeue=True):
        emit(transport, 1)
        wait_handled(1, endpoint)
    with running_listener(transport, other):
        assert other.next_payloads(1) == [1]


WORKER = """
import os, sys, threading
import oslo_messaging
from support.messaging import configuration

class Endpoint:
    def info(self, ctxt, publisher_id, event_type, payload, metadata):
        print(payload, flush=True)
        threading.Event().wait()

transport = oslo_messaging.get_notification_transport(configuration(), url="unix://" + sys.argv[1])
listener = oslo_messaging.get_notification_listener(
    transport, [oslo_messaging.Target(topic="notifications")], [Endpoint()], executor="threading"
)
listener.start()
print(os.getpid(), flush=True)
threading.Event().wait()
"""


def test_unhandled_notifications_of_a_killed_worker_are_handled(
    relay: RunningRelay,
    transport: oslo_messaging.NotificationTransport,
    scripts: Scripts,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), os.pathsep)
    worker = scripts.run("-W", "ignore", "-c", WORKER, relay.public)
    pid = int(worker.line())
    emit(transport, 1)
    make_notifier(transport).info({}, "forged\nline", 2)
    assert {worker.line(), worker.line()} == {"1", "2"}
    endpoint = Endpoint("info")
    with running_listener(transport, endpoint):
        os.kill(pid, signal.SIGKILL)
        assert endpoint.next_payloads(2) == [1, 2]
        wait_finished(relay)
    assert caplog.text.count("was delivered before and not finished") == 2
    assert r"forged\nline" in caplog.text
    assert relay.request("groups")[0]["redelivered"] == 2


class Busy(Endpoint):
    """An endpoint that handles nothing until its gate is opened."""

    def __init__(self, *priorities: str) -> None:
        super().__init__(*priorities)
        self.gate = threading.Event()

    def receive(self, priority: str, *call: Any) -> None:
        super().receive(priority, *call)
        self.gate.wait(TIMEOUT)


def test_notifications_handled_after_the_stop_are_finished(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport
) -> None:
    busy, other = Busy("info"), Endpoint("info")
    with running_listener(transport, busy) as listener:
        emit(transport, 1, 2)
        wait_handled(2, busy)
        listener.stop()
        emit(transport, 3)  # of this, the listener takes no notice
        busy.gate.set()
        listener.wait()
    assert handled(busy) == [1, 2]
    with running_listener(transport, other):
        assert other.next_payloads(1) == [3]
        wait_finished(relay)
    assert handled(other) == []


class HandledExceptions(logging.Handler):
    """Notes which exceptions are being handled while something is logged, as oslo.log does."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), sys.exc_info()[1]))


def test_warnings_are_logged_outside_of_exception_handlers(
    relay: RunningRelay, transport: oslo_messaging.NotificationTransport, directory: Path
) -> None:
    handler = HandledExceptions()
    logger = logging.getLogger("notif_relay")
    logger.addHandler(handler)
    missing = directory / "missing.sock"
    try:
        with transport_to(missing) as waiting, running_listener(waiting, Endpoint("info")):
            wait_until(lambda: handler.found, "the listener logs that it waits")
        emit(transport, float("nan"))
        with running_listener(transport, Endpoint("info")), relay.produce() as producer:
            producer.sendall(record(payload="[" * 9).replace(b'"[[', b"[" * 100_000))
            producer.sendall(record(payload=1))
            wait_until(lambda: relay.status()["records_received"] >= 1, "the record is relayed")
    finally:
        logger.removeHandler(handler)
    assert len(handler.found) >= 2
    assert {error for _, error in handler.found} == {None}
