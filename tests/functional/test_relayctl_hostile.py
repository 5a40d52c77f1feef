# SPDX-License-Identifier: Apache-2.0
"""relayctl with a hostile program that listens in place of the relay."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from notif_relay import records
from support.records import record
from support.relay import RunningRelay, connect
from support.relayctl import RELAYCTL, bind_listener, relayctl
from support.terminal import Terminal
from support.waiting import TIMEOUT

HOSTILE = "\x1b]0;pwn\x07\x1b[2J\n\r\x9b31m\u202e"
HUGE = 10**300

STATUS: dict[str, Any] = {
    "version": HOSTILE,
    "pid": 1,
    "uptime_seconds": 1e308,
    **dict.fromkeys(("producers", "subscribers", "records_received", "records_delivered"), 1),
    **dict.fromkeys(("records_dropped", "records_rejected", "records_discarded"), 1),
    **dict.fromkeys(("bytes_received", "bytes_delivered", "ring_bytes"), 1),
    "ring_limit_bytes": 0,
    "public_socket": f"/nowhere/{HOSTILE}",
    "ingest_socket": HOSTILE,
}
CONNECTION = {
    "id": 1,
    "pid": 1,
    "command": HOSTILE,
    "uid": 99999999999999,
    "connected_seconds": 1e300,
    "records": 1,
    "bytes": 1,
}
CONNECTIONS = {"accepted": 1, "reconnected": 1, "kept": 1, "refused": {HOSTILE: 1}}
METRICS: dict[str, Any] = {
    "status": STATUS,
    "python": HOSTILE,
    "started": 1.0,
    "rejected": {HOSTILE: 1},
    "dropped": {HOSTILE: 1},
    "unknown_gaps": {},
    "subscribers_behind": 0,
    "max_lag": 0,
    "connections": {HOSTILE: CONNECTIONS},
    "turn_bounds": [1.0],
    "turns": {"counts": [1, 1], "seconds": 1.0},
    "groups": dict.fromkeys(("groups", "held", "members", "max_lag", "unfinished"), 1),
}
GROUP = dict.fromkeys(("uid", "members", "lag", "unfinished", "redelivered", "dropped"), 1)
ANSWERS: dict[str, object] = {
    "status": {"result": STATUS},
    "producers": {"result": [{**CONNECTION, "rejected": 1}]},
    "subscribers": {"result": [{**CONNECTION, "lag": 1, "dropped": 1, "group": HOSTILE}]},
    "groups": {"result": [{**GROUP, "group": HOSTILE, "hold_seconds": 1e300}]},
    "metrics": {"result": METRICS},
    "disconnect": {"result": HOSTILE},
}
METHODS = tuple(ANSWERS)

COMMANDS = [
    ["status"],
    ["status", "-f", "value"],
    ["status", "-f", "shell"],
    ["producers"],
    ["groups", "-f", "csv"],
    ["subscribers", "-f", "json"],
    ["subscribers", "-f", "yaml"],
    ["metrics", "--per-connection"],
    ["disconnect", "1"],
    ["top", "-n", "1", "--batch", "-d", "0.01"],
    ["doctor"],
]


@contextlib.contextmanager
def fake_control_socket(directory: Path, answers: Mapping[str, object]) -> Iterator[None]:
    """Answer requests on the control socket with `answers`, by method, until the block ends."""

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                if not (request := connection.recv(4096)):
                    return
                answer = answers[json.loads(request)["method"]]
                if not isinstance(answer, bytes):
                    answer = json.dumps(answer).encode() + b"\n"
                connection.sendall(answer)

    path = directory / "control.sock"
    with bind_listener(path) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with contextlib.closing(connect(path)):
                pass  # a connection without a request ends the thread
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def assert_harmless(done: subprocess.CompletedProcess[str]) -> None:
    """Check for printable output, no traceback, and at most one line of errors."""
    assert all(line.isprintable() for line in (done.stdout + done.stderr).split("\n"))
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 1
    assert done.returncode in (0, 1)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_answer_controls_the_terminal(directory: Path, command: list[str]) -> None:
    with fake_control_socket(directory, ANSWERS):
        done = relayctl(directory, *command)
    assert_harmless(done)
    assert "pwn" in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "answer",
    [
        {"error": HOSTILE},
        {"error": f"no method {HOSTILE}"},
        {"result": HOSTILE, "error": None},
        HOSTILE.encode() + b"{}\n",
        b'{"result":' + b"[" * 5000 + b"\n",
        b'{"result":{"\\u001b[2J":1,"version":5}}\n',
    ],
    ids=["error", "no method", "text", "no JSON", "deep", "wrong type"],
)
def test_no_error_controls_the_terminal(
    directory: Path, command: list[str], answer: object
) -> None:
    with fake_control_socket(directory, dict.fromkeys(METHODS, answer)):
        assert_harmless(relayctl(directory, *command))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("number", [HUGE, -HUGE, 2**63, -(2**63)], ids="{:.0e}".format)
def test_no_number_causes_a_traceback(directory: Path, command: list[str], number: int) -> None:
    def replaced(value: object) -> object:
        match value:
            case dict():
                return {key: replaced(each) for key, each in value.items()}
            case list():
                return [replaced(each) for each in value]
            case int() | float():
                return number
        return value

    answers = {method: replaced(answer) for method, answer in ANSWERS.items()}
    with fake_control_socket(directory, answers):
        assert_harmless(relayctl(directory, *command))


@pytest.mark.parametrize("path", ["/x\0y", "x" * 5000, "", "\0"], ids=repr)
@pytest.mark.parametrize("command", [["doctor"], ["top", "-n", "1", "--batch", "-d", "0.01"]])
def test_no_path_causes_a_traceback(directory: Path, command: list[str], path: str) -> None:
    status = {**STATUS, "public_socket": path, "ingest_socket": path}
    with fake_control_socket(directory, {**ANSWERS, "status": {"result": status}}):
        assert_harmless(relayctl(directory, *command))


def test_no_argument_controls_the_terminal(directory: Path) -> None:
    for arguments in (
        ["status", "-c", HOSTILE],
        [HOSTILE],
        ["tail", "-o", HOSTILE],
        ["tail", "--sock-path", f"/{HOSTILE}"],
        ["send", "--event-type", "x", "--ingest-path", f"/{HOSTILE}"],
        ["status", "--control-path", f"/{HOSTILE}"],
    ):
        done = relayctl(directory, *arguments)
        assert done.returncode in (1, 3)
        assert done.stderr[:-1].isprintable()
        assert done.stderr.endswith("\n")


def serve_public_lines(directory: Path, *lines: bytes) -> threading.Thread:
    """Start a thread that answers one subscriber with `lines` and disconnects."""
    listener = bind_listener(directory / "notifications.sock")

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"".join(lines))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.parametrize("output_format", ["short", "json-pretty", "{event_type} {payload}"])
def test_no_record_ends_tail_or_controls_the_terminal(directory: Path, output_format: str) -> None:
    gap = b'{"event_type":"notif_relayd.gap","priority":"W","payload":%s}\n'
    serving = serve_public_lines(
        directory,
        records.subscribed({}),
        record(HOSTILE, HOSTILE, payload={HOSTILE: HOSTILE}),
        b'{"event_type":"torn\xc3\n',
        gap % b"{}",
        gap % b'{"dropped":"many","reason":5}',
        b'{"event_type":"e","priority":"I","payload":%s}\n' % (b"1" * 5000),
        b'{"event_type":"e","priority":"I","payload":%s}\n' % (b"[" * 9999 + b"]" * 9999),
        b"[]\n",
        b"\xff\x1b[2J\n",
        record("the last"),
    )
    done = relayctl(directory, "tail", "--no-reconnect", "-o", output_format)
    serving.join(TIMEOUT)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert "the last" in done.stdout


def test_json_in_a_pipe_is_byte_for_byte(directory: Path) -> None:
    torn = b'{"event_type":"torn\xc3\n'
    serving = serve_public_lines(directory, records.subscribed({}), torn + record())
    done = subprocess.run(
        [RELAYCTL, "--runtime-dir", directory, "tail", "--no-reconnect", "-o", "json"],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    serving.join(TIMEOUT)
    assert done.stdout == torn + record()


def test_error_of_a_hostile_relay_is_escaped(directory: Path) -> None:
    serving = serve_public_lines(directory, records.error(HOSTILE))
    done = relayctl(directory, "tail")
    serving.join(TIMEOUT)
    assert done.returncode == 1
    assert done.stderr[:-1].isprintable()
    assert "pwn" in done.stderr


def test_json_in_a_terminal_is_escaped(relay: RunningRelay) -> None:
    line = '{"event_type":"a","priority":"b","payload":"\x9b2J\u202e"}\n'.encode()
    command = (RELAYCTL, "--runtime-dir", os.fspath(relay.directory), "tail", "-o", "json")
    with Terminal(*command) as terminal, relay.produce() as producer:
        relay.wait_subscribed()
        producer.sendall(line)
        terminal.wait_for(r"}\r\n")
        assert json.loads(terminal.output) == json.loads(line)
        assert terminal.output.removesuffix("\r\n").isprintable()
