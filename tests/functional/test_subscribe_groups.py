# SPDX-License-Identifier: Apache-2.0
"""Members of groups that use the library: finishing, redelivery and reconnecting."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from notif_relay import (
    Gap,
    Notification,
    Subscriber,
    SubscriptionRefused,
    aio,
    records,
    subscribe,
)
from support.records import record, record_number
from support.relay import RunningRelay, next_relay, running_relay
from support.scripts import Scripts
from support.service_manager import managed_relay
from support.threads import in_thread, wait_until_blocked
from support.waiting import TIMEOUT, wait_until


def member(relay: RunningRelay, **options: Any) -> Subscriber:
    keys: dict[str, Any] = {"group": "g", "window": 4, "hold": 60, "timeout": TIMEOUT} | options
    return subscribe(relay.public, **keys)


def send(relay: RunningRelay, *numbers: int) -> None:
    with relay.produce() as producer:
        producer.sendall(b"".join(record(number=number) for number in numbers))


def wait_group(relay: RunningRelay, **expected: object) -> None:
    wait_until(
        lambda: expected.items() <= relay.request("groups")[0].items(), f"the group is {expected}"
    )


def seen(subscriber: Iterator[Notification], count: int) -> list[tuple[int, bool]]:
    """Return the number of each of the next notifications, and whether it is redelivered."""
    return [
        (record_number(each), each.redelivered) for each in (next(subscriber) for _ in range(count))
    ]


def test_loop_leaves_only_the_last_notification_unfinished(relay: RunningRelay) -> None:
    first = member(relay)
    send(relay, *range(6))
    for notification in first:
        if record_number(notification) == 2:
            break
    first.close()
    with member(relay) as second:
        assert seen(second, 2) == [(2, True), (3, True)]  # 3 had arrived
        assert [number for number, _ in seen(second, 2)] == [4, 5]
        send(relay, 6)
        assert seen(second, 1) == [(6, False)]
        wait_group(relay, unfinished=1)


def fail_once(gaps: list[int | None]) -> Callable[[Gap], None]:
    """Return a handler of gaps that appends their numbers, and raises an exception at first."""

    def handle(gap: Gap) -> None:
        gaps.append(gap.dropped)
        if len(gaps) == 1:
            raise RuntimeError("failed")

    return handle


def send_gaps(relay: RunningRelay) -> None:
    with relay.produce() as producer:
        gaps = [records.gap(number, "producer_congested") for number in (1, 2)]
        producer.sendall(b"".join(gaps) + record(number=0))


def test_gap_is_finished_by_the_next_call_if_its_handler_failed(relay: RunningRelay) -> None:
    gaps: list[int | None] = []
    with member(relay, window=1, on_gap=fail_once(gaps)) as subscriber:
        send_gaps(relay)
        with pytest.raises(RuntimeError, match="failed"):
            next(subscriber)
        wait_group(relay, unfinished=1)
        assert seen(subscriber, 1) == [(0, False)]
    assert gaps == [1, 2]


def test_task_finishes_a_gap_if_its_handler_failed(relay: RunningRelay) -> None:
    gaps: list[int | None] = []

    async def main() -> None:
        async with aio.subscribe(
            relay.public, group="g", window=1, timeout=TIMEOUT, on_gap=fail_once(gaps)
        ) as subscriber:
            send_gaps(relay)
            with pytest.raises(RuntimeError, match="failed"):
                await anext(subscriber)
            assert record_number(await anext(subscriber)) == 0

    asyncio.run(main())
    assert gaps == [1, 2]


def test_done_is_reported_while_another_thread_waits(relay: RunningRelay) -> None:
    with member(relay, window=2, auto_done=False) as subscriber:
        send(relay, 0, 1, 2, 3)
        first, second = next(subscriber), next(subscriber)
        main = threading.get_ident()

        def finish() -> None:
            wait_until_blocked(main)
            second.done()
            first.done()

        with in_thread(finish):
            assert seen(subscriber, 2) == [(2, False), (3, False)]
        wait_group(relay, unfinished=2)


def test_reconnect_to_a_held_group_is_no_gap(relay: RunningRelay) -> None:
    with member(relay, window=2, auto_done=False) as subscriber:
        send(relay, 0, 1)
        finished, unfinished = next(subscriber), next(subscriber)
        finished.done()
        wait_group(relay, unfinished=1)
        relay.request("disconnect", id=relay.request("subscribers")[0]["id"])
        wait_group(relay, members=0)
        send(relay, 2)
        assert seen(subscriber, 2) == [(1, True), (2, False)]
        unfinished.done()  # of the connection that has ended: no effect
        wait_group(relay, unfinished=2)


def test_reconnect_to_a_new_group_is_a_gap(directory: Path) -> None:
    with running_relay(directory) as relay:
        subscriber = member(relay)
    with next_relay(directory), subscriber:
        assert isinstance(next(subscriber), Gap)


def test_counting_starts_again_after_a_crash(directory: Path) -> None:
    with (
        managed_relay(directory) as relay,
        subscribe(relay.public, group="g", window=2, timeout=TIMEOUT) as subscriber,
    ):
        with relay.produce() as producer:
            producer.sendall(record(number=0))
            assert seen(subscriber, 1) == [(0, False)]
        relay.wait_stored("s1")
        relay.kill()
        assert isinstance(next(subscriber), Gap)
        with relay.produce() as producer:
            producer.sendall(b"".join(record(number=number) for number in range(1, 6)))
        assert [number for number, _ in seen(subscriber, 5)] == [1, 2, 3, 4, 5]


def test_notification_does_not_keep_a_subscriber_connected(relay: RunningRelay) -> None:
    subscriber = member(relay)
    send(relay, 0)
    notification = next(subscriber)
    del subscriber
    relay.wait_status(subscribers=0)
    notification.done()


def test_refused_group_is_an_error(relay: RunningRelay) -> None:
    with pytest.raises(SubscriptionRefused, match="max_hold") as raised:
        member(relay, hold=1e6)
    assert not raised.value.is_permanent


def test_too_many_groups_are_a_limit_that_may_be_raised(directory: Path) -> None:
    with (
        running_relay(directory, "--relayd-max_groups_per_user", "1") as relay,
        member(relay),
        pytest.raises(SubscriptionRefused, match="max_groups_per_user = 1") as raised,
    ):
        member(relay, group="other")
    assert not raised.value.is_permanent


def test_relay_that_reads_nothing_does_not_block_done(relay: RunningRelay) -> None:
    with member(relay, window=1000, auto_done=False) as subscriber:
        send(relay, *range(1000))
        notifications = [next(subscriber) for _ in range(1000)]
        relay.process.send_signal(signal.SIGSTOP)
        for each in notifications:
            each.done()
        relay.process.send_signal(signal.SIGCONT)
        wait_group(relay, unfinished=0)


FORKING = """
import os, sys
from notif_relay import WrongProcess, subscribe

