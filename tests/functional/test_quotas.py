# SPDX-License-Identifier: Apache-2.0
"""The memory that a user can make the relay hold is bounded and accounted per user."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from notif_relayd.fanout.publisher import MAX_TORN_BYTES
from notif_relayd.fanout.request_handler import MAX_ERROR_LENGTH
from notif_relayd.ingest.intake import MAX_PARTIAL_BYTES
from support.other_user import OtherUser, open_relay
from support.records import is_gap, record
from support.relay import RunningRelay, Subscriber, running_relay
from support.relayctl import needs_root
from support.service_manager import ManagedRelay, managed_relay

LONG = record(payload="x" * 1_000_000)


def test_subscribers_stalled_in_one_record_share_it(relay: RunningRelay) -> None:
    with contextlib.ExitStack() as stack, relay.produce() as producer:
        stalled = [stack.enter_context(Subscriber(relay.public)) for _ in range(200)]
        subscriber = stack.enter_context(relay.subscribe())
        # Enough records that the first one leaves the ring.
        for _ in range(20):
            producer.sendall(LONG)
            assert subscriber.line() == LONG
        assert relay.status()["subscribers"] == 201
        assert relay.peak_memory() < 128 << 20
        for each in stalled[:3]:
            assert each.line() == LONG
            assert is_gap(each.line())


@needs_root
def test_torn_records_of_the_largest_user_are_reclaimed(directory: Path) -> None:
    """Each subscriber stops in a different record, so no torn record is shared."""
    with (
        open_relay(directory) as relay,
        OtherUser(relay.public, 1234) as small_user,
        contextlib.ExitStack() as stack,
        relay.produce() as producer,
        relay.subscribe() as subscriber,
    ):
        count = 2 * MAX_TORN_BYTES // len(LONG)
        for _ in range(count):
            producer.sendall(LONG)
            assert subscriber.line() == LONG
            stack.enter_context(relay.subscribe())
        relay.wait_logged(r"records are kept for uid 0, and the limit of all users")
        left = [each["uid"] for each in relay.request("subscribers")]
        assert 1234 in left
        assert left.count(0) < count
        assert relay.peak_memory() < 256 << 20
        assert small_user.line() == LONG
        assert is_gap(small_user.line())


@needs_root
def test_partial_records_of_the_largest_user_are_rejected(directory: Path) -> None:
    size, whole = 900_000, record(payload="x" * 1_000_000)
    with open_relay(directory) as relay, OtherUser(relay.ingest, 1234) as small_user:
        assert small_user.process.stdin is not None
        small_user.process.stdin.write(whole[:-10])
        small_user.process.stdin.flush()
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_PARTIAL_BYTES // size + 5):
                stack.enter_context(relay.produce()).sendall(b"x" * size)
            relay.wait_logged("unfinished records")
            rejected = {each["uid"]: each["rejected"] for each in relay.request("producers")}
            assert rejected[1234] == 0
            with relay.subscribe() as subscriber:
                small_user.write(whole[-10:])
                assert subscriber.line() == whole


FILTERS = "max_filter_bytes_per_user"


def largest_filter(number: int) -> dict[str, list[str]]:
    """Return a filter that is charged 1.1 MiB of memory."""
    globs = [(f"{number}.{each}" + "*\u0101" * 128)[:256] for each in range(8)]
    return {"event_type": globs}


def send_request(subscriber: Subscriber, wanted: dict[str, list[str]]) -> dict[str, Any]:
    request = json.dumps({"filter": wanted}, separators=(",", ":"), ensure_ascii=False)
    subscriber.socket.sendall(request.encode() + b"\n")
    return subscriber.notification()


def test_filters_of_one_user_are_bounded(directory: Path) -> None:
    limit = 4 << 20
    with (
        running_relay(directory, f"--relayd-{FILTERS}={limit}") as relay,
        contextlib.ExitStack() as stack,
    ):
        granted = 0
        while True:
            subscriber = stack.enter_context(relay.subscribe())
            answer = send_request(subscriber, largest_filter(granted))
            if answer["event_type"] == "notif_relayd.error":
                break
            granted += 1
            assert granted < 100
        assert answer["payload"] == f"uid {os.getuid()} has reached {FILTERS} = {limit} bytes."
        assert subscriber.read_to_end() == b""
        assert granted >= 2
        relay.wait_status(subscribers=granted)


def test_replaced_and_closed_filters_are_not_counted(directory: Path) -> None:
    with running_relay(directory, f"--relayd-{FILTERS}={4 << 20}") as relay:
        with relay.subscribe() as subscriber:
            for number in range(30):
                answer = send_request(subscriber, largest_filter(number))
                assert answer["event_type"] == "notif_relayd.subscribed"
        for number in range(30):
            with relay.subscribe() as subscriber:
                answer = send_request(subscriber, largest_filter(number))
                assert answer["event_type"] == "notif_relayd.subscribed"
            relay.wait_status(subscribers=0)


def test_unfinished_requests_of_one_user_are_bounded(directory: Path) -> None:
    limit = 4 << 20
    with (
        running_relay(directory, f"--relayd-{FILTERS}={limit}") as relay,
        contextlib.ExitStack() as stack,
    ):
        subscribers = [stack.enter_context(relay.subscribe()) for _ in range(90)]
        for each in subscribers:
            each.socket.sendall(b"x" * 60_000)
        relay.wait_status(subscribers=limit // 60_000)
        relay.wait_status(subscribers=69)


@needs_root
def test_filters_of_one_user_leave_room_for_others(directory: Path) -> None:
    with (
        open_relay(directory, f"--relayd-{FILTERS}={4 << 20}") as relay,
        contextlib.ExitStack() as stack,
        OtherUser(relay.public, 1234) as other,
    ):
        while (
            send_request(stack.enter_context(relay.subscribe()), largest_filter(0))["event_type"]
            != "notif_relayd.error"
        ):
            pass
        other.write(b'{"filter": {"event_type": ["a"]}}\n')
        assert b"notif_relayd.subscribed" in other.line()


@pytest.mark.parametrize("end", [ManagedRelay.restart, ManagedRelay.kill])
def test_filters_over_the_limit_are_not_restored(
    directory: Path, end: Callable[[ManagedRelay], None]
) -> None:
    with managed_relay(directory) as relay, contextlib.ExitStack() as stack:
        subscribers = [stack.enter_context(relay.subscribe()) for _ in range(3)]
        for number, each in enumerate(subscribers):
            assert (
                send_request(each, largest_filter(number))["event_type"]
                == "notif_relayd.subscribed"
            )
        limit = 2 << 20  # enough for one filter
        relay.set_arguments(f"--relayd-{FILTERS}", str(limit))
        end(relay)
        relay.wait_status(subscribers=1)
        for each in subscribers[1:]:
            assert f"has reached {FILTERS} = {limit} bytes." in each.read_to_end().decode()


def test_unread_answers_take_bounded_memory(relay: RunningRelay) -> None:
    """The sockets are full, so the relay holds the answers."""
    count, records = 100, 30
    with contextlib.ExitStack() as stack, relay.produce() as producer:
        subscribers = [stack.enter_context(relay.subscribe()) for _ in range(count)]
        for _ in range(records):
            producer.sendall(record(payload="x" * 20_000))
        relay.wait_status(records_received=records)
        before = relay.peak_memory()
        wanted = {"event_type": [f"{each}" + "\x7f" * 250 for each in range(64)]}
        request = json.dumps({"filter": wanted}, ensure_ascii=False).encode() + b"\n"
        for each in subscribers:
            each.socket.sendall(request)
        # The relay handles the requests of one user in order; this one is the last.
        last = subscribers[-1]
        last.lines(records)
        assert last.notification()["payload"] == wanted
        assert relay.peak_memory() - before < count * 3 * len(request)


def test_error_quotes_only_part_of_a_request(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber:
        answer = send_request(subscriber, {"\x00" * 10_000: ["a"]})
        assert answer["event_type"] == "notif_relayd.error"
        assert answer["payload"].startswith("Unknown key '\\x00")
        assert len(answer["payload"]) == MAX_ERROR_LENGTH
