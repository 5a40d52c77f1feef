# SPDX-License-Identifier: Apache-2.0
"""A program that reads with notif_relay.subscribe, from a real relay that comes and goes."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notif_relay import (
    BadFilter,
    Gap,
    Notification,
    PermissionDenied,
    RelayUnavailable,
    Subscriber,
    records,
    subscribe,
)
from support.descriptors import open_sockets
from support.private_socket import PrivateSocket
from support.records import numbered_record, record, record_number
from support.relay import RunningRelay, running_relay
from support.scripts import Scripts
from support.waiting import TIMEOUT, wait_until

MIB = 1024 * 1024


@pytest.fixture
def no_socket_left() -> Iterator[None]:
    before = open_sockets()
    yield
    assert open_sockets() == before


@contextlib.contextmanager
def next_relay(directory: Path, *arguments: str) -> Iterator[RunningRelay]:
    """Another relay, where one has been killed."""
    (directory / "notify.sock").unlink()
    with running_relay(directory, *arguments) as relay:
        yield relay


@contextlib.contextmanager
def in_thread(target: Callable[[], object]) -> Iterator[int | None]:
    """Have something done meanwhile, by the thread given, and see that it ends."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        yield thread.ident
    finally:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def waits_in(function: str, thread: int | None) -> bool:
    """Whether a thread is in this function, and nowhere deeper."""
    frame = sys._current_frames().get(thread or 0)  # noqa: SLF001 (there is no other way)
    return frame is not None and frame.f_code.co_name == function


def test_record_sent_after_subscribe_is_read(relay: RunningRelay) -> None:
    with relay.produce() as producer:
        for each in range(200):
            wanted = None if each % 2 else "wanted.*"
            with subscribe(relay.public, event_type=wanted, timeout=TIMEOUT) as subscriber:
                producer.sendall(record("wanted.event", number=each))
                assert record_number(next(subscriber)) == each


def test_only_matching_records_are_read(relay: RunningRelay, no_socket_left: None) -> None:
    with (
        subscribe(
            relay.public,
            event_type=["compute.*", "port.*"],
            priority="error",
            publisher_id="a:*",
            timeout=TIMEOUT,
        ) as subscriber,
        relay.produce() as producer,
    ):
        matching = []
        for event_type, priority, publisher_id in itertools.product(
            ("compute.x", "port.y", "volume.z"), ("INFO", "ERROR"), ("a:1", "b:1")
        ):
            line = record(event_type, priority, publisher_id=publisher_id)
            producer.sendall(line)
            if event_type != "volume.z" and priority == "ERROR" and publisher_id == "a:1":
                matching.append(line)
        assert [next(subscriber).raw for _ in matching] == matching
        assert len(matching) == 2
        producer.sendall(record("compute.last", "ERROR", publisher_id="a:2"))
        assert next(subscriber).event_type == "compute.last"


@pytest.mark.parametrize("to_callback", [False, True])
def test_reconnect_is_one_gap_and_keeps_the_filter(
    directory: Path, no_socket_left: None, to_callback: bool
) -> None:
    gaps: list[Gap] = []
    on_gap = gaps.append if to_callback else None
    with contextlib.ExitStack() as stack:
        with running_relay(directory) as relay:
            subscriber = stack.enter_context(
                subscribe(relay.public, event_type="a", timeout=TIMEOUT, on_gap=on_gap)
            )
            with relay.produce() as producer:
                producer.sendall(record("b", number=1) + record("a", number=2))
                assert record_number(next(subscriber)) == 2
        with next_relay(directory) as relay, relay.produce() as noise:
            stop = threading.Event()

            def emit() -> None:
                """Others emit while the subscriber is on its way, and none of it is for it."""
                while not stop.is_set():
                    noise.sendall(record("b", number=3) * 10)

            def finish() -> None:
                relay.wait_status(subscribers=1)
                wait_until(lambda: relay.status()["records_received"] > 1000, "others emit")
                wait_until(lambda: waits_in("_read", main), "the subscriber waits")
                stop.set()
                with relay.produce() as producer:
                    producer.sendall(record("a", number=4))

            main = threading.get_ident()
            with in_thread(emit), in_thread(finish):
                if not to_callback:
                    gap = next(subscriber)
                    assert isinstance(gap, Gap)
                    gaps.append(gap)
                assert record_number(next(subscriber)) == 4
    assert [(gap.dropped, gap.reason) for gap in gaps] == [(None, "relay_restarted")]


