# SPDX-License-Identifier: Apache-2.0
"""Where the demonstration takes place: a directory and some processes, all gone when it is over.

That holds however it ends: by itself, by an error, at its time limit, by Ctrl-C. So a signal only
ever interrupts what can be interrupted: it is held back while something is made that has to be
removed, and while it is removed. The processes have sessions of their own, because Ctrl-C is to
reach this one alone, which then ends the others.
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
"""Seconds; what is left of the 15 that are promised is for ending the processes."""

STOP_TIME = 2.5
"""Seconds that a process gets to end; the relay drains for two."""

SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM}


class DemoError(Exception):
    """One sentence: what did not work."""


class Stage:
    """The directory, and what is started in it."""

    def __init__(self, directory: Path, resources: contextlib.ExitStack) -> None:
        self.directory = directory
        self.log = directory / "log"
        """What the processes have to say beside their output."""
        self._resources = resources

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a process whose output is read here.

        Raises:
            DemoError: there is no such command.
        """
        with _signals_held_back(), self.log.open("ab") as log:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=_let_signals_through,  # noqa: PLW1509 - there is one thread only
                )
            except FileNotFoundError:
                raise DemoError(f"{command[0]} is not installed") from None
            self._resources.callback(stop, process)
        return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, by force if it takes too long."""
    process.terminate()
    try:
        process.wait(STOP_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """A stage for `TIME_LIMIT` seconds at most.

    Raises:
        DemoError: the time is over.
        KeyboardInterrupt: somebody wants it to end.
    """
    for number in SIGNALS:
        signal.signal(number, _on_signal)
    signal.alarm(TIME_LIMIT)
    resources = contextlib.ExitStack()
    try:
        with _signals_held_back():
            temporary = tempfile.TemporaryDirectory(prefix="notif-relayd-")
            directory = Path(resources.enter_context(temporary))
        yield Stage(directory, resources)
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        finally:
            resources.close()


def _on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    # One is enough: from here on everything is being cleared away.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if number == signal.SIGALRM:
        raise DemoError(f"not done after {TIME_LIMIT} seconds")
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        _let_signals_through()


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
