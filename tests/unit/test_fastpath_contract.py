# SPDX-License-Identifier: Apache-2.0
"""The contract of the fast path, as the head of `notif_relayd.fastpath` states it."""

from __future__ import annotations

import ast
import contextlib
import errno
import inspect
import select
import socket
import sys
from collections.abc import Iterator, Sequence

import pytest

from notif_relayd import _native, fastpath
from notif_relayd.fastpath import FastPath
from notif_relayd.net.loop import READ, Events
from notif_relayd.records.validator import RoutingKey, Validator

RECORD = b'{"event_type": "a.b", "priority": "INFO"}\n'
ROUTING_KEY = ("a.b", "INFO", "")
MAX_RECORD_SIZE = 4096
MATCHING_TIME = 0.25
NO_THRESHOLD = 1 << 30


class Recipient:
    """A subscriber: one end of a connection, and the other end to read from."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.socket, self.peer = _connection(stack)


class Ends:
    """A source and a sink that note the calls they get, in order."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.read_size = 1 << 16
        self.rules = Validator(MAX_RECORD_SIZE).rules
        self.server, self.producer = _connection(stack)
        self.steady = {self.server.fileno(): "producer"}
        self.recipients = [Recipient(stack) for _ in range(3)]
        self.max_records = [sys.maxsize] * 3
        self.threshold = NO_THRESHOLD
        self.calls: list[tuple[object, ...]] = []
        self._epoll = stack.enter_context(contextlib.closing(select.epoll()))
        self._epoll.register(self.server, READ)
        self._fast_path = FastPath(_native)
        self._fast_path.connect(self, self)

    def wait(self) -> Events:
        """Wait once; return the events that are left."""
        _, events = self._fast_path.wait(self._epoll.fileno(), 0.0)
        return events

    def fast_recipients(self, limit: int) -> tuple[list[Recipient], list[int], int]:
        assert limit >= len(self.recipients)
        self.calls.append(("fast_recipients",))
        return self.recipients, self.max_records, self.threshold

    def publish(
        self,
        batch: bytes,
        routing_keys: list[RoutingKey],
        recipients: Sequence[Recipient],
        results: Sequence[int | None],
    ) -> float:
        assert recipients is self.recipients
        self.calls.append(("publish", batch, routing_keys, results))
        return MATCHING_TIME

    def count(self, producer: str, size: int, records: int) -> None:
        self.calls.append(("count", producer, size, records))

    def account(self, producer: str, seconds: float) -> None:
        self.calls.append(("account", producer, seconds))

    def take(self, producer: str, data: bytes) -> None:
        self.calls.append(("take", producer, data))


def _connection(stack: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    ends = socket.socketpair()
    for each in ends:
        stack.enter_context(each)
        each.setblocking(False)
    return ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    with contextlib.ExitStack() as stack:
        yield Ends(stack)


def test_valid_batch_is_counted_published_and_accounted(ends: Ends) -> None:
    batch = RECORD * 2
    ends.producer.send(batch)
    assert ends.wait() == []
    assert ends.calls == [
        ("fast_recipients",),
        ("count", "producer", len(batch), 2),
        ("publish", batch, [ROUTING_KEY] * 2, [len(batch)] * 3),
        ("account", "producer", MATCHING_TIME),
    ]
    assert [each.peer.recv(1 << 16) for each in ends.recipients] == [batch] * 3


def test_result_of_a_recipient_with_too_little_room_is_none(ends: Ends) -> None:
    ends.max_records = [2, 1, 0]
    ends.producer.send(RECORD * 2)
    ends.wait()
    assert ("publish", RECORD * 2, [ROUTING_KEY] * 2, [2 * len(RECORD), None, None]) in ends.calls


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_results_are_in_the_order_of_recipients(ends: Ends, order: tuple[int, ...]) -> None:
    full, gone, open_ = ends.recipients
    with contextlib.suppress(BlockingIOError):
        while True:
            full.socket.send(bytes(1000))
    gone.peer.close()
    results = {full: -errno.EAGAIN, gone: -errno.EPIPE, open_: len(RECORD)}
    ends.recipients = [ends.recipients[place] for place in order]
    ends.producer.send(RECORD)
    ends.wait()
    assert ends.calls[2] == (
        "publish",
        RECORD,
        [ROUTING_KEY],
        [results[each] for each in ends.recipients],
    )


def test_batch_at_the_threshold_is_published_without_results(ends: Ends) -> None:
    ends.threshold = len(RECORD)
    ends.producer.send(RECORD)
    assert ends.wait() == []
    assert ends.calls[2] == ("publish", RECORD, [ROUTING_KEY], [])
    for each in ends.recipients:
        with pytest.raises(BlockingIOError):
            each.peer.recv(1)


@pytest.mark.parametrize("data", [b"{}\n", RECORD + b"{}\n", RECORD[:-1], RECORD + b"{"])
def test_other_bytes_are_given_to_the_source(ends: Ends, data: bytes) -> None:
    ends.producer.send(data)
    assert ends.wait() == []
    assert ends.calls == [("fast_recipients",), ("take", "producer", data)]


def test_producer_that_is_not_steady_is_not_read(ends: Ends) -> None:
    ends.steady.clear()
    ends.producer.send(RECORD)
    assert ends.wait() == [(ends.server.fileno(), READ)]
    assert ends.calls == [("fast_recipients",)]
    assert ends.server.recv(1 << 16) == RECORD


def test_fast_path_imports_neither_intake_nor_fanout() -> None:
    tree = ast.parse(inspect.getsource(fastpath))
    imported = {each.module for each in ast.walk(tree) if isinstance(each, ast.ImportFrom)}
    parts = {name.split(".")[1] for name in imported if name and name.startswith("notif_relayd.")}
    assert parts <= {"net", "records"}
