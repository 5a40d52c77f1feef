# SPDX-License-Identifier: Apache-2.0
"""Sockets that share the pages of a batch get the same bytes as sockets that get a copy."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notif_relayd.fanout.shared_pages import MIN_SHARED_SIZE, MIN_SHARED_SOCKETS, SharedPages

SOCKETS = 3
ALL = 1 << 20


@contextlib.contextmanager
def pairs(number: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Yield pairs of connected, non-blocking sockets."""
    with contextlib.ExitStack() as stack:
        made = [socket.socketpair() for _ in range(number)]
        for pair in made:
            for each in pair:
                stack.enter_context(each)
                each.setblocking(False)
        yield made


@contextlib.contextmanager
def limited(resource_id: int, limit: int) -> Iterator[None]:
    before = resource.getrlimit(resource_id)
    resource.setrlimit(resource_id, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource_id, before)


def read(connection: socket.socket, size: int = ALL) -> bytes:
    """Read at most `size` bytes without waiting."""
    pieces = []
    with contextlib.suppress(BlockingIOError):
        while size:
            piece = connection.recv(size)
            pieces.append(piece)
            size -= len(piece)
    return b"".join(pieces)


def batch_of(size: int, seed: int) -> bytes:
    """Return bytes in which no two pages are equal, neither to those of another seed."""
    numbers = b"".join(b"%d:%d," % (seed, number) for number in range(size // 4))
    return numbers[:size]


# Around the end of a page, several rounds of the kernel's pipe (64 KiB), more than a socket holds.
sizes = st.sampled_from(
    [MIN_SHARED_SIZE, MIN_SHARED_SIZE + 1, 5 * 4096 - 1, 65536, 65537, 200_000, 500_000]
)
steps = st.tuples(sizes, st.lists(st.integers(0, 300_000), min_size=SOCKETS, max_size=SOCKETS))


@given(steps=st.lists(steps, max_size=6))
def test_queued_data_is_not_changed_by_later_batches(
    steps: list[tuple[int, list[int]]],
) -> None:
    """Sockets are read between batches, so that some hold old batches or parts of them."""
    pages = SharedPages()
    taken = [b""] * SOCKETS
    got = [b""] * SOCKETS
    with pairs(SOCKETS) as sockets:
        for number, (size, reads) in enumerate(steps):
            batch = batch_of(size, number)
            send = pages.sender(batch, MIN_SHARED_SOCKETS)
            for each, (ours, _) in enumerate(sockets):
                with contextlib.suppress(BlockingIOError):
                    taken[each] += batch[: send(ours)]
            for each, (_, theirs) in enumerate(sockets):
                got[each] += read(theirs, reads[each])
        for each, (_, theirs) in enumerate(sockets):
            got[each] += read(theirs)
    assert got == taken


@pytest.mark.parametrize(
    ("size", "sockets", "shared"),
    [
        (MIN_SHARED_SIZE, MIN_SHARED_SOCKETS, True),
        (MIN_SHARED_SIZE - 1, MIN_SHARED_SOCKETS, False),
        (MIN_SHARED_SIZE, MIN_SHARED_SOCKETS - 1, False),
    ],
)
def test_only_large_batches_for_many_are_shared(size: int, sockets: int, shared: bool) -> None:
    pages = SharedPages()
    assert pages.usable
    send = pages.sender(batch_of(size, 1), sockets)
    # A shared batch changes when the next one is written to the file.
    pages.sender(batch_of(MIN_SHARED_SIZE, 2), MIN_SHARED_SOCKETS)
    with pairs(1) as [(ours, theirs)]:
        send(ours)
        assert read(theirs) == (batch_of(size, 2) if shared else batch_of(size, 1))


def test_send_errors_equal_those_of_a_copy() -> None:
    pages = SharedPages()
    batch = batch_of(1_000_000, 1)
    with pairs(2) as [(full, _), (open_, reader)]:
        send = pages.sender(batch, MIN_SHARED_SOCKETS)
        assert send(full) < len(batch)
        with pytest.raises(BlockingIOError):
            send(full)
        reader.close()
        with pytest.raises(BrokenPipeError):
            send(open_)


def test_missing_descriptor_disables_sharing_with_a_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with limited(resource.RLIMIT_NOFILE, 0):
        pages = SharedPages()
    assert not pages.usable
    assert "cannot share memory between sockets" in caplog.text
    assert "Too many open files" in caplog.text
    with pairs(1) as [(ours, theirs)]:
        assert (
            pages.sender(batch_of(MIN_SHARED_SIZE, 1), MIN_SHARED_SOCKETS)(ours) == MIN_SHARED_SIZE
        )
        assert read(theirs) == batch_of(MIN_SHARED_SIZE, 1)


def test_batch_is_copied_when_the_file_cannot_grow() -> None:
    pages = SharedPages()
    with limited(resource.RLIMIT_FSIZE, 8192):
        send = pages.sender(batch_of(MIN_SHARED_SIZE, 1), MIN_SHARED_SOCKETS)
    with pairs(1) as [(ours, theirs)]:
        assert send(ours) == MIN_SHARED_SIZE
        assert read(theirs) == batch_of(MIN_SHARED_SIZE, 1)


def test_file_is_closed_with_its_owner() -> None:
    before = os.listdir("/proc/self/fd")
    pages = SharedPages()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    del pages
    assert os.listdir("/proc/self/fd") == before
