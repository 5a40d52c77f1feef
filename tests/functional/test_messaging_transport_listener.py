# SPDX-License-Identifier: Apache-2.0
"""Start and stop of a listener, restarts of the relay, and reports of losses."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest

from notif_relay import records, subscription
from notif_relay.messaging import subscriber as subscriber_module
from notif_relay.messaging.groups import DEFAULT_WINDOW
from support.messaging import (
    TOPIC,
    Endpoint,
    make_notifier,
    running_listener,
    threads_and_descriptors,
    transport_to,
)
from support.other_user import as_nobody
from support.private_socket import PrivateSocket, ProducerConnection
from support.records import numbered_record, record
from support.relay import RunningRelay, connect, next_relay, running_relay
from support.scripts import Scripts
from support.waiting import TIMEOUT, wait_until

MIB = 1024 * 1024


@pytest.fixture
def no_leaks() -> Iterator[None]:
    before = threads_and_descriptors()
    yield
    assert threads_and_descriptors() <= before


def messages(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Return the messages that the package has logged so far."""
    return [
        each.getMessage()
        for each in caplog.records
        if each.name.startswith("notif_relay.") and each.levelno >= level
    ]


def test_restarted_listener_leaves_nothing_behind(relay: RunningRelay, no_leaks: None) -> None:
    endpoint = Endpoint("info")
    with transport_to(relay.public, query="hold=0") as transport:
        listener = oslo_messaging.get_notification_listener(
            transport,
            [oslo_messaging.Target(topic=TOPIC)],
            [endpoint],
            executor="threading",
        )
        before = threads_and_descriptors()
        with relay.produce() as producer:
            for number in range(3):
                listener.start()
                producer.sendall(record(payload=number))
                assert endpoint.next_notification().payload == number
                listener.stop()
                listener.wait()
                relay.wait_status(subscribers=0)
                producer.sendall(record(payload="not for the stopped listener"))
                relay.wait_status(records_received=2 * (number + 1))
        assert threads_and_descriptors() <= before
    assert endpoint.calls.empty()


def test_transport_cleanup_stops_its_listeners(relay: RunningRelay, no_leaks: None) -> None:
    endpoint = Endpoint("info")
    with transport_to(relay.public) as transport, running_listener(transport, endpoint):
        emit = make_notifier(transport)
        emit.info({}, "event", 1)
        assert endpoint.next_notification().payload == 1
        transport.cleanup()
        # The notifier still has the transport and could send again.
        relay.wait_status(subscribers=0, producers=0)
        transport.cleanup()


def test_listener_waits_for_a_relay_and_logs_it_once(
    directory: Path, caplog: pytest.LogCaptureFixture, no_leaks: None
) -> None:
    caplog.set_level(logging.INFO)
    endpoint = Endpoint("info", "warn")
    public = directory / "notifications.sock"
    with transport_to(public) as transport, running_listener(transport, endpoint):
        wait_until(lambda: messages(caplog), "the listener logs that it waits")
        with running_relay(directory) as relay, relay.produce() as producer:
            wait_until(lambda: len(messages(caplog)) > 1, "the listener has connected")
            producer.sendall(record(payload=1))
            assert (
                endpoint.next_notification().payload == 1
            )  # without a gap: there was no connection before
            assert messages(caplog) == [
                f"no connection to the relay at {public}: the socket does not exist; is"
                " notif-relayd installed and running?; retrying",
                f"Receiving notifications from {public} again",
            ]
    assert endpoint.calls.empty()


def test_restart_of_the_relay_is_a_gap(
    directory: Path, caplog: pytest.LogCaptureFixture, no_leaks: None
) -> None:
    endpoint = Endpoint("info", "warn")
    with contextlib.ExitStack() as stack:
        with running_relay(directory) as relay:
            transport = stack.enter_context(transport_to(relay.public))
            stack.enter_context(running_listener(transport, endpoint))
            with relay.produce() as producer:
                producer.sendall(record(payload=1))
                assert endpoint.next_notification().payload == 1
        with next_relay(directory) as relay:
            gap = endpoint.next_notification()
            assert (gap.priority, gap.event_type) == ("warn", "notif_relayd.gap")
            assert gap.payload == {"dropped": None, "reason": "relay_restarted"}
            with relay.produce() as producer:
                producer.sendall(record(payload=2))
                assert endpoint.next_notification().payload == 2
        stack.close()
    disconnected, lost, *others = messages(caplog, logging.WARNING)
    assert disconnected.startswith(f"no connection to the relay at {relay.public}: ")
    assert lost == "Some notifications were lost: relay_restarted"
    # The second relay may have ended before the listener stopped.
    assert others in ([], [disconnected])


