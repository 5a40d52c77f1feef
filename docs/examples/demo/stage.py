# SPDX-License-Identifier: Apache-2.0
"""The temporary directory and the processes of the demonstration.

Both are removed however the demonstration ends: normally, by an error, at the time limit or by a
signal. Therefore signals are blocked while a resource is created or removed. Each process has its
own session, so that Ctrl-C reaches only the demonstration, which then stops the processes.
"""

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

TIME_LIMIT = 12
"""Maximum duration in seconds. Stopping the processes takes the remainder of the documented 15."""

STOP_TIMEOUT = 2.5
"""Maximum time for a process to exit, in seconds. The relay sends pending records for two."""

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM}


class DemoError(Exception):
    """A step of the demonstration failed; the message is one sentence."""


class Stage:
    """The temporary directory, and the processes that are started in it."""

    def __init__(self, directory: Path, resources: contextlib.ExitStack) -> None:
        self.directory = directory
        self.log = directory / "log"
        """File with the stderr of the processes."""
        self._resources = resources

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a process with its stdout connected to a pipe.

        Raises:
            DemoError: the command does not exist.
        """
        with _signals_blocked(), self.log.open("ab") as log:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_unblock_signals,  # noqa: PLW1509 - there are no other threads
                )
            except FileNotFoundError:
                raise DemoError(f"{command[0]} is not installed") from None
            self._resources.callback(stop, process)
        return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process; kill it if it has not exited after `STOP_TIMEOUT`."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Provide a stage for at most `TIME_LIMIT` seconds.

    Raises:
        DemoError: the time limit is exceeded.
        KeyboardInterrupt: a signal asks the demonstration to stop.
    """
    for number in SIGNALS:
        signal.signal(number, _on_signal)
    signal.alarm(TIME_LIMIT)
    resources = contextlib.ExitStack()
    try:
        with _signals_blocked():
            temporary = tempfile.TemporaryDirectory(prefix="notif-relayd-")
            directory = Path(resources.enter_context(temporary))
        yield Stage(directory, resources)
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        finally:
            resources.close()


def _on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    # Block further signals: from here on, the resources are being removed.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if number == signal.SIGALRM:
        raise DemoError(f"not done after {TIME_LIMIT} seconds")
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        _unblock_signals()


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
