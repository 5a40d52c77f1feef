# SPDX-License-Identifier: Apache-2.0
"""A subscriber that reads gets all records; one that does not gets a gap and harms no other."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import zlib
from pathlib import Path

from support.producer import emit, notify, start_process
from support.records import is_gap, numbered_record
from support.relay import connect, running_relay
from support.waiting import TIMEOUT, wait_until

MIB = 1024 * 1024


def resident_memory(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Tally:
    """Count the numbered records and gaps of a subscriber, and check their order."""

    def __init__(self) -> None:
        self.got = 0
        self.dropped = 0
        self.gaps = 0

    @property
    def expected(self) -> int:
        return self.got + self.dropped

    def add(self, line: bytes) -> None:
        assert line.endswith(b"}\n")
        if is_gap(line):
            payload = json.loads(line)["payload"]
            assert payload["reason"] == "slow_subscriber"
            self.dropped += payload["dropped"]
            self.gaps += 1
        else:
            assert json.loads(line)["number"] == self.expected
            self.got += 1


def test_slow_subscribers_records_and_gaps_add_up(directory: Path) -> None:
    sent = 20_000
    tally = Tally()
    with (
        running_relay(directory, "--relayd-ring_size", str(2 * MIB)) as relay,
        relay.subscribe() as slow,
        relay.produce() as producer,
    ):
        for number in range(sent):
            producer.sendall(numbered_record(number))
            if number % 1000 == 999:
                # Read a few records from time to time; the socket then fills up again.
                relay.wait_status(records_received=number + 1)
                for line in slow.lines(250):
                    tally.add(line)
        while tally.expected < sent:
            tally.add(slow.line())
        assert tally.expected == sent
        assert tally.gaps >= 2
        relay.wait_status(records_delivered=tally.got, records_dropped=tally.dropped)
        relay.wait_logged(f"has caught up: {tally.dropped} records were lost")
        assert relay.log.read_text().count("reads too slowly and loses records") == 1
        [row] = relay.request("subscribers")
        assert (row["records"], row["dropped"], row["lag"]) == (tally.got, tally.dropped, 0)


def test_drops_of_a_subscriber_that_left_are_counted(
    directory: Path,
) -> None:
    with running_relay(directory, "--relayd-ring_size", str(MIB)) as relay:
        with relay.subscribe(), relay.produce() as producer:
            for number in range(4000):
                producer.sendall(numbered_record(number))
            relay.wait_status(records_received=4000)
            [row] = relay.request("subscribers")
            assert row["dropped"] > 1000
            assert row["records"] + row["lag"] + row["dropped"] == 4000
        relay.wait_status(subscribers=0)
        status = relay.status()
        assert status["records_dropped"] == row["dropped"]
        assert status["records_delivered"] == row["records"]


def test_healthy_subscriber_beside_200_stalled_gets_500_mb(directory: Path) -> None:
    size, total = 8192, 500 * 1000 * 1000
    number = total // size + 1
    # At this rate the default ring lasts 0.2 s. A larger one prevents losses on a busy machine.
    ring = ("--relayd-ring_size", str(256 * MIB))
    with running_relay(directory, *ring) as relay, contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(connect(relay.public)) for _ in range(200)]
        healthy = stack.enter_context(relay.subscribe()).socket
        relay.wait_status(subscribers=201)
        before = peak = resident_memory(relay.process.pid)
        producer = start_process(emit, str(relay.ingest), 0, number, size)
        # The reader only computes a checksum; with more work it would itself be slow.
        got, checksum = 0, 0
        while got < number * size:
            data = healthy.recv(MIB)
            got += len(data)
            checksum = zlib.crc32(data, checksum)
            peak = max(peak, resident_memory(relay.process.pid))
        producer.join(TIMEOUT)
        assert producer.exitcode == 0
        expected = 0
        for each in range(number):
            expected = zlib.crc32(numbered_record(each, size), expected)
        assert checksum == expected
        assert peak - before <= relay.status()["ring_limit_bytes"] + 20 * MIB
        rows = relay.request("subscribers")
        assert sorted(row["dropped"] > 0 for row in rows) == [False] + [True] * 200
        assert all(row["records"] + row["lag"] + row["dropped"] == number for row in rows)
        # A stalled subscriber that reads again gets whole records, a gap record and the ring.
        lines = read_available_lines(stalled[0])
        numbers = [json.loads(line)["number"] for line in lines if not is_gap(line)]
        lost = [json.loads(line)["payload"]["dropped"] for line in lines if is_gap(line)]
        assert len(numbers) + sum(lost) == number
        assert numbers[-1] == number - 1


def read_available_lines(sock: socket.socket) -> list[bytes]:
    """Read until no data arrives for two seconds; return the lines."""
    sock.settimeout(2)
    data = bytearray()
    try:
        while piece := sock.recv(MIB):
            data += piece
    except TimeoutError:
        pass
    assert data.endswith(b"\n")
    return bytes(data).splitlines(keepends=True)


def test_records_of_eight_producers_keep_their_order(directory: Path) -> None:
    number = 5000
    # Ten processes share few processors; the ring holds all records however late the reader is.
    large_ring = ("--relayd-ring_size", str(100 * MIB))
    with running_relay(directory, *large_ring) as relay, relay.subscribe() as subscriber:
        producers = [
            start_process(emit, str(relay.ingest), each * number, number, 300 + 200 * each)
            for each in range(8)
        ]
        counts = [0] * 8
        for _ in range(8 * number):
            which, each = divmod(json.loads(subscriber.line())["number"], number)
            assert each == counts[which]
            counts[which] += 1
        for producer in producers:
            producer.join(TIMEOUT)
            assert producer.exitcode == 0
        assert counts == [number] * 8
        wait_until(lambda: relay.status()["producers"] == 0, "all producers are disconnected")
        assert relay.status()["records_rejected"] == 0
        assert relay.status()["records_dropped"] == 0


def test_relayed_records_equal_the_log_file(directory: Path) -> None:
    """One process emits 100,000 notifications with oslo.messaging's log driver at full speed."""
    number = 100_000
    log = directory / "notifications.log"
    with running_relay(directory) as relay, relay.subscribe() as subscriber:
        producer = start_process(notify, str(relay.ingest), str(log), number)
        read = bytearray()
        lines = 0
        while lines < number and (data := subscriber.socket.recv(MIB)):
            read += data
            lines += data.count(b"\n")
        producer.join(TIMEOUT)
        assert producer.exitcode == 0
        assert bytes(read) == log.read_bytes()
        assert b"secret" not in read
        status = relay.status()
        assert status["records_received"] == status["records_delivered"] == number
        assert status["records_dropped"] == status["records_rejected"] == 0