@pytest.mark.parametrize("state", ["connected", "without a relay", "busy"])
def test_listener_can_be_stopped_in_any_state(directory: Path, no_leaks: None, state: str) -> None:
    gate = threading.Event()

    class Busy(Endpoint):
        def receive(self, priority: str, *call: Any) -> None:
            super().receive(priority, *call)
            gate.wait(TIMEOUT)

    endpoint = Busy("info")
    with contextlib.ExitStack() as stack:
        if state != "without a relay":
            relay = stack.enter_context(running_relay(directory))
        transport = stack.enter_context(transport_to(directory / "notifications.sock"))
        listener = oslo_messaging.get_notification_listener(
            transport,
            [oslo_messaging.Target(topic=TOPIC)],
            [endpoint],
            executor="threading",
        )
        listener.start()
        if state == "busy":
            with relay.produce() as producer:
                producer.sendall(b"".join(map(numbered_record, range(2 * DEFAULT_WINDOW))))
                endpoint.next_notification()
                relay.wait_status(records_received=2 * DEFAULT_WINDOW)
        listener.stop()
        assert not [each for each in threading.enumerate() if each.name == "notif_relay listener"]
        gate.set()
        listener.wait()


def test_records_of_a_slow_endpoint_stay_in_the_relay(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent, gate = 20_000, threading.Event()

    class Slow(Endpoint):
        def receive(self, priority: str, *call: Any) -> None:
            gate.wait(TIMEOUT)
            super().receive(priority, *call)

    slow, taking_gaps = Slow("info"), Slow("warn")
    with (
        running_relay(directory, "--relayd-ring_size", str(2 * MIB)) as relay,
        transport_to(relay.public) as transport,
        running_listener(transport, slow, taking_gaps),
        relay.produce() as producer,
    ):
        for number in range(sent):
            producer.sendall(numbered_record(number))
        relay.wait_status(records_received=sent)
        gate.set()
        gaps: list[int] = []

        def total() -> int:
            while not taking_gaps.calls.empty():
                (gap,) = taking_gaps.calls.get()
                assert gap.payload["reason"] == "slow_subscriber"
                gaps.append(gap.payload["dropped"])
            return slow.calls.qsize() + sum(gaps)

        wait_until(lambda: total() >= sent, "each record was handled or reported")
        assert total() == sent
        assert sum(gaps) > sent - 4 * MIB // 1024
        assert f"{gaps[0]} notifications were lost" in caplog.text


def test_gap_is_logged_without_a_warn_endpoint(
    relay: RunningRelay, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Endpoint("info")
    with (
        transport_to(relay.public) as transport,
        running_listener(transport, endpoint),
        relay.produce() as producer,
    ):
        producer.sendall(records.gap(7, "producer_congested") + record(payload=1))
        assert endpoint.next_notification().payload == 1
    assert messages(caplog) == ["7 notifications were lost: producer_congested"]


def test_denied_permission_is_an_error_at_start(
    relay: RunningRelay, caplog: pytest.LogCaptureFixture, no_leaks: None
) -> None:
    relay.directory.chmod(0o755)
    relay.public.chmod(0)
    with (
        as_nobody() as name,
        transport_to(relay.public) as transport,
        pytest.raises(oslo_messaging.MessagingException) as raised,
        running_listener(transport, Endpoint()),
    ):
        pass
    sentence = str(raised.value)
    assert sentence.startswith(f"user {name} may not connect to {relay.public}: ")
    assert f"usermod -aG {relay.public.group()} {name}" in sentence
    assert messages(caplog) == [f"Cannot listen for notifications: {sentence}"]


def test_later_denied_permission_is_logged_until_granted(
    directory: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    no_leaks: None,
) -> None:
    monkeypatch.setattr(subscription, "MAX_BACKOFF", 0.1)
    endpoint = Endpoint("info", "warn")
    with contextlib.ExitStack() as stack:
        with running_relay(directory) as relay:
            directory.chmod(0o755)
            relay.public.chmod(0o666)
            with as_nobody():
                transport = stack.enter_context(transport_to(relay.public))
                stack.enter_context(running_listener(transport, endpoint))
        relay.public.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as closed:
            # It does not listen, so that the listener cannot connect while the process is root.
            closed.bind(os.fspath(relay.public))
            relay.public.chmod(0)
            with as_nobody():
                wait_until(lambda: "usermod -aG" in caplog.text, "the listener logs the reason")
        relay.public.unlink()
        assert endpoint.calls.empty()
        with next_relay(directory):
            gap = endpoint.next_notification()
            assert gap.payload == {"dropped": None, "reason": "permission_denied"}
        stack.close()
    assert len([each for each in messages(caplog) if "usermod -aG" in each]) == 1


@contextlib.contextmanager
def answering(
    public: Path, answers: Callable[[], bytes]
) -> Iterator[queue.Queue[ProducerConnection]]:
    """Run a fake relay that answers each subscriber's request with the result of `answers`."""
    subscribers: queue.Queue[ProducerConnection] = queue.Queue()
    with PrivateSocket(public) as private:

        def serve() -> None:
            while (incoming := private.accept()).line():
                incoming.socket.sendall(answers())
                subscribers.put(incoming)
            incoming.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield subscribers
        finally:
            connect(public).close()  # a connection without a request ends the thread
            thread.join()
            while not subscribers.empty():
                subscribers.get().close()


def test_refused_filter_is_an_error_at_start(
    directory: Path, caplog: pytest.LogCaptureFixture, no_leaks: None
) -> None:
    public = directory / "notifications.sock"
    with (
        answering(public, lambda: records.error("There is no such thing.")),
        transport_to(public) as transport,
        pytest.raises(oslo_messaging.MessagingException, match="There is no such thing"),
        running_listener(transport, Endpoint()),
    ):
        pass
    assert messages(caplog) == ["Cannot listen for notifications: There is no such thing."]


def test_later_refused_filter_is_logged_as_error(
    directory: Path, caplog: pytest.LogCaptureFixture, no_leaks: None
) -> None:
    public = directory / "notifications.sock"
    answers = [records.error("There is no such thing."), records.subscribed({})]
    with (
        answering(public, answers.pop) as subscribers,
        transport_to(public) as transport,
        running_listener(transport, Endpoint()),
    ):
        subscribers.get(timeout=TIMEOUT).close()
        wait_until(lambda: messages(caplog, logging.ERROR), "the listener logs an error")
    assert messages(caplog, logging.ERROR) == [
        "Stopped listening for notifications: There is no such thing."
    ]


def test_silent_relay_is_an_error_at_start(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_leaks: None,
) -> None:
    monkeypatch.setattr(subscriber_module, "ANSWER_TIMEOUT", 0.05)
    public = directory / "notifications.sock"
    with (
        PrivateSocket(public),
        transport_to(public) as transport,
        pytest.raises(oslo_messaging.MessagingException, match=f"{public} does not answer"),
        running_listener(transport, Endpoint()),
    ):
        pass


def test_unreadable_records_are_logged_and_skipped(
    directory: Path, caplog: pytest.LogCaptureFixture, no_leaks: None
) -> None:
    endpoint = Endpoint()
    public = directory / "notifications.sock"
    unreadable = [
        b'{"event_type": "torn", "prio\n',
        b"[1]\n",
        b'{"event_type": "e", "priority": 1}\n',
        b'{"event_type": "e", "priority": "INFO", "payload": ' + b"[" * 200_000 + b"\n",
    ]
    unusual = [
        record(records.GAP, payload={}),
        record(records.GAP, payload={"dropped": "many", "reason": 5}),
        record(payload="HUGE").replace(b'"HUGE"', b"1" * 5000),
    ]
    later = record("notif_relayd.later")  # from a relay that is newer than the library
    invalid_fields = record(payload=1, _topic=[7], _context="none")
    with (
        answering(public, lambda: records.subscribed({})) as subscribers,
        transport_to(public) as transport,
        running_listener(transport, endpoint),
    ):
        incoming = subscribers.get(timeout=TIMEOUT)
        incoming.socket.sendall(
            b"".join(unreadable + unusual) + records.error("No.") + later + invalid_fields
        )
        payloads = [endpoint.next_notification().payload for _ in unusual]
        assert payloads == [{}, {"dropped": "many", "reason": 5}, float("inf")]
        got = endpoint.next_notification()
        assert (got.payload, got.context) == (1, {})
        incoming.close()
    assert len(
        [each for each in messages(caplog) if "Ignored an unreadable record" in each]
    ) == len(unreadable)
    assert endpoint.calls.empty()


NEVER_STOPPED = """
import sys
import oslo_messaging
from support.messaging import Endpoint, configuration
transport = oslo_messaging.get_notification_transport(configuration(), url="unix://" + sys.argv[1])
listener = oslo_messaging.get_notification_listener(
    transport, [oslo_messaging.Target(topic="t")], [Endpoint()], executor="threading"
)
listener.start()
print("listening", flush=True)
"""


def test_process_exits_with_a_running_listener(
    relay: RunningRelay, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), os.pathsep)
    script = scripts.run("-W", "ignore", "-c", NEVER_STOPPED, relay.public)
    assert script.line() == "listening"
    script.finish()
