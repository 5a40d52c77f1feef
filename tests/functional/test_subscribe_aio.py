# SPDX-License-Identifier: Apache-2.0
"""A program that reads with notif_relay.aio.subscribe: the same, and tasks that are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from notif_relay import BadFilter, Gap, Notification, RelayUnavailable, records
from notif_relay.aio import Subscriber, subscribe
from support.descriptors import open_sockets
from support.private_socket import PrivateSocket
from support.records import numbered_record, record, record_number
from support.relay import RunningRelay, running_relay
from support.waiting import TIMEOUT


def asynchronous(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test in an event loop; no task, no socket and no watched descriptor may be left."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def whole() -> None:
            await asyncio.wait_for(test(**fixtures), TIMEOUT)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        before = open_sockets()
        asyncio.run(whole())
        assert open_sockets() == before

    return run


async def meanwhile(function: Callable[..., Any], *arguments: object) -> Any:
    """Do something that blocks."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *arguments)


@asynchronous
async def test_matching_records_are_read_after_entering(relay: RunningRelay) -> None:
    with relay.produce() as producer:
        for each in range(100):
            async with subscribe(relay.public, event_type="a.*") as subscriber:
                producer.sendall(record("b.x") + record("a.x", number=each))
                assert record_number(await subscriber.__anext__()) == each


@asynchronous
async def test_iteration_works_without_async_with(relay: RunningRelay) -> None:
    async def read() -> list[int]:
        found = []
        async for notification in subscribe(relay.public):
            found.append(record_number(notification))
            if len(found) == 1000:
                break
        return found

    reader = asyncio.create_task(read())
    while relay.status()["bytes_delivered"] == 0:  # its answer
        await asyncio.sleep(0)
    with relay.produce() as producer:
        await meanwhile(producer.sendall, b"".join(map(numbered_record, range(1000))))
        assert await reader == list(range(1000))


@asynchronous
async def test_cancelled_tasks_lose_no_notification(relay: RunningRelay) -> None:
    """Cancelled after each number of turns of the event loop, while records keep coming."""
    sent = 3000
    read: list[int] = []
    cancelled = 0
    async with subscribe(relay.public) as subscriber:
        with relay.produce() as producer:
            emitted = 0
            turns = 0
            while len(read) < sent:
                # A few at a time, so that there is often nothing to read yet.
                if emitted <= len(read) and emitted < sent:
                    producer.sendall(
                        b"".join(numbered_record(emitted + each, 200) for each in range(3))
                    )
                    emitted += 3
                task = asyncio.ensure_future(subscriber.__anext__())
                turns = (turns + 1) % 12
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                try:
                    read.append(record_number(await task))
                except asyncio.CancelledError:
                    cancelled += 1
    assert read == list(range(sent))
    assert cancelled >= 200


@asynchronous
async def test_cancellation_after_data_arrived_loses_nothing(
    directory: Path,
) -> None:
    """The socket can be read, the task is told so, and is cancelled before it runs again.

    The order of steps in asyncio's event loop makes it so every time.
    """
    with PrivateSocket(directory / "notifications.sock") as relay:
        reader = asyncio.create_task(_first(relay.path))
        incoming = await meanwhile(relay.accept)
        with incoming:
            incoming.line()
            incoming.socket.sendall(records.subscribed({}))
            subscriber = await reader
            for each in range(50):
                task = asyncio.ensure_future(subscriber.__anext__())
                while subscriber._waiter is None:  # noqa: SLF001 (it waits for the socket)
                    await asyncio.sleep(0)
                waiter = subscriber._waiter  # noqa: SLF001
                incoming.socket.sendall(record(number=each))
                while not waiter.done():
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert record_number(await subscriber.__anext__()) == each
            subscriber.close()


@asynchronous
async def test_cancelled_connect_leaves_nothing_behind(relay: RunningRelay) -> None:
    for turns in range(30):
        task = asyncio.ensure_future(subscribe(relay.public, event_type="a").__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await task).close()


@asynchronous
async def test_reading_continues_after_wait_for_timeout(relay: RunningRelay) -> None:
    async with subscribe(relay.public) as subscriber:
        with relay.produce() as producer:
            for each in range(5):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(subscriber.__anext__(), 0.01)
                producer.sendall(record(number=each))
                assert record_number(await subscriber.__anext__()) == each


@asynchronous
async def test_reading_continues_after_a_timeout(relay: RunningRelay) -> None:
    async with subscribe(relay.public, timeout=0.05) as subscriber:
        with relay.produce() as producer:
            for each in range(3):
                with pytest.raises(TimeoutError, match=r"for 0\.05 s"):
                    await subscriber.__anext__()
                producer.sendall(record(number=each))
                assert record_number(await subscriber.__anext__()) == each


