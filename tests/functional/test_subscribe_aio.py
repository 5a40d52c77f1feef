# SPDX-License-Identifier: Apache-2.0
"""notif_relay.aio.subscribe with a real relay, and cancelled tasks."""

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
    """Run a test in an event loop; check that it leaves no task and no socket."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def whole() -> None:
            await asyncio.wait_for(test(**fixtures), TIMEOUT)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        before = open_sockets()
        asyncio.run(whole())
        assert open_sockets() == before

    return run


class LoopWaits:
    """The waits that the running event loop begins and ends, from the construction on.

    A wait begins when a reader or a timer is added, and ends when its callback is called.
    """

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        loop = asyncio.get_running_loop()
        self._add_reader, self._call_later = loop.add_reader, loop.call_later
        setattr(loop, "add_reader", self._reader)  # noqa: B010 (mypy permits no assignment)
        setattr(loop, "call_later", self._timer)  # noqa: B010

    async def wait_begun(self, number: int) -> None:
        """Let other tasks run until this number of waits has begun."""
        while self.begun < number:
            await asyncio.sleep(0)

    async def wait_ended(self, number: int) -> None:
        """Let other tasks run until this number of waits has ended."""
        while self.ended < number:
            await asyncio.sleep(0)

    def _reader(self, fd: Any, callback: Callable[..., object], *arguments: object) -> None:
        self.begun += 1
        self._add_reader(fd, self._end, callback, *arguments)

    def _timer(
        self, delay: float, callback: Callable[..., object], *arguments: object
    ) -> asyncio.TimerHandle:
        self.begun += 1
        return self._call_later(delay, self._end, callback, *arguments)

    def _end(self, callback: Callable[..., object], *arguments: object) -> None:
        self.ended += 1
        callback(*arguments)


async def in_executor(function: Callable[..., Any], *arguments: object) -> Any:
    """Run a blocking function in another thread."""
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
    while relay.status()["bytes_delivered"] == 0:  # the answer to the request
        await asyncio.sleep(0)
    with relay.produce() as producer:
        await in_executor(producer.sendall, b"".join(map(numbered_record, range(1000))))
        assert await reader == list(range(1000))


@asynchronous
async def test_cancelled_tasks_lose_no_notification(relay: RunningRelay) -> None:
    """Tasks are cancelled after 0 to 11 iterations of the event loop while records arrive."""
    sent = 3000
    read: list[int] = []
    cancelled = 0
    async with subscribe(relay.public) as subscriber:
        with relay.produce() as producer:
            emitted = 0
            iterations = 0
            while len(read) < sent:
                # Send only three at a time, so that there is often nothing to read.
                if emitted <= len(read) and emitted < sent:
                    producer.sendall(
                        b"".join(numbered_record(emitted + each, 200) for each in range(3))
                    )
                    emitted += 3
                task = asyncio.ensure_future(subscriber.__anext__())
                iterations = (iterations + 1) % 12
                for _ in range(iterations):
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
    """The event loop reports a readable socket, and the task is cancelled before it runs again.

    The order of steps in asyncio's event loop makes this deterministic.
    """
    with PrivateSocket(directory / "notifications.sock") as relay:
        reader = asyncio.create_task(enter_subscriber(relay.path))
        incoming = await in_executor(relay.accept)
        with incoming:
            incoming.line()
            incoming.socket.sendall(records.subscribed({}))
            subscriber = await reader
            waits = LoopWaits()
            for each in range(50):
                begun, ended = waits.begun, waits.ended
                task = asyncio.ensure_future(subscriber.__anext__())
                await waits.wait_begun(begun + 1)
                incoming.socket.sendall(record(number=each))
                await waits.wait_ended(ended + 1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert record_number(await subscriber.__anext__()) == each
            subscriber.close()


@asynchronous
async def test_cancelled_connect_leaves_nothing_behind(relay: RunningRelay) -> None:
    for iterations in range(30):
        task = asyncio.ensure_future(subscribe(relay.public, event_type="a").__aenter__())
        for _ in range(iterations):
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
    other = record("b", number=1, payload={"size": 1}) + record("a", number=1, payload={"size": 2})
    async with contextlib.AsyncExitStack() as stack:
        with running_relay(directory) as relay:
            subscriber = await stack.enter_async_context(
                subscribe(path, event_type="a", payload={"size": [1]}, on_gap=on_gap)
            )
            with relay.produce() as producer:
                producer.sendall(other + record("a", number=2, payload={"size": 1}))
                assert record_number(await subscriber.__anext__()) == 2
        (directory / "notify.sock").unlink()
        with running_relay(directory) as relay:
            task = asyncio.ensure_future(subscriber.__anext__())
            with relay.produce() as producer:
                while relay.status()["bytes_delivered"] == 0:
                    producer.sendall(other)
                    await asyncio.sleep(0)
                producer.sendall(record("a", number=4, payload={"size": 1}))
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
        assert await in_executor(relay.stop) == 0
        with pytest.raises(RelayUnavailable, match="relay closed the connection"):
            await subscriber.__anext__()
        assert [each async for each in subscriber] == []


@pytest.mark.parametrize("running", [True, False])
@asynchronous
async def test_another_task_can_close_a_waiting_reader(relay: RunningRelay, running: bool) -> None:
    path = relay.public if running else relay.directory / "none"
    subscriber = subscribe(path)
    waits = LoopWaits()
    ended = asyncio.ensure_future(read_all(subscriber))
    await waits.wait_begun(1)
    subscriber.close()
    assert await ended == []
    assert await read_all(subscriber) == []


@asynchronous
async def test_other_tasks_run_while_records_are_read(relay: RunningRelay) -> None:
    async with subscribe(relay.public) as subscriber:
        with relay.produce() as producer:
            for each in range(4000):
                producer.sendall(numbered_record(each))
        iterations = 0

        async def other_task() -> None:
            nonlocal iterations
            while True:
                iterations += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other_task())
        for each in range(4000):
            assert record_number(await subscriber.__anext__()) == each
        assert iterations >= 4000 * 1024 // (64 * 1024)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynchronous
async def test_two_tasks_cannot_wait_for_the_same_notification(relay: RunningRelay) -> None:
    async with subscribe(relay.public) as subscriber:
        waits = LoopWaits()
        first = asyncio.ensure_future(subscriber.__anext__())
        await waits.wait_begun(1)
        with pytest.raises(RuntimeError, match="another task is waiting"):
            await subscriber.__anext__()
        with relay.produce() as producer:
            producer.sendall(record(number=1))
            assert record_number(await first) == 1


@asynchronous
async def test_invalid_filter_is_refused_at_once(relay: RunningRelay) -> None:
    with pytest.raises(BadFilter):
        subscribe(relay.public, event_type=[])


async def enter_subscriber(path: Path) -> Subscriber:
    return await subscribe(path).__aenter__()


async def read_all(subscriber: Subscriber) -> list[Notification]:
    return [each async for each in subscriber]
