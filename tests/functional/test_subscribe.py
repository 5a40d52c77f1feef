# SPDX-License-Identifier: Apache-2.0
"""notif_relay.subscribe with a real relay, also over restarts of the relay."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from notif_relay import (
    BadFilter,
    Gap,
    Notification,
    PermissionDenied,
    RelayUnavailable,
    records,
    subscribe,
)
from support.other_user import as_nobody
from support.private_socket import PrivateSocket
from support.records import numbered_record, record, record_number
from support.relay import RunningRelay, next_relay, running_relay
from support.scripts import Scripts
from support.threads import in_thread, wait_until_blocked
from support.waiting import TIMEOUT, wait_until

MIB = 1024 * 1024


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
            payload={"instance": {"host": ["cmp-1", {"prefix": "gpu-"}]}},
            timeout=TIMEOUT,
        ) as subscriber,
        relay.produce() as producer,
    ):
        matching = []
        wanted = ("ERROR", "a:1", "cmp-1")
        for event_type, priority, publisher_id, host in itertools.product(
            ("compute.x", "port.y", "volume.z"), ("INFO", "ERROR"), ("a:1", "b:1"), ("cmp-1", "x")
        ):
            payload = {"instance": {"host": host}}
            line = record(event_type, priority, publisher_id=publisher_id, payload=payload)
            producer.sendall(line)
            if event_type != "volume.z" and (priority, publisher_id, host) == wanted:
                matching.append(line)
        assert [next(subscriber).raw for _ in matching] == matching
        assert len(matching) == 2
        last = {"instance.host": "gpu-1"}
        producer.sendall(record("compute.last", "ERROR", publisher_id="a:2", payload=last))
        assert next(subscriber).event_type == "compute.last"


@pytest.mark.parametrize("to_callback", [False, True])
def test_reconnect_is_one_gap_and_keeps_the_filter(
    directory: Path, no_socket_left: None, to_callback: bool
) -> None:
    gaps: list[Gap] = []
    on_gap = gaps.append if to_callback else None
    other = record("b", number=1, payload={"size": 1}) + record("a", number=1, payload={"size": 2})
    with contextlib.ExitStack() as stack:
        with running_relay(directory) as relay:
            subscriber = stack.enter_context(
                subscribe(
                    relay.public,
                    event_type="a",
                    payload={"size": [1]},
                    timeout=TIMEOUT,
                    on_gap=on_gap,
                )
            )
            with relay.produce() as producer:
                producer.sendall(other + record("a", number=2, payload={"size": 1}))
                assert record_number(next(subscriber)) == 2
        with next_relay(directory) as relay, relay.produce() as other_producer:
            stop = threading.Event()

            def emit() -> None:
                """Send records that do not match while the subscriber reconnects."""
                while not stop.is_set():
                    other_producer.sendall(other * 10)

            def finish() -> None:
                relay.wait_status(subscribers=1)
                wait_until(
                    lambda: relay.status()["records_received"] > 1000, "other records are relayed"
                )
                wait_until_blocked(main)
                stop.set()
                with relay.produce() as producer:
                    producer.sendall(record("a", number=4, payload={"size": 1}))

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
            wait_until(lambda: relay.status()["bytes_delivered"], "the subscriber has its answer")
            with relay.produce() as producer:
                producer.sendall(record("first"))
                wait_until(lambda: read, "the record is read")
    assert [each.event_type for each in read] == ["first"]  # no gap: there was no connection before


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

            wait_until(connected, "the subscriber has connected")


def test_unresponsive_relay_is_a_timeout(directory: Path, no_socket_left: None) -> None:
    with (
        PrivateSocket(directory / "notifications.sock") as silent,
        pytest.raises(TimeoutError),
    ):
        subscribe(silent.path, timeout=0.05)


def test_relays_error_about_a_filter_is_raised(directory: Path, no_socket_left: None) -> None:
    """Only a relay of another version refuses a valid filter; the test acts as such a relay."""
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
    with as_nobody() as name, pytest.raises(PermissionDenied) as raised:
        subscribe(relay.public)
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
            wait_until(lambda: relay.status()["bytes_delivered"], "the subscriber has its answer")
            with relay.produce() as producer:
                producer.sendall(record("volume.x", "ERROR") + record("compute.x", "DEBUG"))
                producer.sendall(record("compute.broken", "ERROR", payload={"n": 1}))
            assert script.line() == "None compute.broken {'n': 1}"
        with next_relay(directory):
            assert script.line() == "some notifications are missing"
