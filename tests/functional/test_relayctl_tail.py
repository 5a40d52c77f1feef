# SPDX-License-Identifier: Apache-2.0
"""relayctl tail in pipes and in a terminal, also over restarts of the relay."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from notif_relay import records
from support.records import record
from support.relay import RunningRelay, running_relay
from support.relayctl import RELAYCTL, assert_error, needs_root, relayctl, relayctl_as_nobody
from support.terminal import CTRL_C, Terminal
from support.waiting import TIMEOUT


def command(relay: RunningRelay, *arguments: str, name: str = "tail") -> list[str]:
    return [RELAYCTL, "--runtime-dir", os.fspath(relay.directory), name, *arguments]


@contextlib.contextmanager
def tailing(
    relay: RunningRelay, *arguments: str, name: str = "tail"
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command(relay, *arguments, name=name),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
    )
    watchdog = threading.Timer(TIMEOUT, process.kill)  # ends a read that blocks
    watchdog.start()
    with process:
        try:
            relay.wait_subscribed()
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode()


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    """Wait for the end; return the exit status and the remaining output."""
    out, error = process.communicate(timeout=TIMEOUT)
    return process.returncode, out.decode(), error.decode()


def send(relay: RunningRelay, *lines: bytes) -> None:
    with relay.produce() as producer:
        producer.sendall(b"".join(lines))


@pytest.mark.parametrize("name", ["tail", "watch"])
def test_pipe_gets_each_line_at_once(relay: RunningRelay, name: str) -> None:
    with tailing(relay, name=name) as process, relay.produce() as producer:
        for number in range(3):
            producer.sendall(record("a.b", publisher_id="x", payload={"n": number, "t": "y" * 500}))
            assert line(process) == f'- INFO  x a.b {{"n": {number}, "t": "{"y" * 500}"}}\n'


def test_json_is_byte_for_byte_and_count_ends_it(relay: RunningRelay) -> None:
    sent = [record("a", number=number, name="høst") for number in range(1000)]
    with tailing(relay, "-o", "json", "-n", "1000") as process:
        send(relay, *sent, record("beyond"))
        assert finish(process) == (0, b"".join(sent).decode(), "")


def test_only_records_matching_all_options_are_shown(relay: RunningRelay) -> None:
    wanted = ("--event-type", "compute.*", "--event-type", "volume.?", "--priority", "error")
    memory = {"memory_mb": 512}
    patterns = ("instance.host=cmp-*", "instance.memory_mb=512", '{"instance": {"host": ["gpu"]}}')
    payload = [f"--payload={pattern}" for pattern in patterns]
    with tailing(
        relay, *wanted, *payload, "--publisher", "host-1:*", "-o", "{event_type}", "-n", "2"
    ) as process:
        sent = (
            ("port.create", "ERROR", "host-1:a", "cmp-1"),
            ("compute.create", "INFO", "host-1:a", "cmp-1"),
            ("compute.create", "ERROR", "host-2:a", "cmp-1"),
            ("compute.other", "ERROR", "host-1:a", "net-1"),
            ("compute.create", "ERROR", "host-1:a", "cmp-1"),
            ("volume.xx", "ERROR", "host-1:a", "cmp-1"),
            ("volume.x", "ERROR", "host-1:a", "gpu"),
        )
        lines = (
            record(*kind, publisher_id=publisher, payload={"instance": {"host": host} | memory})
            for *kind, publisher, host in sent
        )
        send(relay, *lines)
        assert finish(process) == (0, "compute.create\nvolume.x\n", "")


def test_template_is_applied_to_each_record(relay: RunningRelay) -> None:
    with tailing(relay, "-o", "{event_type}: {payload[uuid]}", "-n", "2") as process:
        send(relay, record("a", payload={"uuid": "i-1"}), record("b"))
        assert finish(process) == (0, "a: i-1\nb: -\n", "")


def test_gap_is_a_separate_line_and_not_counted(relay: RunningRelay) -> None:
    gap = records.gap(12, "producer_congested")
    with tailing(relay, "-o", "{event_type}", "-n", "2") as process:
        send(relay, record("a"), gap, record("b"))
        assert finish(process) == (0, "a\n-- gap: 12 dropped (producer_congested) --\nb\n", "")


def test_group_continues_after_what_was_written(relay: RunningRelay) -> None:
    group = ("-o", "{number}", "--group", "g", "--window", "5", "--hold", "60")
    with tailing(relay, *group, "-n", "2") as process:
        send(relay, *(record(number=number) for number in range(4)))
        assert finish(process) == (0, "0\n1\n", "")
    assert relayctl(relay.directory, "tail", *group, "-n", "2").stdout == "2\n3\n"


def test_slow_tail_shows_the_number_of_lost_records(directory: Path) -> None:
    number = 3000
    with running_relay(directory, "--relayd-ring_size", str(1024 * 1024)) as relay:
        with tailing(relay, "-o", "json", "--event-type", "test.*") as process:
            process.send_signal(signal.SIGSTOP)
            send(relay, *(record(payload="x" * 2000) for _ in range(number)))
            relay.wait_status(records_received=number)
            process.send_signal(signal.SIGCONT)
            lines: list[dict[str, Any]] = []
            while len(lines) < number:
                lines.append(json.loads(line(process)))
                if lines[-1]["event_type"] == records.GAP:
                    number -= lines[-1]["payload"]["dropped"] - 1
        assert number < 3000


def test_duration_ends_it(relay: RunningRelay) -> None:
    with subprocess.Popen(
        command(relay, "--for", "0.2"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert finish(process) == (0, "", "")


def test_duration_ends_it_with_a_suspended_relay(relay: RunningRelay) -> None:
    relay.process.send_signal(signal.SIGSTOP)
    assert relayctl(relay.directory, "tail", "--for", "0.2").returncode == 0


def test_ctrl_c_ends_it_without_output(relay: RunningRelay) -> None:
    with tailing(relay) as process:
        process.send_signal(signal.SIGINT)
        assert finish(process) == (130, "", "")


def test_closed_stdout_ends_it_without_output(relay: RunningRelay) -> None:
    with tailing(relay) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        send(relay, record())
        assert process.wait(TIMEOUT) == 141
        assert process.stderr.read() == b""


def test_reconnect_shows_a_gap(
    directory: Path,
) -> None:
    with running_relay(directory) as first, tailing(first, "-o", "{event_type}") as process:
        send(first, record("before"))
        assert line(process) == "before\n"
        assert first.stop() == 0
        (directory / "notify.sock").unlink()
        with running_relay(directory) as second:
            second.wait_subscribed()
            send(second, record("after"))
            assert line(process) == "-- gap: an unknown number dropped (relay_restarted) --\n"
            assert line(process) == "after\n"


def test_no_reconnect_ends_it_with_the_relay(relay: RunningRelay) -> None:
    with tailing(relay, "--no-reconnect") as process:
        assert relay.stop() == 0
        status, out, error = finish(process)
    assert (status, out) == (3, "")
    assert re.fullmatch(rf"relayctl: no connection to the relay at {relay.public}: [^\n]+\n", error)


def test_stale_socket_prints_that_tail_waits(relay: RunningRelay) -> None:
    relay.process.kill()
    relay.process.wait(TIMEOUT)
    assert relay.public.is_socket()
    with subprocess.Popen(
        command(relay, "-n", "1", "-o", "json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            message = process.stderr.readline()
            assert message == f"relayctl: waiting for a relay at {relay.public}\n"
            (relay.directory / "notify.sock").unlink()
            with running_relay(relay.directory) as again:
                again.wait_subscribed()
                send(again, record("after"))
                out, more = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    assert (out.encode(), more) == (record("after"), "")


@pytest.mark.parametrize("options", [[], ["--no-reconnect"]])
def test_missing_relay_is_an_error(directory: Path, options: list[str]) -> None:
    done = relayctl(directory, "tail", *options)
    assert_error(done, 3, f" relay at {directory}/notifications.sock: ")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-o", "jsn"], "unknown format 'jsn'"),
        (["-o", "{payload.x}"], "invalid template '{payload.x}'"),
        (["-n", "0"], "argument -n/--count: '0' is not a whole number"),
        (["--for", "nan"], "argument --for: 'nan' is not a number of seconds"),
        (["--event-type", "x" * 257], "257 characters"),
        (["--sock-path", "/" + "x" * 200], "at most 107 bytes"),
        (["--group", "a b"], "group must be 1 to 64 characters"),
        (["--window", "3"], "window must be used with group"),
    ],
)
def test_invalid_argument_is_a_one_line_error(
    relay: RunningRelay, arguments: list[str], error: str
) -> None:
    assert_error(relayctl(relay.directory, "tail", *arguments), 1, error)


def test_hold_above_the_limit_is_refused(relay: RunningRelay) -> None:
    done = relayctl(relay.directory, "tail", "--group", "g", "--hold", "1000")
    assert_error(done, 4, "the limit is max_hold = 300 seconds")


@needs_root
def test_denied_permission_is_an_error(relay: RunningRelay) -> None:
    relay.directory.chmod(0o755)
    relay.public.chmod(0o600)
    done = relayctl_as_nobody(relay.directory, "tail")
    assert_error(done, 4, f"may not connect to {relay.public}")


@contextlib.contextmanager
def tailing_in_terminal(
    relay: RunningRelay,
    *arguments: str,
    columns: int = 60,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Terminal]:
    with Terminal(
        *command(relay, *arguments), columns=columns, environment=environment
    ) as terminal:
        relay.wait_subscribed()
        yield terminal


def test_terminal_shows_errors_red_and_warnings_yellow(relay: RunningRelay) -> None:
    with tailing_in_terminal(relay, "-o", "{event_type}") as terminal:
        send(relay, record("plain"), record("failed", "error"), record("odd", "WARN"), record("z"))
        terminal.wait_for(r"z\r\n")
        assert terminal.output == "plain\r\n\x1b[31mfailed\x1b[m\r\n\x1b[33modd\x1b[m\r\nz\r\n"


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_disabled(relay: RunningRelay, variable: dict[str, str]) -> None:
    with tailing_in_terminal(relay, "-o", "{event_type}", environment=variable) as terminal:
        send(relay, record("failed", "ERROR"), record("z"))
        terminal.wait_for(r"z\r\n")
        assert terminal.output == "failed\r\nz\r\n"


def test_json_has_no_colours_in_a_terminal(relay: RunningRelay) -> None:
    with tailing_in_terminal(relay, "-o", "json") as terminal:
        send(relay, record("failed", "ERROR"))
        terminal.wait_for(r"}\r\n")
        assert terminal.output.encode() == record("failed", "ERROR")[:-1] + b"\r\n"


def test_lines_are_truncated_at_the_terminal_width(relay: RunningRelay) -> None:
    with tailing_in_terminal(relay) as terminal:
        send(
            relay,
            record("long.one", payload="x" * 100),
            record("wide.one", payload="日" * 50),
            record("short.one"),
        )
        terminal.wait_for(r"short.one -\r\n")
        first, wide, second, _ = terminal.screen.split("\r\n")
        assert len(first) == 60
        assert first.endswith("x…")
        assert wide == f"- INFO  - wide.one {'日' * 20}…"
        assert second == "- INFO  - short.one -"


def test_lines_are_whole_if_the_width_is_unknown(relay: RunningRelay) -> None:
    with tailing_in_terminal(relay, columns=0) as terminal:
        send(relay, record("long.one", payload="x" * 100))
        terminal.wait_for(r"x\r\n")
        assert terminal.output == f"- INFO  - long.one {'x' * 100}\r\n"


def test_record_cannot_control_the_terminal(relay: RunningRelay) -> None:
    with tailing_in_terminal(relay) as terminal:
        send(relay, record("a\x1b[2Jb", "IN\x07FO", payload="\x9b2J"), record("z"))
        terminal.wait_for(r" z -\r\n")
        assert "\x1b" not in terminal.output
        assert "\x07" not in terminal.output
        assert r"a\u001b[2Jb \u009b2J" in terminal.output


def test_ctrl_c_in_a_terminal_ends_it_without_output(relay: RunningRelay) -> None:
    with tailing_in_terminal(relay) as terminal:
        terminal.press(CTRL_C)
        assert terminal.finish() == 130
        assert terminal.output in ("", "^C")
        assert terminal.is_restored()
