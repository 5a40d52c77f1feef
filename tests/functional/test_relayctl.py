# SPDX-License-Identifier: Apache-2.0
"""relayctl with a real relay, without a relay, and with a fake one."""

from __future__ import annotations

import errno
import grp
import json
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.groups import join
from support.records import record
from support.relay import RunningRelay, connect, running_relay
from support.relayctl import (
    RELAYCTL,
    answer_once,
    assert_error,
    bind_listener,
    needs_root,
    relayctl,
    relayctl_as_nobody,
    run,
)
from support.waiting import TIMEOUT

STATUS_KEYS = [
    *("version", "pid", "uptime_seconds", "producers", "subscribers"),
    *("records_received", "records_delivered", "records_dropped", "records_rejected"),
    *("records_discarded", "bytes_received", "bytes_delivered", "ring_bytes", "ring_limit_bytes"),
    *("public_socket", "ingest_socket"),
]


def test_status_in_json_equals_the_daemons_status(relay: RunningRelay) -> None:
    with relay.subscribe() as subscriber, relay.produce() as producer:
        producer.sendall(record() * 3 + b"garbage\n")
        relay.wait_status(records_rejected=1)
        subscriber.lines(3)
        done = relayctl(relay.directory, "status", "-f", "json")
        expected = relay.status()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    status = json.loads(done.stdout)
    assert list(status) == STATUS_KEYS
    assert isinstance(status["uptime_seconds"], float)
    assert 0 < status.pop("uptime_seconds") <= expected.pop("uptime_seconds")
    assert status == expected
    assert status["records_delivered"] == 3
    assert status["public_socket"] == os.fspath(relay.public)


