# SPDX-License-Identifier: Apache-2.0
"""The relay keeps relaying records when its log cannot be written."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.records import numbered_record
from support.relay import RunningRelay, Subscriber, connect, run_daemon
from support.waiting import TIMEOUT, wait_until

NUMBER = 100


@contextlib.contextmanager
def relay_with_stderr(
    directory: Path, stderr: int | None, *arguments: str, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a relay with this descriptor as its stderr; None closes stderr."""
    command = [sys.executable, "-m", "notif_relayd", "--runtime-dir", os.fspath(directory)]
    if stderr is None:
        command = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(os.fspath(directory / "notify.sock"))
        notify.settimeout(TIMEOUT)
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={
                **os.environ,
                "NOTIFY_SOCKET": os.fspath(directory / "notify.sock"),
                **environment,
            },
        )
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            yield process
        finally:
            process.kill()
            process.wait()


def assert_relays(directory: Path) -> None:
    """Check that all records arrive while the relay logs rejected records between them."""
    with Subscriber(directory / "notifications.sock") as subscriber:
        subscriber.socket.sendall(b'{"filter": {}}\n')
        assert subscriber.notification()["event_type"] == "notif_relayd.subscribed"
        with connect(directory / "ingest.sock") as producer:
            for number in range(NUMBER):
                producer.sendall(b"no record\n" + numbered_record(number, 200))
                assert subscriber.line() == numbered_record(number, 200)


def assert_stops(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT) == 0


def full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 65536)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    return reader, writer


def test_unread_stderr_does_not_stop_the_relay(directory: Path) -> None:
    reader, writer = full_pipe()
    try:
        with relay_with_stderr(directory, writer, "--debug") as process:
            for _ in range(3):
                process.send_signal(signal.SIGHUP)
                assert_relays(directory)
            assert_stops(process)
    finally:
        os.close(reader)
        os.close(writer)


def test_dropped_log_lines_are_counted_in_the_log(
    directory: Path,
) -> None:
    reader, writer = full_pipe()
    try:
        with relay_with_stderr(directory, writer, "--debug") as process:
            os.close(writer)
            for _ in range(1100):  # each logs two lines, and the queue holds 1000
                with connect(directory / "notifications.sock") as subscriber:
                    assert subscriber.fileno() > 0
            assert_relays(directory)
            log = bytearray()

            def drop_is_logged() -> bool:
                log.extend(os.read(reader, 1 << 20))
                return b"log lines were dropped" in log

            wait_until(drop_is_logged, "the log reports dropped lines")
            assert b"relaying from" in log
            assert_stops(process)
    finally:
        os.close(reader)


def test_stderr_without_reader_does_not_stop_the_relay(directory: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        with relay_with_stderr(directory, writer) as process:
            assert_relays(directory)
            assert_stops(process)
    finally:
        os.close(writer)


def test_closed_stderr_does_not_stop_the_relay(directory: Path) -> None:
    with relay_with_stderr(directory, None) as process:
        assert_relays(directory)
        assert_stops(process)


def test_missing_journal_does_not_stop_the_relay(directory: Path) -> None:
    if os.path.exists("/run/systemd/journal/socket"):
        pytest.skip("this host has a journal")
    with (directory / "stderr").open("wb") as stderr:
        stat = os.fstat(stderr.fileno())
        journal = f"{stat.st_dev}:{stat.st_ino}"
        with relay_with_stderr(directory, stderr.fileno(), JOURNAL_STREAM=journal) as process:
            assert_relays(directory)
            assert_stops(process)


def test_log_file_on_a_full_disk_does_not_stop_the_relay(directory: Path) -> None:
    with (directory / "stderr").open("wb") as stderr:
        arguments = ("--log-file", "/dev/full")
        with relay_with_stderr(directory, stderr.fileno(), *arguments) as process:
            assert_relays(directory)
            assert_stops(process)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "missing.conf"),
        ("nonsense", "log.conf"),
        ("[loggers]\nkeys=root\n", "log.conf"),
        (
            "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n"
            "[logger_root]\nlevel=LOUD\nhandlers=h\n[handler_h]\nclass=StreamHandler\nargs=()\n",
            "LOUD",
        ),
        (
            "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n"
            "[logger_root]\nhandlers=h\n[handler_h]\nclass=no.such.Handler\nargs=()\n",
            "no",
        ),
    ],
)
def test_invalid_log_configuration_is_an_error_at_start(
    directory: Path, content: str | None, words: str
) -> None:
    path = directory / ("missing.conf" if content is None else "log.conf")
    if content is not None:
        path.write_text(content)
    result = run_daemon("--runtime-dir", os.fspath(directory), "--log-config-append", str(path))
    assert result.returncode == 1
    assert result.stderr.startswith("notif-relayd: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_invalid_log_configuration_is_not_reloaded(
    directory: Path,
) -> None:
    log = directory / "the.log"
    config = directory / "log.conf"
    text = (
        "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=\n"
        "[logger_root]\nlevel=INFO\nhandlers=file\n"
        f"[handler_file]\nclass=FileHandler\nargs=('{log}', 'w')\n"
    )
    config.write_text(text)
    relay = RunningRelay(directory, "--log-config-append", os.fspath(config))
    try:
        relay.wait_ready()
        for broken in (
            "nonsense",
            "[loggers]\nkeys=root,other\n",
            text.replace("INFO", "LOUD"),
            None,
        ):
            before = log.read_text().count("was not reloaded")
            if broken is None:
                config.unlink()
            else:
                config.write_text(broken)
                os.utime(config, ns=(1, before))
            relay.process.send_signal(signal.SIGHUP)
            wait_until(
                lambda: log.read_text().count("was not reloaded") > before,  # noqa: B023
                "the log has the error",
            )
            assert_relays(directory)
        assert relay.stop() == 0
    finally:
        relay.close()


def test_bridge_without_stderr_logs_to_standard_output(directory: Path) -> None:
    """The file in place of the status socket ends the bridge after its first log line."""
    config = directory / "b.conf"
    config.write_text(
        f"[bridge]\ntarget = nats://127.0.0.1:1\nspool = {directory}/s\nstatus_socket = {config}\n"
    )
    command = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "notif_relayd_bridge"]
    done = subprocess.run(
        [*command, "--config-file", config], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert "bridge b: sending notifications from" in done.stdout
