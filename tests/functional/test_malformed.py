# SPDX-License-Identifier: Apache-2.0
"""Malformed input is rejected, counted and logged, and does not affect other peers."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
from pathlib import Path

import pytest

import notif_relay
from support.records import record
from support.relay import RunningRelay, running_relay
from support.waiting import TIMEOUT

MIB = 1024 * 1024


def sized(size: int, **fields: str) -> bytes:
    """Return a record of exactly `size` bytes."""
    empty = record(payload="", **fields)
    return record(payload="x" * (size - len(empty)), **fields)


BAD = {
    "binary garbage": (bytes(range(256)) * 40 + b"\n", 41),
    "no newline for 3 MiB": (b"x" * 3 * MIB + b"\n", 1),
    "invalid UTF-8": (b'{"event_type":"a","priority":"b","payload":"\xc3\x28"}\n', 1),
    "arrays": (b"[1,2]\n[]\n[[{}]]\n", 3),
    "scalars": (b"1\nnull\ntrue\n", 3),
    "deep nesting": (
        b'{"event_type":"a","priority":"b","payload":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n",
        1,
    ),
    "an empty line": (b"\n", 1),
    "only a carriage return": (b"\r\n", 1),
    "an object without the fields": (b'{"event_type":"a"}\n', 1),
    "a record on two lines": (b'{"event_type":"a",\n"priority":"b"}\n', 2),
    "two records on one line": (record().strip() + record(), 1),
    "one byte more than max_record_size": (sized(MIB + 1), 1),
    "an error of the relay behind another event type": (
        b'{"event_type":"notif_relayd.error","priority":"b","payload":"x","event_type":"x"}\n',
        1,
    ),
    "an answer of the relay in another spelling": (
        b'{"event_type":"x","priority":"b","payload":{},"\\u0065vent_type":"\\u006eotif_relayd.x"}\n',
        1,
    ),
    "a malformed gap": (
        b'{"event_type":"notif_relayd.gap","priority":"b","payload":{"dropped":3}}\n',
        1,
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_lines_are_rejected_and_others_arrive(relay: RunningRelay, name: str) -> None:
    bad, number = BAD[name]
    ours = [record(producer="the same", number=n) for n in range(20)]
    theirs = [record(producer="another", number=n) for n in range(20)]
    with relay.subscribe() as subscriber, relay.produce() as same, relay.produce() as other:
        for one, two in zip(ours, theirs, strict=True):
            same.sendall(one + bad)
            other.sendall(two)
        got = subscriber.lines(40)
        assert [line for line in got if b"the same" in line] == ours
        assert [line for line in got if b"another" in line] == theirs
        relay.wait_status(records_received=40, records_rejected=20 * number)
        rejected = [row["rejected"] for row in relay.request("producers")]
        assert sorted(rejected) == [0, 20 * number]
    relay.wait_logged("rejected")


def test_partial_record_at_disconnect_is_rejected(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as healthy:
        for _ in range(3):
            with relay.produce() as producer:
                producer.sendall(record(number=1) + record(number=2)[:-5])
            assert subscriber.line() == record(number=1)
        relay.wait_status(records_rejected=3, producers=1)
        healthy.sendall(record(number=3))
        assert subscriber.line() == record(number=3)


def test_record_may_arrive_byte_by_byte(relay: RunningRelay) -> None:
    line = record(payload="ä" * 100)
    with relay.subscribe() as subscriber, relay.produce() as producer:
        producer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for index in range(len(line)):
            producer.sendall(line[index : index + 1])
        assert subscriber.line() == line
        relay.wait_status(records_received=1, records_rejected=0)


def test_records_up_to_max_record_size_arrive_whole(relay: RunningRelay) -> None:
    smallest = b'{"event_type":"","priority":""}\n'
    # Buffers have sizes of powers of two.
    sizes = [2**n + d for n in range(7, 20) for d in (-1, 0, 1)] + [MIB - 1, MIB]
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for line in [smallest, *map(sized, sizes)]:
            producer.sendall(line)
            assert subscriber.line() == line
        producer.sendall(sized(MIB + 1))
        producer.sendall(sized(MIB + 1, where="next to the next record") + smallest)
        assert subscriber.line() == smallest
        relay.wait_status(records_rejected=2, records_received=len(sizes) + 2)


def test_lower_max_record_size_is_enforced(directory: Path) -> None:
    with (
        running_relay(directory, "--relayd-max_record_size", "1024") as relay,
        relay.subscribe() as subscriber,
        relay.produce() as producer,
    ):
        producer.sendall(sized(1024) + sized(1025) + sized(5000) + record() + sized(1024))
        assert subscriber.lines(3) == [sized(1024), record(), sized(1024)]
        relay.wait_status(records_rejected=2)


def test_repeated_warnings_are_rate_limited(relay: RunningRelay) -> None:
    with relay.produce() as producer:
        for number in range(300):
            producer.sendall(b"[]\n")
            relay.wait_status(records_rejected=number + 1)
    assert relay.log.read_text().count("rejected") <= 3


def test_reported_gaps_equal_the_counted_gaps(relay: RunningRelay) -> None:
    gap = '{"priority":"w","payload":{"reason":"%s","dropped":%s},"event_type":"%s"}\n'
    sent = [
        gap % ("producer_congested", "3", "notif_relayd.gap"),
        gap % ("relay_restarted", "4", r"notif_relayd\u002egap"),
        gap % ("relay_restarted", "null", "notif_relayd.gap"),
        gap % ("permission_denied", "5", "notif_relayd.gap"),
        gap % ("relay_restarted", "-1", "notif_relayd.gap"),
        gap % ("relay_restarted", "1e3", "notif_relayd.gap"),
        gap % ("slow_subscriber", "7", "notif_relayd.gap"),
        gap % ("other", "7", "notif_relayd.gap"),
    ]
    reported: list[tuple[int | None, str]] = []
    with (
        notif_relay.subscribe(
            relay.public,
            timeout=TIMEOUT,
            on_gap=lambda gap: reported.append((gap.dropped, gap.reason)),
        ) as subscriber,
        relay.produce() as producer,
    ):
        producer.sendall("".join(sent).encode() + record(number=1))
        assert next(subscriber).raw == record(number=1)
    found = relay.request("metrics")
    assert reported == [
        (3, "producer_congested"),
        (4, "relay_restarted"),
        (None, "relay_restarted"),
        (5, "permission_denied"),
        (7, "slow_subscriber"),
    ]
    assert found["dropped"]["producer_congested"] == 3
    assert found["dropped"]["relay_restarted"] == 4
    assert found["dropped"]["permission_denied"] == 5
    assert found["dropped"]["slow_subscriber"] == 7
    assert found["unknown_gaps"]["relay_restarted"] == 1
    assert found["rejected"]["malformed_gap"] == 3


def test_forged_answers_do_not_break_subscribing(relay: RunningRelay) -> None:
    """Without the check, its records could precede the answer to the subscriber's request."""
    forged = (
        b'{"publisher_id":"notif-relayd.h","event_type":"notif_relayd.%s","priority":"WARN",'
        b'"payload":%s,"event_type":"x"}\n'
    )
    lines = (forged % (b"error", b'"No."') + forged % (b"subscribed", b"{}")) * 5 + record()
    stop = threading.Event()

    def produce() -> None:
        with relay.produce() as producer:
            while not stop.is_set():
                producer.sendall(lines)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        producing = pool.submit(produce)
        try:
            for _ in range(20):
                with notif_relay.subscribe(
                    relay.public, event_type="never.*", timeout=TIMEOUT, reconnect=False
                ) as subscriber:
                    assert subscriber.connected
        finally:
            stop.set()
        producing.result(TIMEOUT)
