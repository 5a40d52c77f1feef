# SPDX-License-Identifier: Apache-2.0
"""A deadline for each phase of each test, and a check that the test ends its threads.

A test that hangs fails, with the stacks of all threads on standard error. Set-up, call and
tear-down each have a deadline. pytest-timeout has one timer for all three; it does not interrupt a
tear-down that hangs after the test has hung.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from types import FrameType

import pytest

INTERVAL = 10.0
"""Seconds between interruptions after the deadline, in case the clean-up hangs as well."""

JOIN_TIMEOUT = 10.0
"""Seconds that a thread may take to end after the test that started it."""

_unfinished: list[threading.Thread] = []
_exit_status = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("phase_deadline", "seconds that a phase of a test may take", default="300")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "phase_deadline(seconds): the time that each phase of this test may take"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    with _deadline(item, "set-up"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    with _deadline(item, "test"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    with _deadline(item, "tear-down"):
        return (yield)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread running, because pytest would not end."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + JOIN_TIMEOUT
    started = [each for each in set(threading.enumerate()) - before if not each.daemon]
    for thread in started:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread for thread in started if thread.is_alive()]
    _unfinished.extend(left)
    assert not left, f"still running: {', '.join(thread.name for thread in left)}"


def pytest_sessionfinish(exitstatus: int) -> None:
    global _exit_status  # noqa: PLW0603 - there is one session
    _exit_status = exitstatus


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Exit at once if a thread of a test still runs; the interpreter would wait for it."""
    if any(thread.is_alive() for thread in _unfinished):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(_exit_status)


@contextlib.contextmanager
def _deadline(item: pytest.Item, phase: str) -> Iterator[None]:
    marker = item.get_closest_marker("phase_deadline")
    seconds = float(marker.args[0] if marker else item.config.getini("phase_deadline"))

    def expire(_signal: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
        pytest.fail(f"the {phase} did not end within {seconds:g} s")

    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread can receive signals.
        return
    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds, INTERVAL)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
