# SPDX-License-Identifier: Apache-2.0
"""The demonstration shows what it promises, notices what is wrong, and leaves nothing behind."""

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
    """One run, whose temporary files, and processes, can be told from all others."""

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
        raise AssertionError(f"it never says {text!r}")

    def finish(self) -> tuple[int, str, str]:
        """Exit status, output and complaints, once it is over."""
        output, complaints = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, output, complaints

    def remains(self) -> list[str]:
        """What is left of it: files, and processes that have its temporary directory."""
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
        exit_status, output, complaints = running.finish()
        assert (exit_status, complaints) == (0, "")
        assert running.remains() == []
    assert "has received all 300 notifications" in output
    for event_type in ("compute.instance.create.end", "volume.attach.end", "port.create.end"):
        assert f'"event_type": "{event_type}"' in " ".join(output.split())
    assert '"auth_password": "***"' in " ".join(output.split())
    assert "| records_delivered | 600" in output
    assert "| records_dropped   | 0" in output


@pytest.mark.parametrize(
    "moment", ["1.", "2.", "3.", "$ python docs/examples/demo/services.py", "5."]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_demo_removes_files_and_processes(
    directory: Path, moment: str, number: signal.Signals
) -> None:
    with demo(directory) as running:
        running.wait_for(moment)
        running.process.send_signal(number)
        exit_status, _, complaints = running.finish()
        assert exit_status == 130
        assert complaints == "Interrupted; everything is stopped and removed.\n"
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
        exit_status, _, complaints = running.finish()
        assert (exit_status, complaints) == (1, "The demonstration failed: nc is not installed\n")
        assert running.remains() == []


def test_error_of_the_relay_is_quoted(directory: Path) -> None:
    too_long = directory / ("x" * 100)
    too_long.mkdir()
    with demo(too_long) as running:
        exit_status, _, complaints = running.finish()
        assert exit_status == 1
        assert complaints.startswith("The demonstration failed: the relay has exited: ")
        assert "use a shorter public path" in complaints
        assert running.remains() == []


@pytest.mark.parametrize(
    ("filtered", "complaint"),
    [
        ("head -n 100", "nc has received 100 of 300 notifications"),
        ("sed -u s/web-7/web-8/", "nc and subscriber.py have not received the same"),
        ("sed -u p", "nc and subscriber.py have not received the same"),
    ],
)
def test_missing_or_altered_records_are_detected(
    directory: Path, tmp_path: Path, filtered: str, complaint: str
) -> None:
    nc = tmp_path / "nc"
    nc.write_text(f'#!/bin/sh\n/usr/bin/env PATH={os.environ["PATH"]} nc "$@" | {filtered}\n')
    nc.chmod(0o755)
    with demo(directory, path=f"{tmp_path}:{os.environ['PATH']}") as running:
        exit_status, _, complaints = running.finish()
        assert (exit_status, complaints) == (1, f"The demonstration failed: {complaint}\n")
        # The wrapped nc is not the demonstration's own process, but ends with the relay.
        wait_until(lambda: not running.remains(), "nothing is left")