def test_other_formats_show_the_same_values(relay: RunningRelay) -> None:
    pid = relay.process.pid

    def show(output_format: str) -> str:
        done = relayctl(
            relay.directory, "status", "-f", output_format, "-c", "pid", "-c", "ring_bytes"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert yaml.safe_load(show("yaml")) == {"pid": pid, "ring_bytes": 0}
    assert show("shell").splitlines() == [f'pid="{pid}"', 'ring_bytes="0"']
    assert show("value").splitlines() == [str(pid), "0"]
    assert re.search(rf"^\| pid +\| {pid} +\|$", show("table"), re.MULTILINE)


def test_table_shows_units(relay: RunningRelay) -> None:
    with relay.subscribe():
        status = relayctl(relay.directory, "status").stdout
        subscribers = relayctl(relay.directory, "subscribers").stdout
    assert re.search(r"^\| uptime_seconds +\| \d:\d\d:\d\d +\|$", status, re.MULTILINE)
    assert re.search(r"^\| records_received +\| 0 records +\|$", status, re.MULTILINE)
    assert re.search(r"^\| ring_limit_bytes +\| 16\.0 MiB +\|$", status, re.MULTILINE)
    assert re.search(r" \| \d:\d\d:\d\d +\| ", subscribers)


def test_control_path_may_follow_the_command(
    directory: Path,
) -> None:
    elsewhere = directory / "elsewhere.sock"
    path = os.fspath(elsewhere)
    with running_relay(directory, "--relayd-control_path", path) as relay:
        done = run(RELAYCTL, "status", "--control-path", path, "-f", "value", "-c", "pid")
        assert done.stdout == f"{relay.process.pid}\n"


def test_producers_lists_one_row_per_producer(relay: RunningRelay) -> None:
    with relay.produce() as producer, relay.produce():
        producer.sendall(record() * 4 + b"garbage\n")
        relay.wait_status(records_rejected=1, producers=2)
        rows = json.loads(relayctl(relay.directory, "producers", "-f", "json").stdout)
    assert [row.pop("connected_seconds") >= 0 for row in rows] == [True, True]
    assert rows[0].pop("id") != rows[1].pop("id")
    peer = {
        "pid": os.getpid(),
        "command": Path("/proc/self/comm").read_text().strip(),
        "user": pwd.getpwuid(os.getuid()).pw_name,
    }
    assert rows[0] == {**peer, "records": 4, "bytes": rows[0]["bytes"], "rejected": 1}
    assert rows[0]["bytes"] >= 4 * len(record())
    assert rows[1] == {**peer, "records": 0, "bytes": 0, "rejected": 0}


def test_subscribers_lists_one_row_per_subscriber(directory: Path) -> None:
    sent = 2000
    with (
        running_relay(directory, "--relayd-ring_size", str(1024 * 1024)) as relay,
        relay.subscribe() as reads,
        relay.subscribe(),
        relay.produce() as producer,
    ):
        for _ in range(sent // 100):
            producer.sendall(record(payload="x" * 1000) * 100)
            reads.lines(100)
        relay.wait_status(records_received=sent)
        done = relayctl(relay.directory, "subscribers", "-f", "json")
    reading, stuck = json.loads(done.stdout)
    assert list(stuck) == [
        *("id", "pid", "command", "user", "connected_seconds"),
        *("records", "bytes", "lag", "dropped", "group"),
    ]
    assert (reading["records"], reading["lag"], reading["dropped"]) == (sent, 0, 0)
    assert stuck["lag"] > 0
    assert stuck["dropped"] > 0
    assert stuck["records"] + stuck["lag"] + stuck["dropped"] == sent


def test_groups_lists_one_row_per_group(relay: RunningRelay) -> None:
    with (
        join(relay, group="a", window=1),
        join(relay, group="a", window=1),
        relay.produce() as producer,
    ):
        join(relay, group="b", hold=119).close()
        producer.sendall(record() * 3)
        relay.wait_status(records_received=3)
        rows = json.loads(relayctl(relay.directory, "groups", "-f", "json").stdout)
        hold = rows[1].pop("hold_seconds")
        arguments = ("--sort-column", "hold_seconds", "-c", "group", "-c", "hold_seconds")
        table = relayctl(relay.directory, "groups", *arguments).stdout
        subscribers = relayctl(relay.directory, "subscribers", "-f", "value", "-c", "group")
    figures = {"redelivered": 0, "dropped": 0, "user": pwd.getpwuid(os.getuid()).pw_name}
    assert rows == [
        {"group": "a", "members": 2, "lag": 1, "unfinished": 2, "hold_seconds": None} | figures,
        {"group": "b", "members": 0, "lag": 3, "unfinished": 0} | figures,
    ]
    assert 0 < hold <= 119
    assert re.search(r"^\| b +\| 0:01:\d\d +\|\n\| a +\| - +\|$", table, re.MULTILINE)
    assert subscribers.stdout == "a\na\n"


@pytest.mark.parametrize("kind", ["producers", "subscribers"])
def test_disconnect_ends_the_connection_with_the_id(relay: RunningRelay, kind: str) -> None:
    path = relay.ingest if kind == "producers" else relay.public
    with connect(path) as ended, connect(path) as stays:
        relay.wait_status(**{kind: 2})
        first, second = relay.request(kind)
        done = relayctl(relay.directory, "disconnect", str(first["id"]))
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(rf"disconnected {kind[:-1]} .*\b{os.getpid()}\b.*\n", done.stdout)
        assert ended.recv(1) == b""
        assert [each["id"] for each in relay.request(kind)] == [second["id"]]
        stays.setblocking(False)
        with pytest.raises(BlockingIOError):
            stays.recv(1)


def test_disconnect_of_an_unknown_id_is_an_error(relay: RunningRelay) -> None:
    assert_error(relayctl(relay.directory, "disconnect", "4711"), 1, "4711")


def test_unknown_column_error_lists_the_columns(relay: RunningRelay) -> None:
    done = relayctl(relay.directory, "subscribers", "-c", "colour")
    assert_error(done, 1, "colour", "connected_seconds")


def test_missing_relay_error_names_the_missing_sockets(directory: Path) -> None:
    done = relayctl(directory, "status")
    assert_error(
        done,
        3,
        "the daemon is not running",
        f"{directory}/notifications.sock does not exist",
        f"{directory}/ingest.sock does not exist",
    )


def test_queries_do_not_connect_to_activating_sockets(directory: Path) -> None:
    with (
        bind_listener(directory / "notifications.sock") as public,
        bind_listener(directory / "ingest.sock") as ingest,
    ):
        for command in ("status", "producers", "subscribers"):
            done = relayctl(directory, command)
            assert_error(done, 3, "notifications.sock exists", "ingest.sock exists")
        for listener in (public, ingest):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_killed_relay_is_reported_as_not_running(relay: RunningRelay) -> None:
    relay.process.kill()
    relay.process.wait(TIMEOUT)
    assert relay.control.is_socket()
    assert_error(relayctl(relay.directory, "status"), 3, "not running", "exists")


@needs_root
def test_denied_permission_error_names_the_group_to_join(relay: RunningRelay) -> None:
    relay.directory.chmod(0o755)
    group = next(each for each in grp.getgrall() if each.gr_gid not in (0, 65534))
    os.chown(relay.control, -1, group.gr_gid)
    done = relayctl_as_nobody(relay.directory, "status")
    user = pwd.getpwuid(65534).pw_name
    assert_error(
        done,
        4,
        os.fspath(relay.control),
        f"usermod -aG {group.gr_name} {user}' as root, then log in again",
    )


@needs_root
@pytest.mark.parametrize(
    ("group", "mode"), [(0, 0o660), (1, 0o600)], ids=["root's group", "no group"]
)
def test_denied_permission_error_suggests_root_without_group(
    relay: RunningRelay, group: int, mode: int
) -> None:
    relay.directory.chmod(0o755)
    os.chown(relay.control, -1, group)
    relay.control.chmod(mode)
    done = relayctl_as_nobody(relay.directory, "status")
    assert_error(done, 4, os.fspath(relay.control), "run it as root")
    assert "usermod" not in done.stderr


@needs_root
def test_inaccessible_directory_is_denied_permission(relay: RunningRelay) -> None:
    done = relayctl_as_nobody(relay.directory, "status")
    assert_error(done, 4, f"you may not enter {relay.directory}")


def test_unresponsive_relay_is_an_error_after_5_seconds(relay: RunningRelay) -> None:
    relay.process.send_signal(signal.SIGSTOP)
    assert_error(relayctl(relay.directory, "status"), 1, "does not answer within 5 seconds")


@pytest.mark.parametrize(
    ("command", "answer", "error"),
    [
        ("status", b"", "closed the connection"),
        ("status", b'{"result": {', "closed the connection"),
        ("status", b"garbage\n", "cannot decode"),
        ("status", b"\xff\xfe\n", "cannot decode"),
        ("status", b"[" * 100_000 + b"\n", "cannot decode"),
        ("status", b"{}\n", "cannot decode"),
        ("status", b'{"result": null}\n', "cannot decode"),
        ("status", b'{"result": {"version": "0.0.1"}}\n', "another version"),
        ("producers", b'{"result": [{"pid": "one"}]}\n', "cannot decode"),
        ("subscribers", b'{"error": "not today"}\n', "refused the request: not today"),
    ],
)
def test_invalid_answer_is_a_one_line_error(
    directory: Path, command: str, answer: bytes, error: str
) -> None:
    with answer_once(directory / "control.sock", answer):
        assert_error(relayctl(directory, command), 1, error)


def test_endless_answer_is_an_error(directory: Path) -> None:
    with answer_once(directory / "control.sock", b"x" * 65536, times=1024):
        assert_error(relayctl(directory, "status"), 1, "cannot decode")


def test_unknown_fields_of_a_newer_daemon_are_ignored(directory: Path) -> None:
    producer = {
        "id": 5,
        "pid": 7,
        "command": "nova",
        "uid": 0,
        "connected_seconds": 1.5,
        "colour": "red",
    }
    answer = json.dumps({"result": [{**producer, "records": 1, "bytes": 2, "rejected": 3}]})
    with answer_once(directory / "control.sock", answer.encode() + b"\n"):
        done = relayctl(directory, "producers", "-f", "value")
    assert done.stdout == f"5 7 nova {pwd.getpwuid(0).pw_name} 1.5 1 2 3\n"


def test_process_name_is_escaped(relay: RunningRelay) -> None:
    program = (
        "import socket, sys; open('/proc/self/comm', 'wb').write(b'\\x1b[2J\\nroot');"
        "peer = socket.socket(socket.AF_UNIX); peer.connect(sys.argv[1]); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, os.fspath(relay.ingest)], stdin=subprocess.PIPE
    ) as process:
        relay.wait_status(producers=1)
        done = relayctl(relay.directory, "producers", "-f", "value", "-c", "command")
        process.communicate()
    assert done.stdout == "\\u001b[2J\\nroot\n"


@pytest.mark.parametrize("command", ["status", "subscribers", "help"])
def test_broken_pipe_prints_no_error(relay: RunningRelay, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [RELAYCTL, "--runtime-dir", os.fspath(relay.directory), command],
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("command", "redirection", "expected"),
    [
        ("status", ">/dev/full", os.strerror(errno.ENOSPC)),
        ("status --help", ">/dev/full", os.strerror(errno.ENOSPC)),
        ("top --batch -n 1 -d 0.01", ">&-", os.strerror(errno.EBADF)),
        ("top -n 1", "<&-", "top requires a terminal"),
        ("send --event-type a", "<&- >&-", ""),
        ("status --control-path /nowhere", "2>/dev/full", ""),
    ],
)
def test_unusable_stream_is_an_error_if_used(
    relay: RunningRelay, command: str, redirection: str, expected: str
) -> None:
    words = [RELAYCTL, "--runtime-dir", os.fspath(relay.directory), *command.split()]
    done = run("sh", "-c", f'"$@" {redirection}', "sh", *words)
    if expected:
        assert_error(done, 1, expected)
    else:
        assert (done.returncode, done.stderr) == (3 if "/nowhere" in command else 0, "")


def test_ctrl_c_ends_it_without_output(directory: Path) -> None:
    with (
        bind_listener(directory / "control.sock") as listener,
        subprocess.Popen(
            [RELAYCTL, "--runtime-dir", os.fspath(directory), "status"], stderr=subprocess.PIPE
        ) as process,
    ):
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(4096) == b'{"method":"status"}\n'
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=TIMEOUT)
    assert error == b""
    assert process.returncode == 128 + signal.SIGINT
