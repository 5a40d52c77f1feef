# SPDX-License-Identifier: Apache-2.0
"""relayctl send: the notifications it sends, and its errors."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import socket
import subprocess
import uuid
from pathlib import Path

import pytest

from support.relay import RunningRelay, running_relay
from support.relayctl import RELAYCTL, assert_error, needs_root, relayctl, relayctl_as_nobody
from support.waiting import TIMEOUT

ORDER = ["message_id", "publisher_id", "event_type", "priority", "payload", "timestamp"]


def test_notification_has_the_fields_of_a_service(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber:
        done = relayctl(
            relay.directory,
            *("send", "--event-type", "volume.test", "--priority", "warn"),
            *("--publisher", "volume.host-1", '{"size": 8, "name": "høst\\n"}'),
        )
        notification = subscriber.notification()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(notification) == ORDER
    assert uuid.UUID(notification.pop("message_id")).version == 4
    age = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None) - dt.datetime.strptime(
        notification.pop("timestamp"), "%Y-%m-%d %H:%M:%S.%f"
    )
    assert abs(age) < dt.timedelta(hours=1)
    assert notification == {
        "publisher_id": "volume.host-1",
        "event_type": "volume.test",
        "priority": "WARN",
        "payload": {"size": 8, "name": "høst\n"},
    }


def test_only_the_event_type_is_required(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber:
        assert relayctl(relay.directory, "send", "--event-type", "test").returncode == 0
        notification = subscriber.notification()
    assert notification["publisher_id"] == f"relayctl.{socket.gethostname()}"
    assert notification["priority"] == "INFO"
    assert notification["payload"] == {}


def test_each_line_that_is_not_empty_is_a_payload(relay: RunningRelay) -> None:
    number = 20_000
    with relay.subscribe() as subscriber:
        done = relayctl(
            *(relay.directory, "send", "--event-type", "test", "-"),
            stdin="\ufeff"
            + "".join(f'{{"number": {each}}}\r\n\n \r\n' for each in range(number - 1))
            + "[1e3]",
        )
        assert (done.returncode, done.stderr) == (0, "")
        notifications = [subscriber.notification() for _ in range(number)]
    assert [each["payload"] for each in notifications[:-1]] == [
        {"number": each} for each in range(number - 1)
    ]
    assert notifications[-1]["payload"] == [1000.0]
    assert len({each["message_id"] for each in notifications}) == number


@pytest.mark.parametrize("payload", ["{", "", "NaN", '{"ratio": 1e999}', "\udcff", "{} {}"])
def test_invalid_json_payload_is_not_sent(relay: RunningRelay, payload: str) -> None:
    done = relayctl(relay.directory, "send", "--event-type", "test", payload)
    assert_error(done, 1, "the payload is not valid JSON: ")
    assert relay.status()["records_received"] == relay.status()["records_rejected"] == 0


def test_invalid_input_line_is_named_and_ends_it(relay: RunningRelay) -> None:
    done = relayctl(
        relay.directory, "send", "--event-type", "test", "-", stdin='{}\n\n{"half":\n{}\n'
    )
    assert_error(done, 1, "line 3 of the input: the payload is not valid JSON: ")
    relay.wait_status(records_received=1, producers=0)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ("[" * 100_000 + "]" * 100_000, "the payload is nested too deeply"),
        ("1" * 5000, "a number in the payload has too many digits"),
    ],
)
def test_payload_that_python_cannot_decode_is_refused(
    directory: Path, payload: str, problem: str
) -> None:
    done = relayctl(directory, "send", "--event-type", "t", "-", stdin=f"{payload}\n")
    assert_error(done, 1, f"line 1 of the input: {problem}")


def test_unknown_priority_is_refused(relay: RunningRelay) -> None:
    done = relayctl(relay.directory, "send", "--event-type", "test", "--priority", "urgent")
    assert_error(done, 1, "--priority", "'URGENT'", "CRITICAL")


def test_oversized_payload_is_refused(relay: RunningRelay) -> None:
    done = relayctl(
        relay.directory, "send", "--event-type", "test", "-", stdin=f'{{}}\n"{"x" * 1048576}"\n'
    )
    assert_error(done, 1, "line 2 of the input: ", "max_record_size")


@pytest.mark.parametrize(
    ("event_type", "error"),
    [
        ("notif_relayd.gap", "the relay would reject the notification: it is a malformed gap"),
        ("\udcff", "argument --event-type: '\\udcff' is not valid UTF-8"),
    ],
)
def test_notification_that_the_relay_would_reject_is_not_sent(
    directory: Path, event_type: str, error: str
) -> None:
    assert_error(relayctl(directory, "send", "--event-type", event_type), 1, error)


def test_rejected_record_is_an_error(directory: Path) -> None:
    with running_relay(directory, "--relayd-max_record_size", "2000"):
        done = relayctl(
            directory, "send", "--event-type", "test", "-", stdin=f'{{}}\n"{"x" * 2000}"\n{{}}\n'
        )
    assert_error(done, 1, "rejected 1 of 3 notifications: longer than max_record_size; see its log")


def test_refused_connection_is_an_error(directory: Path) -> None:
    with running_relay(directory, "--relayd-max_producers", "1") as relay, relay.produce():
        relay.wait_status(producers=1)
        done = relayctl(directory, "send", "--event-type", "test")
    assert_error(done, 4, "refused", "This relay takes no more producers: max_producers = 1 is")


def test_relay_that_stops_midway_is_an_error_with_the_line(relay: RunningRelay) -> None:
    command = [RELAYCTL, "--runtime-dir", os.fspath(relay.directory), "send", "--event-type", "t"]
    with subprocess.Popen(
        [*command, "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write("1\n")
        process.stdin.flush()
        relay.wait_status(records_received=1)
        assert relay.stop() == 0
        _, error = process.communicate("\n2\n3\n", timeout=TIMEOUT)
    assert process.returncode == 3
    assert error.startswith("relayctl: line 3 of the input: not sent: ")


def test_missing_relay_is_an_error(directory: Path) -> None:
    done = relayctl(directory, "send", "--event-type", "test")
    assert_error(done, 3, "not sent", f"{directory}/ingest.sock: the socket does not exist")


def test_send_connects_to_an_activating_socket(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(directory / "ingest.sock"))
        listener.listen()
        assert relayctl(directory, "send", "--event-type", "test").returncode == 0
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            assert json.loads(stream.readline())["event_type"] == "test"
            assert stream.read() == b""


def test_ingest_path_names_another_socket(directory: Path) -> None:
    path = os.fspath(directory / "elsewhere.sock")
    with (
        running_relay(directory, "--relayd-ingest_path", path) as relay,
        relay.subscribe() as subscriber,
    ):
        done = relayctl(directory, "send", "--event-type", "test", "--ingest-path", path)
        assert done.returncode == 0
        assert subscriber.notification()["event_type"] == "test"


@needs_root
def test_denied_permission_is_an_error(relay: RunningRelay) -> None:
    relay.directory.chmod(0o755)
    relay.ingest.chmod(0o600)
    done = relayctl_as_nobody(relay.directory, "send", "--event-type", "test")
    assert_error(done, 4, "not sent", f"{relay.ingest}, which belongs to root:")


def test_blocked_relay_error_names_the_input_line(
    relay: RunningRelay,
) -> None:
    relay.process.send_signal(signal.SIGSTOP)
    number = 20
    done = relayctl(
        relay.directory,
        *("send", "--event-type", "test", "-"),
        stdin=f'"{"x" * 1000_000}"\n' * number,
    )
    assert_error(done, 1, " of the input: not sent: ", "accepted no data")
    line = int(done.stderr.split()[2])
    relay.process.send_signal(signal.SIGCONT)
    relay.wait_status(producers=0)
    assert relay.status()["records_received"] == line - 1
    assert line < number


def test_each_input_line_is_sent_at_once(relay: RunningRelay) -> None:
    command = [RELAYCTL, "--runtime-dir", os.fspath(relay.directory), "send", "--event-type", "t"]
    with (
        relay.subscribe() as subscriber,
        subprocess.Popen([*command, "-"], stdin=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None
        for number in range(3):
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
            assert subscriber.notification()["payload"] == number
    assert process.returncode == 0
