# SPDX-License-Identifier: Apache-2.0
"""Threads that run during a test, and their states."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from support.waiting import TIMEOUT, wait_until


@contextlib.contextmanager
def in_thread(target: Callable[[], object]) -> Iterator[int | None]:
    """Run `target` in a thread during the block; yield its ident and check that it ends."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        yield thread.ident
    finally:
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def wait_until_blocked(ident: int | None) -> None:
    """Wait until a thread is blocked in a call that the library makes.

    A thread counts as blocked if its innermost frame belongs to the library and is at the same
    instruction in two successive polls of `wait_until`.

    Args:
        ident: the identifier of the thread.
    """
    previous: tuple[int, int] | None = None

    def is_blocked() -> bool:
        nonlocal previous
        frame = sys._current_frames().get(ident or 0)  # noqa: SLF001 (documented in the manual)
        if frame is None or not frame.f_globals["__name__"].startswith("notif_relay."):
            previous = None
            return False
        before, previous = previous, (id(frame), frame.f_lasti)
        return previous == before

    wait_until(is_blocked, "the thread is blocked")


def voluntary_switches(thread: threading.Thread) -> int:
    """Return how often a thread of this process has gone to sleep."""
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
