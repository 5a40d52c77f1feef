# SPDX-License-Identifier: Apache-2.0
"""After the answer to its request, a subscriber gets all matching records and no others."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.records import is_gap, numbered_record, record
from support.relay import RunningRelay, Subscriber, running_relay

MIB = 1024 * 1024


def send_request(subscriber: Subscriber, **wanted: list[str]) -> None:
    subscriber.socket.sendall(json.dumps({"filter": wanted}).encode() + b"\n")


def read_answer(subscriber: Subscriber) -> dict[str, Any]:
    """Read up to the answer; return the filter that it states."""
    while True:
        notification = subscriber.notification()
        if notification["event_type"] == "notif_relayd.subscribed":
            assert notification["priority"] == "INFO"
            payload = notification["payload"]
            assert isinstance(payload, dict)
            return payload


def test_only_matching_records_are_delivered(relay: RunningRelay) -> None:
    with relay.subscribe() as some, relay.subscribe() as all_, relay.produce() as producer:
        wanted = {"event_type": ["compute.*"], "priority": ["error", "WARN"]}
        send_request(some, **wanted)
        assert read_answer(some) == wanted
        lines = [
            record(f"{service}.{number}", priority, number=number)
            for number in range(50)
            for service in ("compute", "volume")
            for priority in ("INFO", "WARN", "Error")
        ]
        producer.sendall(b"".join(lines))
        matching = [line for line in lines if b"compute" in line and b"INFO" not in line]
        assert all_.lines(len(lines)) == lines
        assert some.lines(len(matching)) == matching
        rows = sorted(row["records"] for row in relay.request("subscribers"))
        assert rows == [len(matching), len(lines)]


def test_request_replaces_filter_and_empty_one_removes_it(
    relay: RunningRelay,
) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for wanted, expected in (
            ({"event_type": ["a"]}, ["a"]),
            ({"event_type": ["b"]}, ["b"]),
            ({}, ["a", "b", "c"]),
            ({"publisher_id": ["x"]}, []),
            ({"event_type": ["[bc]"]}, ["b", "c"]),
        ):
            send_request(subscriber, **wanted)
            assert read_answer(subscriber) == wanted
            producer.sendall(record("a") + record("b") + record("c"))
            assert [subscriber.notification()["event_type"] for _ in expected] == expected


def test_requests_sent_at_once_are_answered_in_order(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for name in "abcd":
            send_request(subscriber, event_type=[name])
        for name in "abcd":
            assert read_answer(subscriber) == {"event_type": [name]}
        producer.sendall(record("a") + record("d"))
        assert subscriber.line() == record("d")


def test_request_may_arrive_byte_by_byte(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber:
        for byte in b'{"filter": {"event_type": ["a"]}}\n':
            subscriber.socket.sendall(bytes([byte]))
        assert read_answer(subscriber) == {"event_type": ["a"]}


def test_request_of_maximum_size_is_accepted(relay: RunningRelay) -> None:
    request = b'{"filter": {}}'.ljust(64 * 1024 - 1) + b"\n"
    with relay.subscribe() as subscriber:
        subscriber.socket.sendall(request)
        assert read_answer(subscriber) == {}
        subscriber.socket.sendall(b" \n".join(request.split(b"\n")))
        assert "longer than 65536 bytes" in subscriber.notification()["payload"]


def test_no_matching_record_is_missing_after_the_answer(
    relay: RunningRelay,
) -> None:
    """Records are sent continuously; their numbers show whether one is missing."""
    stop = threading.Event()
    with relay.produce() as producer:

        def produce() -> None:
            for number in itertools.count():
                if stop.is_set():
                    return
                producer.sendall(record(f"kind.{number % 3}", number=number))

        thread = threading.Thread(target=produce)
        thread.start()
        try:
            for _ in range(50):
                with Subscriber(relay.public) as subscriber:
                    send_request(subscriber, event_type=["kind.1"])
                    read_answer(subscriber)
                    numbers = [subscriber.notification()["number"] for _ in range(30)]
                    assert numbers == list(range(numbers[0], numbers[0] + 90, 3))
                    assert numbers[0] % 3 == 1
        finally:
            stop.set()
            thread.join()


def test_backlog_is_delivered_before_the_answer(
    relay: RunningRelay,
) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        before = [numbered_record(number) for number in range(3000)]
        producer.sendall(b"".join(before))
        relay.wait_status(records_received=3000)
        assert relay.request("subscribers")[0]["lag"] > 0
        send_request(subscriber, event_type=["wanted"])
        send_request(subscriber, event_type=["wanted", "as well"])
        assert subscriber.lines(3000) == before
        assert read_answer(subscriber) == {"event_type": ["wanted"]}
        assert read_answer(subscriber) == {"event_type": ["wanted", "as well"]}
        producer.sendall(numbered_record(1) + record("as well"))
        assert subscriber.line() == record("as well")
        relay.wait_status(ring_bytes=0, records_dropped=0, records_delivered=3001)


def test_gap_records_count_only_matching_records(directory: Path) -> None:
    with (
        running_relay(directory, "--relayd-ring_size", str(2 * MIB)) as relay,
        relay.subscribe() as slow,
        relay.produce() as producer,
    ):
        send_request(slow, event_type=["wanted"])
        read_answer(slow)
        number = 20_000
        for each in range(number):
            event_type = "wanted" if each % 4 == 0 else "other"
            producer.sendall(record(event_type, number=each, payload="x" * 900))
        relay.wait_status(records_received=number)
        got, dropped = 0, 0
        while got + dropped < number / 4:
            line = slow.line()
            if is_gap(line):
                dropped += json.loads(line)["payload"]["dropped"]
            else:
                assert json.loads(line)["number"] == 4 * (got + dropped)
                got += 1
        assert got + dropped == number / 4
        assert dropped > 0
        relay.wait_status(records_delivered=got, records_dropped=dropped)


def test_ring_size_limits_all_filters_together(directory: Path) -> None:
    """Two subscribers with different filters do not read; the limit applies to both together."""
    limit = 2 * MIB
    with (
        running_relay(directory, "--relayd-ring_size", str(limit)) as relay,
        relay.subscribe() as one,
        relay.subscribe() as two,
        relay.subscribe(),
        relay.produce() as producer,
    ):
        for subscriber, pattern in ((one, "a"), (two, "[ab]")):
            send_request(subscriber, event_type=[pattern])
            read_answer(subscriber)
        for _ in range(10_000):
            producer.sendall(record("a", payload="x" * 900))
        relay.wait_status(records_received=10_000)
        assert relay.status()["ring_bytes"] <= limit
        rows = relay.request("subscribers")
        assert all(row["records"] + row["lag"] + row["dropped"] == 10_000 for row in rows)


def test_producers_gap_record_passes_every_filter(relay: RunningRelay) -> None:
    gap = record("notif_relayd.gap", "WARN", payload={"dropped": 3, "reason": "producer_congested"})
    with relay.subscribe() as subscriber, relay.produce() as producer:
        send_request(subscriber, event_type=["never"])
        read_answer(subscriber)
        producer.sendall(record() + gap)
        assert subscriber.line() == gap


@pytest.fixture
def connections(relay: RunningRelay) -> Iterator[tuple[Subscriber, Any]]:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        producer.sendall(record())
        assert subscriber.line() == record()
        yield subscriber, producer


def test_disconnect_ends_the_connection_with_the_id(
    relay: RunningRelay, connections: tuple[Subscriber, Any]
) -> None:
    subscriber, producer = connections
    [first] = relay.request("subscribers")
    [second] = relay.request("producers")
    assert first["id"] != second["id"]
    assert relay.request("disconnect", id=first["id"]).startswith("subscriber pid ")
    assert subscriber.read_to_end() == b""
    assert relay.request("disconnect", id=second["id"]).startswith("producer pid ")
    assert producer.recv(1) == b""
    relay.wait_status(subscribers=0, producers=0)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"method": "disconnect", "id": 999}, "no connection has the id 999"),
        ({"method": "disconnect"}, "needs an id"),
        ({"method": "disconnect", "id": "1"}, "not a request"),
        ({"method": "status", "id": 1}, "takes no id"),
    ],
)
def test_invalid_disconnect_request_is_an_error(
    relay: RunningRelay, request_: dict[str, object], words: str
) -> None:
    assert words in relay.request_raw(request_)["error"]