@asynchronous
async def test_unresponsive_relay_is_a_timeout(directory: Path) -> None:
    with PrivateSocket(directory / "notifications.sock") as silent, pytest.raises(TimeoutError):
        async with subscribe(silent.path, timeout=0.05):
            pass


@pytest.mark.parametrize("to_callback", [False, True])
@asynchronous
async def test_reconnect_is_one_gap_and_keeps_the_filter(
    directory: Path, to_callback: bool
) -> None:
    gaps: list[Gap] = []
    on_gap = gaps.append if to_callback else None
    path = directory / "notifications.sock"
    async with contextlib.AsyncExitStack() as stack:
        with running_relay(directory) as relay:
            subscriber = await stack.enter_async_context(
                subscribe(path, event_type="a", on_gap=on_gap)
            )
            with relay.produce() as producer:
                producer.sendall(record("b", number=1) + record("a", number=2))
                assert record_number(await subscriber.__anext__()) == 2
        (directory / "notify.sock").unlink()
        with running_relay(directory) as relay:
            task = asyncio.ensure_future(subscriber.__anext__())
            with relay.produce() as producer:
                while relay.status()["bytes_delivered"] == 0:
                    producer.sendall(record("b", number=3))
                    await asyncio.sleep(0)
                producer.sendall(record("a", number=4))
                if not to_callback:
                    gap = await task
                    assert isinstance(gap, Gap)
                    gaps.append(gap)
                    task = asyncio.ensure_future(subscriber.__anext__())
                assert record_number(await task) == 4
    assert [(gap.dropped, gap.reason) for gap in gaps] == [(None, "relay_restarted")]


@asynchronous
async def test_missing_relay_is_waited_for(directory: Path) -> None:
    async with subscribe(directory / "notifications.sock") as subscriber:
        task = asyncio.ensure_future(subscriber.__anext__())
        await asyncio.sleep(0)
        with running_relay(directory) as relay, relay.produce() as producer:
            while not task.done():
                producer.sendall(record("first"))
                await asyncio.sleep(0)
        assert (await task).event_type == "first"


@asynchronous
async def test_missing_relay_is_an_error_without_reconnect(directory: Path) -> None:
    path = directory / "notifications.sock"
    with pytest.raises(RelayUnavailable, match="the socket does not exist"):
        async with subscribe(path, reconnect=False):
            pass
    with running_relay(directory) as relay:
        subscriber = await subscribe(path, reconnect=False).__aenter__()
        assert await meanwhile(relay.stop) == 0
        with pytest.raises(RelayUnavailable, match="relay closed the connection"):
            await subscriber.__anext__()
        assert [each async for each in subscriber] == []


@pytest.mark.parametrize("there", [True, False])
@asynchronous
async def test_another_task_can_close_a_waiting_reader(relay: RunningRelay, there: bool) -> None:
    path = relay.public if there else relay.directory / "none"
    subscriber = subscribe(path)
    ended = asyncio.ensure_future(_all(subscriber))
    while subscriber._waiter is None:  # noqa: SLF001 (it waits)
        await asyncio.sleep(0)
    subscriber.close()
    assert await ended == []
    assert await _all(subscriber) == []


@asynchronous
async def test_other_tasks_run_while_records_are_read(relay: RunningRelay) -> None:
    async with subscribe(relay.public) as subscriber:
        with relay.produce() as producer:
            for each in range(4000):
                producer.sendall(numbered_record(each))
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(others())
        for each in range(4000):
            assert record_number(await subscriber.__anext__()) == each
        assert turns >= 4000 * 1024 // (64 * 1024)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynchronous
async def test_two_tasks_cannot_wait_for_the_same_notification(relay: RunningRelay) -> None:
    async with subscribe(relay.public) as subscriber:
        first = asyncio.ensure_future(subscriber.__anext__())
        while subscriber._waiter is None:  # noqa: SLF001 (it waits)
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task is waiting"):
            await subscriber.__anext__()
        with relay.produce() as producer:
            producer.sendall(record(number=1))
            assert record_number(await first) == 1


@asynchronous
async def test_invalid_filter_is_refused_at_once(relay: RunningRelay) -> None:
    with pytest.raises(BadFilter):
        subscribe(relay.public, event_type=[])


async def _first(path: Path) -> Subscriber:
    return await subscribe(path).__aenter__()


async def _all(subscriber: Subscriber) -> list[Notification]:
    return [each async for each in subscriber]
