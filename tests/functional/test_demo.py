# SPDX-License-Identifier: Apache-2.0
"""Tests of the demonstration: its output, its error detection and its cleanup."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.waiting import TIMEOUT, wait_until

ROOT = Path(__file__).parents[2]


class Demo:
    """One run, identified by the value of TMPDIR in the environment of its processes."""

    def __init__(self, directory: Path, path: str) -> None:
        self._directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "docs/examples/demo/run.py"],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": os.fspath(directory), "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"the output does not contain {text!r}")

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit status, stdout and stderr."""
        output, errors = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, output, errors

    def remains(self) -> list[str]:
        """Return the remaining files, and the command lines of the remaining processes."""
        mark = b"TMPDIR=" + os.fsencode(self._directory)
        processes = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in environ.read_bytes().split(b"\0"):
                    processes.append(environ.with_name("cmdline").read_text())
        return processes + [os.fspath(each) for each in self._directory.iterdir()]


@contextlib.contextmanager
def demo(directory: Path, path: str | None = None) -> Iterator[Demo]:
    running = Demo(directory, os.environ["PATH"] if path is None else path)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def test_demo_relays_300_notifications(directory: Path) -> None:
    with demo(directory) as running:
        exit_status, output, errors = running.finish()
        assert (exit_status, errors) == (0, "")
        assert running.remains() == []
    assert "has received all 300 notifications" in output
    for event_type in ("compute.instance.create.end", "volume.attach.end", "port.create.end"):
        assert f'"event_type": "{event_type}"' in " ".join(output.split())
    assert '"auth_password": "***"' in " ".join(output.split())
    assert "| records_delivered | 600" in output
    assert "| records_dropped   | 0" in output


@pytest.mark.parametrize(
    "step", ["1.", "2.", "3.", "$ python docs/examples/demo/services.py", "5."]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_demo_removes_files_and_processes(
    directory: Path, step: str, number: signal.Signals
) -> None:
    with demo(directory) as running:
        running.wait_for(step)
        running.process.send_signal(number)
        exit_status, _, errors = running.finish()
        assert exit_status == 130
        assert errors == "Interrupted; everything is stopped and removed.\n"
        assert running.remains() == []


def test_demo_exits_silently_when_stdout_is_closed(directory: Path) -> None:
    with demo(directory) as running:
        assert running.process.stdout is not None
        running.process.stdout.close()
        assert running.process.stderr is not None
        assert running.process.stderr.read() == ""
        assert running.process.wait(TIMEOUT) == 141
        assert running.remains() == []


def test_missing_nc_is_reported(directory: Path) -> None:
    with demo(directory, path="") as running:
        exit_status, _, errors = running.finish()
        assert (exit_status, errors) == (1, "The demonstration failed: nc is not installed\n")
        assert running.remains() == []


def test_error_of_the_relay_is_quoted(directory: Path) -> None:
    too_long = directory / ("x" * 100)
    too_long.mkdir()
    with demo(too_long) as running:
        exit_status, _, errors = running.finish()
        assert exit_status == 1
        assert errors.startswith("The demonstration failed: the relay has exited: ")
        assert "use a shorter path" in errors
        assert running.remains() == []


@pytest.mark.parametrize(
    ("nc_filter", "error"),
    [
        ("head -n 100", "nc has received 100 of 300 notifications"),
        ("sed -u s/web-7/web-8/", "nc and subscriber.py have not received the same"),
        ("sed -u p", "nc and subscriber.py have not received the same"),
    ],
)
def test_missing_or_altered_records_are_detected(
    directory: Path, tmp_path: Path, nc_filter: str, error: str
) -> None:
    nc = tmp_path / "nc"
    nc.write_text(f'#!/bin/sh\n/usr/bin/env PATH={os.environ["PATH"]} nc "$@" | {nc_filter}\n')
    nc.chmod(0o755)
    with demo(directory, path=f"{tmp_path}:{os.environ['PATH']}") as running:
        exit_status, _, errors = running.finish()
        assert (exit_status, errors) == (1, f"The demonstration failed: {error}\n")
        # The wrapped nc is not a child of the demonstration; it ends when the relay disconnects it.
        wait_until(lambda: not running.remains(), "all files and processes are gone")
