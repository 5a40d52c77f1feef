# SPDX-License-Identifier: Apache-2.0
"""The daemon in the background: --daemonize returns when it is ready, or with its error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.records import record
from support.relay import connect, quiet_environment
from support.waiting import TIMEOUT, wait_until

Completed = subprocess.CompletedProcess[str]


def daemonize(directory: Path, *arguments: str, redirections: str = "") -> Completed:
    """Start a daemon from a shell that redirects standard streams, and return the result."""
    return subprocess.run(
        [
            *("sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-m", "notif_relayd"),
            *("--daemonize", "--runtime-dir", os.fspath(directory)),
            *("--log-file", os.fspath(directory / "relay.log"), *arguments),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env=quiet_environment(),
    )


@contextlib.contextmanager
def stopped_at_the_end(pid: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.kill(pid, signal.SIGTERM)
        # The directory of a process that has ended, but was not waited for, is empty.
        wait_until(lambda: not Path(f"/proc/{pid}/cwd").exists(), "the daemon has ended")


def has_failed(done: Completed, *words: str) -> bool:
    """Return whether the status is 1 and the error one line with these words."""
    (line,) = done.stderr.splitlines()
    return done.returncode == 1 and all(each in line for each in ("notif-relayd: ", *words))


def test_daemon_is_ready_when_the_command_returns(directory: Path) -> None:
    pidfile = directory / "pid"
    pidfile.write_text(f"{os.getpid()}\n")  # of a process that is no relay
    done = daemonize(directory, "--pidfile", os.fspath(pidfile))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(pidfile.read_text())
    with stopped_at_the_end(pid):
        with connect(directory / "notifications.sock") as subscriber:
            with connect(directory / "control.sock") as control:
                control.sendall(b'{"method": "subscribers"}\n')
                assert json.loads(control.recv(4096))["result"]
            with connect(directory / "ingest.sock") as producer:
                producer.sendall(record())
            assert subscriber.recv(4096) == record()
        assert os.getsid(pid) != os.getsid(0)
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
        elsewhere = directory / "elsewhere"
        elsewhere.mkdir()
        for again in (directory, elsewhere):
            assert has_failed(daemonize(again, "--pidfile", os.fspath(pidfile)), str(pid))
        assert int(pidfile.read_text()) == pid
    assert not pidfile.exists()
    assert not list(directory.glob("*.sock"))
    assert "stopped" in (directory / "relay.log").read_text()


@pytest.mark.parametrize("redirections", ["<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_stay_unused(directory: Path, redirections: str) -> None:
    pidfile = directory / "pid"
    done = daemonize(directory, "--pidfile", os.fspath(pidfile), redirections=redirections)
    assert done.returncode == 0
    pid = int(pidfile.read_text())
    with stopped_at_the_end(pid):
        assert {Path(f"/proc/{pid}/fd/{n}").readlink() for n in range(3)} == {Path("/dev/null")}
        with (
            connect(directory / "notifications.sock") as subscriber,
            connect(directory / "ingest.sock") as producer,
        ):
            subscriber.sendall(b'{"filter": {}}\n')
            assert b"notif_relayd.subscribed" in subscriber.recv(4096)
            producer.sendall(record())
            assert subscriber.recv(4096) == record()


def test_error_in_the_background_is_reported(directory: Path) -> None:
    """The daemon writes the pidfile, so this error occurs after the fork."""
    done = daemonize(directory, "--pidfile", "/dev/full")
    assert has_failed(done, "--pidfile /dev/full", "No space left on device")
    assert done.stdout == ""
    assert [each.name for each in directory.iterdir()] == ["relay.log"]


def test_process_id_is_written_to_standard_output(directory: Path) -> None:
    done = daemonize(directory, "--pidfile", "-")
    assert done.returncode == 0
    with stopped_at_the_end(int(done.stdout)):
        assert not (directory / "-").exists()


def test_logging_file_that_uses_only_stderr_is_an_error(directory: Path) -> None:
    config = directory / "log.conf"
    config.write_text(
        "[loggers]\nkeys = root\n[handlers]\nkeys = h\n[formatters]\nkeys =\n"
        "[logger_root]\nhandlers = h\n[handler_h]\nclass = StreamHandler\nargs = ()\n"
    )
    done = daemonize(directory, "--log-config-append", os.fspath(config))
    assert has_failed(done, os.fspath(config), "the log would be lost")
    assert has_failed(daemonize(directory, "--log-file", "-"), "the log would be lost")
