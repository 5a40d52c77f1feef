# SPDX-License-Identifier: Apache-2.0
"""A real relay passes records from producers to subscribers."""

import socket
from pathlib import Path

from support.records import record
from support.relay import RunningRelay, Subscriber, connect, running_relay
from support.waiting import wait_until


def test_record_reaches_every_subscriber_byte_for_byte(relay: RunningRelay) -> None:
    line = b'{ "event_type" : "compute.\\u0061", "priority":"info",\t"payload": "\xc3\xa4" }\r\n'
    subscribers = [relay.subscribe() for _ in range(3)]
    with relay.produce() as producer:
        producer.sendall(line)
        for subscriber in subscribers:
            with subscriber:
                assert subscriber.line() == line


def test_nothing_is_kept_without_subscribers(relay: RunningRelay) -> None:
    with relay.produce() as producer:
        producer.sendall(record("before") * 10)
        relay.wait_status(records_received=10)
        assert relay.status()["records_discarded"] == 10
        assert relay.status()["ring_bytes"] == 0
        with relay.subscribe() as subscriber:
            producer.sendall(record("after"))
            assert subscriber.notification()["event_type"] == "after"
        relay.wait_status(subscribers=0, ring_bytes=0)
    assert relay.status()["records_discarded"] == 10


def test_delivered_records_are_not_kept(relay: RunningRelay) -> None:
    with relay.subscribe() as slow, relay.produce() as producer:
        producer.sendall(record(payload="x" * 1000) * 1000)
        relay.wait_status(records_received=1000)
        assert relay.status()["ring_bytes"] > 500_000
        assert len(slow.lines(1000)) == 1000
        relay.wait_status(records_delivered=1000, ring_bytes=0)
        assert relay.request("subscribers")[0]["lag"] == 0


def test_subscriber_may_shut_down_its_writing_side(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        subscriber.socket.shutdown(socket.SHUT_WR)
        for number in range(3):
            producer.sendall(record(number=number))
            relay.wait_status(records_delivered=number + 1)
        assert [subscriber.notification()["number"] for _ in range(3)] == [0, 1, 2]


def test_disconnected_subscriber_is_removed(relay: RunningRelay) -> None:
    with relay.subscribe() as stays, relay.produce() as producer:
        leaves = relay.subscribe()
        leaves.close()
        producer.sendall(record())
        assert stays.line() == record()
        relay.wait_status(subscribers=1)


def test_status_counters_balance(relay: RunningRelay) -> None:
    with relay.subscribe() as one, relay.subscribe() as two, relay.produce() as producer:
        producer.sendall(record() * 100 + b"garbage\n")
        relay.wait_status(records_rejected=1)
        for subscriber in (one, two):
            assert subscriber.lines(100) == [record()] * 100
        size = len(record()) * 100
        status = relay.status()
        assert status["producers"] == 1
        assert status["subscribers"] == 2
        assert status["records_received"] == 100
        assert status["records_delivered"] == 200
        assert status["records_dropped"] == status["records_discarded"] == 0
        assert status["bytes_received"] == size + len("garbage\n")
        assert status["bytes_delivered"] == size * 2
        assert status["pid"] == relay.process.pid
        assert status["public_socket"] == str(relay.public)
        assert status["ingest_socket"] == str(relay.ingest)
    relay.wait_status(producers=0, subscribers=0, records_delivered=200)


def test_producers_and_subscribers_are_listed(relay: RunningRelay) -> None:
    with relay.subscribe(), relay.produce() as producer:
        producer.sendall(record() * 7 + b"\n")
        relay.wait_status(records_received=7)
        [row] = relay.request("producers")
        assert (row["records"], row["rejected"], row["uid"]) == (7, 1, 0)
        assert row["bytes"] == 7 * len(record()) + 1
        [row] = relay.request("subscribers")
        assert (row["records"], row["lag"], row["dropped"]) == (7, 0, 0)
        with open("/proc/self/comm") as comm:
            assert row["command"] == comm.read().strip()


def test_invalid_request_gets_an_error_and_is_disconnected(
    relay: RunningRelay,
) -> None:
    for request, sentence in {
        b'{"filter": []}\n': "not an object",
        b'{"filter": {"context": ["x"]}}\n': "'context'",
        b'{"filter": {"payload": {"a": "x"}}}\n': "path 'a' must have a list of alternatives",
        b'{"filer": {}}\n': 'not an object with the key "filter" or "group"',
        b"[]\n": 'not an object with the key "filter" or "group"',
        b"\xff\n": "not JSON",
        b"[" * 60000 + b"\n": "not JSON",
        b"x" * 70000: "longer than",
    }.items():
        with relay.subscribe() as subscriber:
            subscriber.socket.sendall(request)
            answer = subscriber.notification()
            assert answer["event_type"] == "notif_relayd.error"
            assert answer["priority"] == "ERROR"
            assert sentence in answer["payload"]
            assert set(answer) == {
                *("message_id", "publisher_id", "event_type", "priority", "payload", "timestamp")
            }
            assert subscriber.read_to_end() == b""
    relay.wait_status(subscribers=0)


def test_answer_does_not_tear_a_partial_record(relay: RunningRelay) -> None:
    big = record(payload="x" * 900_000)
    with relay.subscribe() as subscriber, relay.produce() as producer:
        producer.sendall(big)
        wait_until(lambda: relay.request("subscribers")[0]["lag"] == 1, "a record is partly sent")
        subscriber.socket.sendall(b"?\n")
        assert subscriber.line() == big
        assert subscriber.notification()["event_type"] == "notif_relayd.error"
        assert subscriber.read_to_end() == b""


def test_connection_over_the_limit_is_refused(directory: Path) -> None:
    limits = ("--relayd-max_subscribers", "1", "--relayd-max_producers", "1")
    with running_relay(directory, *limits) as relay:
        with relay.subscribe(), Subscriber(relay.public) as second:
            assert "max_subscribers = 1" in second.notification()["payload"]
            assert second.read_to_end() == b""
        with relay.produce() as first:
            relay.wait_status(producers=1, subscribers=0)
            with connect(relay.ingest) as second_producer:
                assert b"max_producers = 1" in second_producer.recv(1024)
            first.sendall(record())
            relay.wait_status(records_received=1)
        relay.wait_status(producers=0)
        with relay.subscribe() as subscriber, relay.produce() as producer:
            producer.sendall(record())
            assert subscriber.line() == record()