subscriber = subscribe(sys.argv[1], group="g", window=9, timeout=30, auto_done=False)
print("subscribed", flush=True)
notification = next(subscriber)
if not os.fork():
    try:
        notification.done()
    except WrongProcess:
        del subscriber
        os._exit(0)
assert os.wait()[1] == 0
notification.done()
print(next(subscriber).event_type, flush=True)
"""


def test_child_process_cannot_finish_notifications(relay: RunningRelay, scripts: Scripts) -> None:
    script = scripts.run("-c", FORKING, relay.public)
    assert script.line() == "subscribed"
    send(relay, 0)
    with relay.produce() as producer:
        producer.sendall(record("last"))
    assert script.line() == "last"
    script.finish()


def test_tasks_finish_what_they_got_themselves(relay: RunningRelay) -> None:
    async def main() -> None:
        async with aio.subscribe(relay.public, group="g", window=4, timeout=TIMEOUT) as subscriber:
            send(relay, 0, 1, 2, 3)
            slow, *_ = [await anext(subscriber)]
            for _ in range(3):
                other = await asyncio.create_task(anext_of(subscriber))
                other.done()
            assert record_number(slow) == 0
            wait_group(relay, unfinished=4)
            waiting = asyncio.create_task(anext_of(subscriber))
            await asyncio.sleep(0)
            slow.done()  # all are finished, which is reported while a task waits
            send(relay, 4)
            assert record_number(await waiting) == 4
            wait_group(relay, unfinished=1)

    asyncio.run(main())


async def anext_of(subscriber: aio.Subscriber) -> Notification:
    return await anext(subscriber)