def test_slow_reader_gets_the_exact_number_of_drops(directory: Path) -> None:
    sent = 20_000
    with (
        running_relay(directory, "--relayd-ring_size", str(2 * MIB)) as relay,
        subscribe(relay.public, timeout=TIMEOUT) as subscriber,
        relay.produce() as producer,
    ):
        expected = gaps = 0
        for each in range(sent):
            producer.sendall(numbered_record(each))
        relay.wait_status(records_received=sent)
        while expected < sent:
            notification = next(subscriber)
            if isinstance(notification, Gap):
                assert notification.reason == "slow_subscriber"
                assert notification.dropped is not None
                expected += notification.dropped
                gaps += 1
            else:
                assert record_number(notification) == expected
                expected += 1
        assert expected == sent
        assert gaps
        assert relay.status()["records_dropped"] > 10_000


def test_missing_relay_is_waited_for(directory: Path, no_socket_left: None) -> None:
    with subscribe(directory / "notifications.sock", timeout=TIMEOUT) as subscriber:
        read: list[Notification] = []
        with in_thread(lambda: read.append(next(subscriber))), running_relay(directory) as relay:
            relay.wait_status(subscribers=1)
            wait_until(lambda: relay.status()["bytes_delivered"], "it has its answer")
            with relay.produce() as producer:
                producer.sendall(record("first"))
                wait_until(lambda: read, "it is read")
    assert [each.event_type for each in read] == ["first"]  # and no gap: nothing was promised


def test_missing_relay_is_an_error_without_reconnect(directory: Path) -> None:
    path = directory / "notifications.sock"
    with pytest.raises(RelayUnavailable, match=f"relay at {path}: the socket does not exist"):
        subscribe(path, reconnect=False)
    with PrivateSocket(path):
        pass
    with pytest.raises(RelayUnavailable, match="no process listens on the socket"):
        subscribe(path, reconnect=False)


def test_end_of_relay_is_one_error_without_reconnect(
    relay: RunningRelay, no_socket_left: None
) -> None:
    subscriber = subscribe(relay.public, reconnect=False)
    with relay.produce() as producer:
        producer.sendall(record("last"))
        relay.wait_status(records_received=1)
    assert relay.stop() == 0
    assert next(subscriber).event_type == "last"
    with pytest.raises(RelayUnavailable, match="relay closed the connection"):
        next(subscriber)
    assert list(subscriber) == []


def test_reading_continues_after_a_timeout(relay: RunningRelay, no_socket_left: None) -> None:
    with subscribe(relay.public, timeout=0.05) as subscriber, relay.produce() as producer:
        for each in range(3):
            with pytest.raises(TimeoutError, match=r"for 0\.05 s"):
                next(subscriber)
            producer.sendall(record(number=each))
            relay.wait_status(records_delivered=each + 1)
            assert record_number(next(subscriber)) == each


def test_short_timeouts_do_not_prevent_the_connection(
    directory: Path,
) -> None:
    path = directory / "notifications.sock"
    with subscribe(path, timeout=0.001) as subscriber:
        with pytest.raises(TimeoutError):
            next(subscriber)
        with running_relay(directory) as relay:

            def connected() -> int:
                with pytest.raises(TimeoutError):
                    next(subscriber)
                return int(relay.status()["subscribers"])

            wait_until(connected, "it has connected")


def test_unresponsive_relay_is_a_timeout(directory: Path, no_socket_left: None) -> None:
    with (
        PrivateSocket(directory / "notifications.sock") as silent,
        pytest.raises(TimeoutError),
    ):
        subscribe(silent.path, timeout=0.05)


@pytest.mark.parametrize("timeout", [None, TIMEOUT])
def test_another_thread_can_close_a_waiting_reader(
    relay: RunningRelay, no_socket_left: None, timeout: float | None
) -> None:
    for _ in range(20):
        subscriber = subscribe(relay.public, timeout=timeout)
        ended: list[object] = []
        with in_thread(lambda: ended.append(list(subscriber))) as reader:  # noqa: B023
            wait_until(lambda: waits_in("_read", reader), "it waits")
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
        wait_until(lambda: waits_in("_connect_until", reader), "it waits")
        subscriber.close()
    assert ended == [[]]


