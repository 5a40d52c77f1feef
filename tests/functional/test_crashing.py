# SPDX-License-Identifier: Apache-2.0
"""Connections survive a crash of the relay, and the descriptor store keeps what they need."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.load import load
from support.records import is_gap, numbered_record, record
from support.relay import subscribe_filtered
from support.service_manager import ManagedRelay, close_all, managed_relay
from support.waiting import kill, wait_until


@pytest.fixture
def relay(directory: Path) -> Iterator[ManagedRelay]:
    with managed_relay(directory) as relay:
        yield relay


def memfd(content: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


def test_subscribers_get_a_gap_after_a_crash(relay: ManagedRelay) -> None:
    with relay.subscribe() as plain, relay.produce() as producer:
        with subscribe_filtered(relay, event_type=["b"]) as filtered_subscriber:
            relay.wait_stored("p2", "s1", "s3")
            producer.sendall(record("b", number=1))
            assert plain.line() == filtered_subscriber.line() == record("b", number=1)
            relay.kill()
            producer.sendall(record("a", number=2) + record("b", number=3))
            for subscriber in (plain, filtered_subscriber):
                assert subscriber.line() == b"\n"
                gap = subscriber.notification()
                assert gap["event_type"] == "notif_relayd.gap"
                assert gap["payload"] == {"dropped": None, "reason": "relay_restarted"}
            assert plain.line() == record("a", number=2)
            assert plain.line() == record("b", number=3)
            # The subscriber may have been waiting for the answer, so the relay always sends one.
            answer = filtered_subscriber.notification()
            assert answer["event_type"] == "notif_relayd.subscribed"
            assert answer["payload"] == {"event_type": ["b"]}
            assert filtered_subscriber.line() == record("b", number=3)
        relay.wait_logged("without saved state")


def test_record_torn_by_a_crash_ends_with_a_newline(relay: ManagedRelay) -> None:
    with relay.subscribe() as slow, relay.produce() as producer:
        relay.wait_stored("s1", "p2")
        for number in range(2000):
            producer.sendall(numbered_record(number))
        relay.wait_status(records_received=2000)
        relay.kill()
        producer.sendall(record("after"))
        lines: list[bytes] = []
        while not lines or lines[-1] != record("after"):
            lines.append(slow.line())
        *whole, torn, gap, _ = lines
        assert whole == [numbered_record(number) for number in range(len(whole))]
        assert 0 < len(torn) < 1024
        assert numbered_record(len(whole)).startswith(torn[:-1])
        assert is_gap(gap)


def test_request_stored_in_part_ends_its_connection(relay: ManagedRelay) -> None:
    with subscribe_filtered(relay, event_type=["b"]) as subscriber:
        relay.wait_stored("s1")
        os.pwrite(relay.stored["s1"][1], b"!", 0)
        relay.kill()
        assert subscriber.read_to_end() == b""
    relay.wait_logged("connection ended: subscriber 1: its filter is not in the store")


def test_tail_of_a_record_lost_in_a_crash_is_rejected(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        relay.wait_stored("s1", "p2")
        producer.sendall(record()[:20])
        wait_until(
            lambda: relay.request("producers")[0]["bytes"] == 20, "half of the record has arrived"
        )
        relay.kill()
        producer.sendall(record()[20:] + record("whole"))
        subscriber.lines(2)
        assert subscriber.line() == record("whole")
        relay.wait_status(records_rejected=1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "cannot be read"),
        (b"no state at all", "truncated"),
        (b"\x00\x00\x00\x0a\x81\xa7version\x63", "version 99"),
    ],
)
def test_unreadable_state_is_logged_and_ignored(
    relay: ManagedRelay, content: bytes, why: str
) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        relay.wait_stored("s1", "p2")
        assert relay.stop() == 0
        close_all(relay.stored["state"])
        relay.stored["state"] = (memfd(content),)
        relay.start()
        relay.wait_logged(why)
        producer.sendall(record())
        assert subscriber.line() == b"\n"
        assert is_gap(subscriber.line())
        assert subscriber.line() == record()
        relay.wait_stored("s1", "p2")


def test_state_is_used_once(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce():
        relay.wait_stored("s1", "p2")
        relay.restart()
        relay.wait_stored("s1", "p2")
        relay.kill()
        assert subscriber.line() == b"\n"
        assert is_gap(subscriber.line())


def test_foreign_descriptors_in_the_store_are_ignored(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        relay.wait_stored("s1", "p2")
        assert relay.stop() == 0
        reader, writer = os.pipe()
        listener = socket.socket(socket.AF_UNIX)
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        relay.stored.update(
            p77=(reader,),
            p78=(memfd(b""),),
            s79=(listener.detach(), memfd(b"")),
            s80=(datagrams.detach(), writer),
            s81=(memfd(b"{}"),),
            something=(memfd(b""),),
        )
        relay.start()
        producer.sendall(record())
        assert subscriber.line() == record()
        assert relay.status()["subscribers"] == 1


def test_store_keeps_nothing_of_closed_connections(relay: ManagedRelay) -> None:
    for _ in range(3):
        with subscribe_filtered(relay, priority=["ERROR"]), relay.produce():
            relay.wait_status(producers=1)
            wait_until(lambda: len(relay.stored) == 2, "both are stored")
            relay.kill()
            assert len(relay.stored) == 2
        relay.wait_stored()


def test_disconnect_ends_a_stored_connection(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        relay.wait_stored("s1", "p2")
        relay.request("disconnect", id=1)
        assert subscriber.read_to_end() == b""
        relay.request("disconnect", id=2)
        with pytest.raises(BrokenPipeError):
            producer.sendall(record())
        relay.wait_stored()


def test_full_store_is_logged_once(directory: Path) -> None:
    with managed_relay(directory, fdstore_max=4) as relay, relay.produce() as producer:
        subscribers = [relay.subscribe() for _ in range(4)]
        relay.wait_stored("p1", "s2")  # the other two places are reserved for the state
        relay.wait_logged("FileDescriptorStoreMax=")
        relay.restart()
        assert relay.refused == 0
        assert relay.log.read_text().count("FileDescriptorStoreMax=") == 1
        producer.sendall(record())
        assert subscribers[0].line() == record()
        assert [each.read_to_end() for each in subscribers[1:]] == [b"", b"", b""]
        for each in subscribers:
            each.close()


def test_connection_is_not_restored_without_its_filter(
    directory: Path,
) -> None:
    with managed_relay(directory, fdstore_max=3) as relay, relay.produce():
        relay.wait_status(producers=1)
        with subscribe_filtered(relay, priority=["ERROR"]) as subscriber:
            relay.wait_stored("p1")
            relay.kill()
            assert subscriber.read_to_end() == b""


def test_connection_is_never_stored_without_its_filter(relay: ManagedRelay) -> None:
    """The crash happens when the slow service manager has received only part of the messages."""
    relay.pause_reading()
    with contextlib.ExitStack() as stack:
        subscribers = [
            stack.enter_context(subscribe_filtered(relay, priority=["ERROR"])) for _ in range(30)
        ]
        kill(relay.process)
        relay.resume_reading()
        relay.start()
        kept = relay.status()["subscribers"]
        assert kept > 0
        with relay.produce() as producer:
            producer.sendall(record() + record(priority="ERROR"))
            relay.wait_status(records_received=2)
        relay.wait_status(records_delivered=kept)
        relay.stop_and_clear()
        assert record() not in b"".join(each.read_to_end() for each in subscribers)


def test_blocked_service_manager_does_not_block_the_relay(relay: ManagedRelay) -> None:
    relay.pause_reading()
    with contextlib.ExitStack() as stack:
        producers = [stack.enter_context(relay.produce()) for _ in range(50)]
        subscriber = stack.enter_context(relay.subscribe())
        for number, producer in enumerate(producers):
            producer.sendall(record(number=number))
            assert subscriber.line() == record(number=number)
        assert len(relay.stored) <= 1  # from a message that was already being received
        relay.resume_reading()
        wait_until(lambda: len(relay.stored) == 51, "all are stored")
        relay.kill()
        subscriber.lines(2)
        producers[0].sendall(record())
        assert subscriber.line() == record()


def test_crashes_under_load_lose_no_record_silently(relay: ManagedRelay) -> None:
    with load(relay.public, relay.ingest, subscribers=5) as running:
        running.produce(4, rate=1000)
        for _ in range(5):
            running.wait_received(1000)
            relay.kill()
        produced = running.finish()
    attempts = sum(each.attempts for each in produced)
    for checker in running.checkers:
        assert checker.errors == []
        assert checker.crash_gaps == 5
        assert checker.received + checker.missing == attempts
