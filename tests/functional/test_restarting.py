# SPDX-License-Identifier: Apache-2.0
"""What a restart and a crash do to those who are connected: the least that is possible."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.load import load
from support.records import is_gap, numbered_record, record
from support.relay import Subscriber
from support.service_manager import ManagedRelay, close_all, managed_relay
from support.waiting import kill, wait_until


@pytest.fixture
def relay(directory: Path) -> Iterator[ManagedRelay]:
    with managed_relay(directory) as relay:
        yield relay


def ask_for(subscriber: Subscriber, **patterns: list[str]) -> None:
    subscriber.socket.sendall(json.dumps({"filter": patterns}).encode() + b"\n")


def filtered(relay: ManagedRelay, **patterns: list[str]) -> Subscriber:
    subscriber = relay.subscribe()
    ask_for(subscriber, **patterns)
    assert subscriber.notification()["event_type"] == "notif_relayd.subscribed"
    return subscriber


def memfd(content: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    return fd


def test_connections_survive_a_restart(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for number in range(3):
            producer.sendall(record(number=number))
            assert subscriber.line() == record(number=number)
            relay.restart()
        producer.sendall(record(number=3))
        assert subscriber.line() == record(number=3)


def test_counters_survive_a_restart(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, filtered(relay, priority=["ERROR"]), relay.produce() as p:
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
        wait_until(lambda: relay.request("producers")[0]["bytes"] == 20, "half a record is there")
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
        filtered(relay, event_type=["test.*"]) as slow_too,
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
        told = 0
        for subscriber in (slow, slow_too):
            expected = 0
            while expected < total:
                line = subscriber.line()
                if is_gap(line):
                    payload = json.loads(line)["payload"]
                    assert payload["reason"] == "slow_subscriber"
                    told += payload["dropped"]
                    expected += payload["dropped"]
                else:
                    assert line == numbered_record(expected)
                    expected += 1
            assert expected == total
            assert bool(told) == (ring_size < total * 1024)
        relay.wait_status(ring_bytes=0, records_dropped=told)


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
        lines = []
        while not lines or lines[-1] != numbered_record(3999):
            lines.append(slow.line())
        (gap,) = filter(is_gap, lines)
        assert len(lines) - 1 + json.loads(gap)["payload"]["dropped"] == 4000


def test_pending_filter_survives_a_restart(
    relay: ManagedRelay,
) -> None:
    """Behind, it has yet to get what came before it asked."""
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for number in range(2000):
            producer.sendall(numbered_record(number))
        relay.wait_status(records_received=2000)
        ask_for(subscriber, event_type=["wanted"])
        producer.sendall(record("other") + record("wanted"))
        relay.wait_status(records_received=2002)
        relay.restart()
        producer.sendall(record("other") + record("wanted", number=2))
        lines = subscriber.lines(2000)
        assert lines == [numbered_record(number) for number in range(2000)]
        kinds = [subscriber.notification()["event_type"] for _ in range(3)]
        if kinds[0] == "other":  # it came before the request was read
            kinds = [kinds[2], subscriber.notification()["event_type"], "wanted"]
        assert kinds == ["notif_relayd.subscribed", "wanted", "wanted"]


def test_pending_requests_are_answered_after_a_restart(
    relay: ManagedRelay,
) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        for number in range(50):
            ask_for(subscriber, event_type=[str(number)])
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
        # Its socket is full again, in the middle of what the relay has received at once.
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
        wait_until(lambda: relay.request("producers")[0]["bytes"] > len(record()), "it is there")
        assert relay.stop() == 0
    # As systemd would with FDPOLL=1.
    for name in ("p2", "s1"):
        close_all(relay.stored.pop(name))
    relay.start()
    relay.wait_status(
        producers=0, subscribers=0, records_received=1, records_delivered=1, records_rejected=1
    )


def test_subscribers_get_a_gap_after_a_crash(relay: ManagedRelay) -> None:
    with relay.subscribe() as plain, relay.produce() as producer:
        with filtered(relay, event_type=["b"]) as choosy:
            relay.wait_stored("p2", "s1", "s3")
            producer.sendall(record("b", number=1))
            assert plain.line() == choosy.line() == record("b", number=1)
            relay.kill()
            producer.sendall(record("a", number=2) + record("b", number=3))
            for subscriber in (plain, choosy):
                assert subscriber.line() == b"\n"
                gap = subscriber.notification()
                assert gap["event_type"] == "notif_relayd.gap"
                assert gap["payload"] == {"dropped": None, "reason": "relay_restarted"}
            assert plain.line() == record("a", number=2)
            assert plain.line() == record("b", number=3)
            # It may have been waiting for the answer, so it gets one in any case.
            answer = choosy.notification()
            assert answer["event_type"] == "notif_relayd.subscribed"
            assert answer["payload"] == {"event_type": ["b"]}
            assert choosy.line() == record("b", number=3)
        relay.wait_logged("without saved state")


def test_record_torn_by_a_crash_ends_with_a_newline(relay: ManagedRelay) -> None:
    with relay.subscribe() as slow, relay.produce() as producer:
        relay.wait_stored("s1", "p2")
        for number in range(2000):
            producer.sendall(numbered_record(number))
        relay.wait_status(records_received=2000)
        relay.kill()
        producer.sendall(record("after"))
        lines = []
        while not lines or lines[-1] != record("after"):
            lines.append(slow.line())
        *whole, torn, gap, _ = lines
        assert whole == [numbered_record(number) for number in range(len(whole))]
        assert 0 < len(torn) < 1024
        assert numbered_record(len(whole)).startswith(torn[:-1])
        assert is_gap(gap)


def test_tail_of_a_record_lost_in_a_crash_is_rejected(relay: ManagedRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        relay.wait_stored("s1", "p2")
        producer.sendall(record()[:20])
        wait_until(lambda: relay.request("producers")[0]["bytes"] == 20, "half a record is there")
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
        with filtered(relay, priority=["ERROR"]), relay.produce():
            relay.wait_status(producers=1)
            wait_until(lambda: len(relay.stored) == 2, "they are stored")
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
        relay.wait_stored("p1", "s2")  # and there must be room for the state
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
        with filtered(relay, priority=["ERROR"]) as subscriber:
            relay.wait_stored("p1")
            relay.kill()
            assert subscriber.read_to_end() == b""


def test_connection_is_never_stored_without_its_filter(relay: ManagedRelay) -> None:
    """The service manager is slow, so that the crash comes when it has part of the messages."""
    relay.pause_reading()
    with contextlib.ExitStack() as stack:
        subscribers = [stack.enter_context(filtered(relay, priority=["ERROR"])) for _ in range(30)]
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
        assert len(relay.stored) <= 1  # of a message that was being waited for
        relay.resume_reading()
        wait_until(lambda: len(relay.stored) == 51, "all are stored")
        relay.kill()
        subscriber.lines(2)
        producers[0].sendall(record())
        assert subscriber.line() == record()


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


def test_restarts_under_load_lose_no_record(relay: ManagedRelay) -> None:
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