@contextlib.contextmanager
def interrupting(handler: Callable[..., object]) -> Iterator[None]:
    """Have this thread interrupted by a signal once it waits for a notification."""
    main = threading.main_thread().ident
    assert main is not None
    before = signal.signal(signal.SIGUSR1, handler)

    def interrupt() -> None:
        wait_until(lambda: waits_in("_read", main), "it waits")
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
    taken: list[int] = []
    with subscribe(relay.public) as subscriber, contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(
                in_thread(lambda: taken.extend(record_number(n) for n in subscriber)),
            )
        with relay.produce() as producer:
            for each in range(sent):
                producer.sendall(record(number=each))
        wait_until(lambda: len(taken) == sent, "all are taken")
        subscriber.close()
    assert sorted(taken) == list(range(sent))


def test_full_relay_is_retried(directory: Path, no_socket_left: None) -> None:
    with running_relay(directory, "--relayd-max_subscribers", "1") as relay:
        first = subscribe(relay.public)
        for _ in range(100):  # the relay may hang up before it was asked for anything
            with pytest.raises(RelayUnavailable, match="max_subscribers = 1"):
                subscribe(relay.public, event_type="a", reconnect=False)
        with subscribe(relay.public, event_type="a", timeout=TIMEOUT) as second:
            read: list[Notification] = []
            with in_thread(lambda: read.append(next(second))), relay.produce() as producer:
                first.close()
                while not read:
                    producer.sendall(record("a") * 10)
            assert read[0].event_type == "a"


def test_relays_error_about_a_filter_is_raised(directory: Path, no_socket_left: None) -> None:
    """Only a relay of another version has something to say, so the test plays one."""
    with PrivateSocket(directory / "notifications.sock") as other:

        def refuse() -> None:
            with other.accept() as incoming:
                assert json.loads(incoming.line()) == {"filter": {"event_type": ["a"]}}
                incoming.socket.sendall(record("early") + records.error("Not on Sundays."))

        with in_thread(refuse), pytest.raises(BadFilter, match=r"^Not on Sundays\.$"):
            subscribe(other.path, event_type="a")


def test_denied_permission_error_names_the_group_to_join(relay: RunningRelay) -> None:
    os.chmod(relay.directory, 0o711)
    os.chmod(relay.public, 0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(pwd.getpwnam("nobody").pw_uid)
        with pytest.raises(PermissionDenied) as raised:
            subscribe(relay.public)
    finally:
        os.seteuid(user)
    name = "nobody" if user == 0 else pwd.getpwuid(user).pw_name
    assert str(raised.value).startswith(f"user {name} may not connect to {relay.public}: ")
    assert f"usermod -aG {relay.public.group()} {name}" in str(raised.value)


def test_invalid_timeout_or_path_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match="timeout must be"):
        subscribe(directory / "socket", timeout=0)
    with pytest.raises(ValueError, match="path must be"):
        subscribe("")


def test_importing_the_library_does_not_import_asyncio() -> None:
    code = "import sys, notif_relay; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
while len(read) < 2:  # comes back here only if a waiting reader lets others run
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


def test_readme_example_works(directory: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    [example] = re.findall(r"^```python\n(from notif_relay .*?)^```$", readme, re.DOTALL | re.M)
    code = example.replace(
        "subscribe(event", f"subscribe({str(directory / 'notifications.sock')!r}, event"
    )
    assert code != example
    with Scripts() as scripts:
        with running_relay(directory) as relay:
            script = scripts.run("-u", "-c", code)
            wait_until(lambda: relay.status()["bytes_delivered"], "it has its answer")
            with relay.produce() as producer:
                producer.sendall(record("volume.x", "ERROR") + record("compute.x", "DEBUG"))
                producer.sendall(record("compute.broken", "ERROR", payload={"n": 1}))
            assert script.line() == "None compute.broken {'n': 1}"
        with next_relay(directory):
            assert script.line() == "some notifications are missing"
