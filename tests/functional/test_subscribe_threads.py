# SPDX-License-Identifier: Apache-2.0
"""notif_relay.subscribe with several threads, signal handlers and green threads."""

from __future__ import annotations

import contextlib
import functools
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notif_relay import (
    Gap,
    Subscriber,
    subscribe,
)
from support.records import record, record_number
from support.relay import RunningRelay
from support.scripts import Scripts
from support.threads import in_thread, wait_until_blocked
from support.waiting import TIMEOUT, wait_until


@pytest.mark.parametrize("timeout", [None, TIMEOUT])
def test_another_thread_can_close_a_waiting_reader(
    relay: RunningRelay, no_socket_left: None, timeout: float | None
) -> None:
    for _ in range(20):
        subscriber = subscribe(relay.public, timeout=timeout)
        ended: list[object] = []
        with in_thread(lambda: ended.append(list(subscriber))) as reader:  # noqa: B023
            wait_until_blocked(reader)
            subscriber.close()
        assert ended == [[]]
        assert list(subscriber) == []


def test_closing_at_any_moment_ends_the_iteration(
    relay: RunningRelay, no_socket_left: None
) -> None:
    with relay.produce() as producer:
        for _ in range(100):
            subscriber = subscribe(relay.public)
            with in_thread(lambda: list(subscriber)):  # noqa: B023
                producer.sendall(record() * 100)
                subscriber.close()
            assert list(subscriber) == []


def test_another_thread_can_close_a_connecting_reader(directory: Path) -> None:
    subscriber = subscribe(directory / "notifications.sock")
    ended: list[object] = []
    with in_thread(lambda: ended.append(list(subscriber))) as reader:
        wait_until_blocked(reader)
        subscriber.close()
    assert ended == [[]]


@contextlib.contextmanager
def interrupting(handler: Callable[..., object]) -> Iterator[None]:
    """Interrupt the main thread by a signal once it waits for a notification."""
    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGUSR1, handler)

    def interrupt() -> None:
        wait_until_blocked(main)
        signal.pthread_kill(main, signal.SIGUSR1)

    try:
        with in_thread(interrupt):
            yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signal_handler_can_close_the_interrupted_reader(
    relay: RunningRelay, no_socket_left: None
) -> None:
    subscriber = subscribe(relay.public)
    with interrupting(lambda *_: subscriber.close()):
        assert list(subscriber) == []


def test_exception_in_a_signal_handler_causes_a_gap(
    relay: RunningRelay, no_socket_left: None
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with subscribe(relay.public, timeout=TIMEOUT) as subscriber, relay.produce() as producer:
        with interrupting(interrupt), pytest.raises(KeyboardInterrupt):
            next(subscriber)
        gap = next(subscriber)
        assert isinstance(gap, Gap)
        assert gap.dropped is None
        producer.sendall(record("after"))
        assert next(subscriber).event_type == "after"


def test_abandoned_loop_leaves_no_socket_and_no_warning(
    relay: RunningRelay, no_socket_left: None
) -> None:
    with relay.produce() as producer:
        for _ in range(3):
            subscriber = subscribe(relay.public)
            producer.sendall(record() * 5)
            for _notification in subscriber:
                break
            del subscriber


def test_threads_read_with_their_own_filters(relay: RunningRelay, no_socket_left: None) -> None:
    threads, each_gets = 16, 300
    read: dict[int, list[int]] = {}

    def follow(subscriber: Subscriber, which: int) -> None:
        with subscriber:
            read[which] = [record_number(n) for n in itertools.islice(subscriber, each_gets)]

    with contextlib.ExitStack() as stack:
        for which in range(threads):
            subscriber = subscribe(relay.public, event_type=f"kind.{which}", timeout=TIMEOUT)
            stack.enter_context(in_thread(functools.partial(follow, subscriber, which)))
        with relay.produce() as producer:
            for each in range(threads * each_gets):
                producer.sendall(record(f"kind.{each % threads}", number=each))
    for which in range(threads):
        assert read[which] == list(range(which, threads * each_gets, threads))


def test_threads_sharing_a_subscriber_read_each_record_once(
    relay: RunningRelay, no_socket_left: None
) -> None:
    sent = 5000
    read_numbers: list[int] = []
    with subscribe(relay.public) as subscriber, contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(
                in_thread(lambda: read_numbers.extend(record_number(n) for n in subscriber)),
            )
        with relay.produce() as producer:
            for each in range(sent):
                producer.sendall(record(number=each))
        wait_until(lambda: len(read_numbers) == sent, "all notifications are read")
        subscriber.close()
    assert sorted(read_numbers) == list(range(sent))


GREEN = """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
import sys
from notif_relay import subscribe
subscriber = subscribe(sys.argv[1])
read = []
reader = eventlet.spawn(lambda: read.extend(subscriber))
eventlet.sleep(0)
print("waiting", flush=True)
while len(read) < 2:  # runs only if the waiting reader yields to other green threads
    eventlet.sleep(0)
subscriber.close()
reader.wait()
print(*(notification.event_type for notification in read))
"""


def test_green_threads_read_without_blocking_others(relay: RunningRelay) -> None:
    with Scripts() as scripts:
        script = scripts.run("-c", GREEN, relay.public)
        assert script.line() == "waiting"
        with relay.produce() as producer:
            producer.sendall(record("green") + record("also.green"))
            assert script.finish() == "green also.green\n"
