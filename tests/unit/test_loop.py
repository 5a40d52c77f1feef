# SPDX-License-Identifier: Apache-2.0
"""The event loop: events, hangups, urgent descriptors and deadlines."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial

import pytest

from notif_relayd.net.loop import HANGUP, PAUSED, READ, WRITE, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    pipes = [os.pipe() for _ in range(3)]
    yield pipes
    for fd in {fd for pipe in pipes for fd in pipe}:
        os.close(fd)


def test_callback_gets_the_events(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    (reader, writer), _, _ = pipes
    seen: list[tuple[str, int]] = []
    loop.watch(reader, READ, lambda events: seen.append(("reader", events)))
    loop.watch(writer, WRITE, lambda events: seen.append(("writer", events)))
    loop.run_once()
    assert seen == [("writer", WRITE)]
    loop.change(writer, 0)
    os.write(writer, b"x")
    loop.run_once()
    assert seen[1:] == [("reader", READ)]
    loop.forget(reader)
    loop.change(writer, WRITE)
    loop.run_once()
    assert seen[2:] == [("writer", WRITE)]


def test_paused_descriptor_reports_hangup_once(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    (reader, writer), _, _ = pipes
    seen: list[int] = []
    loop.watch(reader, READ, seen.append)
    loop.change(reader, PAUSED)
    os.write(writer, b"x")
    loop.call_in(0, lambda: None)
    loop.run_once()
    assert not seen
    os.dup2(pipes[1][1], writer)  # Closes the only writing end.
    for _ in range(3):
        loop.call_in(0, lambda: None)
        loop.run_once()
    (events,) = seen
    assert events & HANGUP
    assert not events & READ
    loop.change(reader, READ)
    loop.run_once()
    assert seen[1:] == [events | READ]


def test_event_is_not_delivered_to_a_reused_descriptor(
    loop: Loop, pipes: list[tuple[int, int]]
) -> None:
    """The first of two ready descriptors closes the other, and its number is used again."""
    calls: list[str] = []
    readers = [reader for reader, _ in pipes[:2]]

    def first(number: int) -> None:
        other = readers[1 - number]
        loop.forget(other)
        loop.forget(readers[number])
        os.dup2(pipes[2][0], other)  # Closes `other`; an idle pipe gets its number.
        loop.watch(other, READ, lambda _: calls.append("the successor"))
        calls.append("the first")

    for number, reader in enumerate(readers):
        os.write(pipes[number][1], b"x")
        loop.watch(reader, READ, lambda _, number=number: first(number))  # type: ignore[misc]
    loop.run_once()
    assert calls == ["the first"]
    os.write(pipes[2][1], b"x")
    loop.run_once()
    assert calls == ["the first", "the successor"]


def test_only_urgent_descriptors_are_served_early(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    seen: list[str] = []
    (reader, writer), (other, _), _ = pipes

    def urgent(_events: int) -> None:
        os.read(reader, 1)
        seen.append("urgent")

    loop.watch(reader, READ, urgent, urgent=True)
    os.write(writer, b"x")
    loop.run_once()
    assert seen == ["urgent"]
    loop.serve_urgent()
    assert seen == ["urgent"]
    os.write(writer, b"x")
    os.write(pipes[1][1], b"x")
    loop.watch(other, READ, lambda _: seen.append("other"))
    loop.serve_urgent()
    assert seen == ["urgent", "urgent"]
    loop.change(reader, 0)
    os.write(writer, b"x")
    loop.serve_urgent()
    loop.run_once()
    assert seen == ["urgent", "urgent", "other"]
    loop.change(reader, READ)
    loop.forget(reader)
    loop.serve_urgent()
    loop.run_once()
    assert seen[3:] == ["other"]


def test_hangup_is_reported_without_other_events(loop: Loop, pipes: list[tuple[int, int]]) -> None:
    (reader, writer), _, _ = pipes
    seen: list[int] = []
    loop.watch(reader, 0, seen.append)
    os.dup2(pipes[1][1], writer)  # Closes the only writing end.
    loop.run_once()
    assert seen[0] & HANGUP


def test_deadlines_are_called_in_order(loop: Loop) -> None:
    calls: list[str] = []
    loop.call_in(0.02, lambda: calls.append("later"))
    loop.call_in(0.01, lambda: calls.append("sooner"))
    loop.call_in(0, lambda: calls.append("now"))
    while len(calls) < 3:
        loop.run_once()
    assert calls == ["now", "sooner", "later"]


def test_cancelled_deadline_is_not_called(loop: Loop) -> None:
    calls: list[str] = []
    deadlines = [loop.call_in(0, partial(calls.append, name)) for name in "abc"]
    loop.cancel(deadlines[1])
    loop.run_once()
    assert calls == ["a", "c"]


def test_deadline_may_schedule_another(loop: Loop) -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(1)
        if len(calls) < 3:
            loop.call_in(0.001, again)

    loop.call_in(0, again)
    while len(calls) < 3:
        loop.run_once()
    assert calls == [1, 1, 1]


def test_iteration_starts_after_the_wait(loop: Loop) -> None:
    called: list[float] = []
    asleep = time.monotonic()
    loop.call_in(0.01, lambda: called.append(time.monotonic()))
    awake = loop.run_once()
    assert asleep + 0.01 <= awake <= called[0]
