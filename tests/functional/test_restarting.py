# SPDX-License-Identifier: Apache-2.0
"""Connections, filters and counters survive a restart of the relay without loss."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.groups import join
from support.load import load
from support.records import is_gap, numbered_record, record
from support.relay import Subscriber, request_filter, subscribe_filtered
from support.service_manager import ManagedRelay, close_all, managed_relay
from support.waiting import wait_until


@pytest.fixture
def relay(directory: Path) -> Iterator[ManagedRelay]:
    with managed_relay(directory) as relay:
        yield relay


def test_connections_survive_a_restart(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for number in range(3):
            producer.sendall(record(number=number))
            assert subscriber.line() == record(number=number)
            relay.restart()
        producer.sendall(record(number=3))
        assert subscriber.line() == record(number=3)


def test_counters_survive_a_restart(relay: ManagedRelay) -> None:
    with (
        relay.subscribe() as subscriber,
        subscribe_filtered(relay, priority=["ERROR"]),
        relay.produce() as p,
    ):
        p.sendall(record() * 5 + b"garbage\n" + record(priority="ERROR") + b"half")
        subscriber.lines(6)
        with relay.subscribe() as another, relay.produce() as late:
            late.sendall(record())
            another.line()
        subscriber.line()
        relay.wait_status(subscribers=2, producers=1, records_received=7, records_rejected=1)
        before = relay.status(), relay.request("producers"), relay.request("subscribers")
        relay.restart()
        after = relay.status(), relay.request("producers"), relay.request("subscribers")
    for status in (before[0], after[0]):
        del status["pid"], status["uptime_seconds"]
    for each in (*before[1], *before[2]):
        each["connected_seconds"] = pytest.approx(each["connected_seconds"], abs=60)
    assert after == before
    assert after[0]["records_delivered"] == 6 + 1 + 1 + 1


def test_member_that_cannot_read_is_restored_and_ended(relay: ManagedRelay) -> None:
    with join(relay, window=1) as one, join(relay, hold=60) as two, relay.produce() as producer:
        producer.sendall(record())
        one.line()
        two.socket.shutdown(socket.SHUT_RD)
        assert relay.stop() == 0
        one.close()
        relay.start()  # The record of the first member is sent to the second one.
        relay.wait_status(subscribers=0)
        (group,) = relay.request("groups")
        assert (group["members"], group["lag"]) == (0, 1)
        assert "without saved state" not in relay.log.read_text()


def test_connection_ids_are_not_reused_after_a_restart(relay: ManagedRelay) -> None:
    with relay.subscribe(), relay.produce():
        relay.wait_status(producers=1)
        relay.restart()
        with relay.subscribe():
            assert [each["id"] for each in relay.request("subscribers")] == [1, 3]


def test_partial_records_and_requests_survive_a_restart(
    relay: ManagedRelay,
) -> None:
    line, request = record("wanted"), b'{"filter": {"event_type": ["wanted"]}}\n'
    with relay.subscribe() as subscriber, relay.produce() as producer:
        producer.sendall(line[:20])
        subscriber.socket.sendall(request[:20])
        wait_until(
            lambda: relay.request("producers")[0]["bytes"] == 20, "half of the record has arrived"
        )
        relay.restart()
        subscriber.socket.sendall(request[20:])
        assert subscriber.notification()["event_type"] == "notif_relayd.subscribed"
        producer.sendall(line[20:] + record("other") + line)
        assert subscriber.lines(2) == [line, line]


def test_oversized_line_is_skipped_across_a_restart(
    directory: Path,
) -> None:
    with (
        managed_relay(directory, "--relayd-max_record_size", "2048") as relay,
        relay.subscribe() as subscriber,
        relay.produce() as producer,
    ):
        producer.sendall(b"x" * 3000)
        relay.wait_status(records_rejected=1)
        relay.restart()
        producer.sendall(b"x" * 3000 + b"\n" + record())
        assert subscriber.line() == record()
        relay.wait_status(records_rejected=1)


@pytest.mark.parametrize("ring_size", [1 << 24, 1 << 20])
def test_backlog_survives_a_restart(directory: Path, ring_size: int) -> None:
    total = 4000
    with (
        managed_relay(directory, "--relayd-ring_size", str(ring_size)) as relay,
        Subscriber(relay.public) as slow,
        subscribe_filtered(relay, event_type=["test.*"]) as slow_too,
        relay.produce() as producer,
    ):
        for number in range(total):
            producer.sendall(numbered_record(number))
            if number == total // 2:
                relay.restart()
        relay.wait_status(records_received=total)
        before = [
            relay.status()["ring_bytes"],
            *(each["lag"] for each in relay.request("subscribers")),
        ]
        assert all(before)
        relay.restart()
        assert before == [
            relay.status()["ring_bytes"],
            *(each["lag"] for each in relay.request("subscribers")),
        ]
        reported = 0
        for subscriber in (slow, slow_too):
            expected = 0
            while expected < total:
                line = subscriber.line()
                if is_gap(line):
                    payload = json.loads(line)["payload"]
                    assert payload["reason"] == "slow_subscriber"
                    reported += payload["dropped"]
                    expected += payload["dropped"]
                else:
                    assert line == numbered_record(expected)
                    expected += 1
            assert expected == total
            assert bool(reported) == (ring_size < total * 1024)
        relay.wait_status(ring_bytes=0, records_dropped=reported)


def test_smaller_ring_after_a_restart_causes_a_gap(directory: Path) -> None:
    with (
        managed_relay(directory) as relay,
        Subscriber(relay.public) as slow,
        relay.produce() as producer,
    ):
        for number in range(4000):
            producer.sendall(numbered_record(number))
        relay.wait_status(records_received=4000)
        relay.set_arguments("--relayd-ring_size", str(1 << 20))
        relay.restart()
        assert relay.status()["ring_bytes"] <= 1 << 20
        lines: list[bytes] = []
        while not lines or lines[-1] != numbered_record(3999):
            lines.append(slow.line())
        (gap,) = filter(is_gap, lines)
        assert len(lines) - 1 + json.loads(gap)["payload"]["dropped"] == 4000


def test_pending_filter_survives_a_restart(
    relay: ManagedRelay,
) -> None:
    """The subscriber is behind; records from before the request are still to be sent."""
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for number in range(2000):
            producer.sendall(numbered_record(number))
        relay.wait_status(records_received=2000)
        request_filter(subscriber, event_type=["wanted"])
        producer.sendall(record("other") + record("wanted"))
        relay.wait_status(records_received=2002)
        relay.restart()
        producer.sendall(record("other") + record("wanted", number=2))
        lines = subscriber.lines(2000)
        assert lines == [numbered_record(number) for number in range(2000)]
        event_types = [subscriber.notification()["event_type"] for _ in range(3)]
        if event_types[0] == "other":  # it arrived before the relay read the request
            event_types = [event_types[2], subscriber.notification()["event_type"], "wanted"]
        assert event_types == ["notif_relayd.subscribed", "wanted", "wanted"]


def test_pending_requests_are_answered_after_a_restart(
    relay: ManagedRelay,
) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for number in range(50):
            request_filter(subscriber, event_type=[str(number)])
        assert subscriber.notification()["payload"] == {"event_type": ["0"]}
        relay.restart()
        for number in range(1, 50):
            assert subscriber.notification()["payload"] == {"event_type": [str(number)]}
        producer.sendall(record("48") + record("49"))
        assert subscriber.line() == record("49")


def test_refused_request_in_a_backlog_survives_a_restart(relay: ManagedRelay) -> None:
    total = 3000
    sent = [numbered_record(number, 700) for number in range(total)]

    def lag() -> int:
        lag = relay.request("subscribers")[0]["lag"]
        assert isinstance(lag, int)
        return lag

    with (
        Subscriber(relay.public) as refused,
        Subscriber(relay.public) as slow,
        relay.produce() as producer,
    ):
        relay.wait_status(subscribers=2)
        producer.sendall(b"".join(sent))
        relay.wait_status(records_received=total)
        before = lag()
        head = refused.socket.recv((total - before) * 700, socket.MSG_WAITALL)
        # The subscriber's socket fills up again within a batch of the relay.
        wait_until(lambda: lag() < before, "more is sent")
        refused.socket.sendall(b"[]\n")
        wait_until(lambda: not lag(), "the request is refused")
        relay.restart()
        assert slow.lines(total) == sent
        *records, answer = (head + refused.read_to_end()).splitlines(keepends=True)
        assert records == sent[: len(records)]
        assert json.loads(answer)["event_type"] == "notif_relayd.error"


def test_records_sent_between_two_relays_arrive(
    relay: ManagedRelay,
) -> None:
    with relay.subscribe() as subscriber:
        producer = relay.produce()
        relay.wait_stored("p2", "s1")
        assert relay.stop() == 0
        producer.sendall(record())
        producer.close()
        relay.start()
        assert subscriber.line() == record()
        relay.wait_stored("s1")


def test_disconnects_between_two_relays_are_counted(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        producer.sendall(record() + b"half")
        subscriber.line()
        wait_until(
            lambda: relay.request("producers")[0]["bytes"] > len(record()),
            "the partial record has arrived",
        )
        assert relay.stop() == 0
    # With FDPOLL=1 systemd removes closed connections from the store.
    for name in ("p2", "s1"):
        close_all(relay.stored.pop(name))
    relay.start()
    relay.wait_status(
        producers=0, subscribers=0, records_received=1, records_delivered=1, records_rejected=1
    )


def test_stop_and_start_leave_nothing_behind(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce():
        relay.wait_stored("s1", "p2")
        relay.stop_and_clear()
        assert subscriber.read_to_end() == b""
        relay.start()
        assert relay.status()["subscribers"] == 0
        with relay.subscribe(), relay.produce() as producer:
            producer.sendall(record())
    relay.wait_stored()


def test_restarts_under_load_lose_no_record(directory: Path) -> None:
    # On a busy machine the subscribers may be behind by more than the default ring holds.
    with managed_relay(directory, "--relayd-ring_size", str(128 << 20)) as relay:
        with load(relay.public, relay.ingest, subscribers=5) as running:
            running.produce(4, rate=1000)
            for _ in range(5):
                running.wait_received(1000)
                relay.restart()
            produced = running.finish()
        assert relay.status()["records_received"] == sum(each.sent for each in produced)
    for checker in running.checkers:
        assert checker.errors == []
        assert checker.crash_gaps == 0
        assert checker.received == sum(each.sent for each in produced)
        assert checker.missing == checker.announced == sum(each.dropped for each in produced)
