# SPDX-License-Identifier: Apache-2.0
"""A memory limit for processes, as `MemoryMax=` in a unit sets it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup")


class MemoryCgroup:
    """A control group, version 1 or 2, whose memory is limited to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        first = (V1 / "memory.limit_in_bytes").exists()
        self.path = (V1 if first else V2) / f"notif-relayd-test-{os.getpid()}"
        self.path.mkdir()
        try:
            names = ("limit_in_bytes", "memsw.limit_in_bytes") if first else ("max", "swap.max")
            for name, value in zip(names, (limit, limit if first else 0), strict=True):
                with contextlib.suppress(FileNotFoundError):  # The kernel may not account swap.
                    (self.path / f"memory.{name}").write_text(str(value))
        except OSError:
            self.path.rmdir()
            raise
        self.procs = self.path / "cgroup.procs"
        self._events = "memory.oom_control" if first else "memory.events"

    @property
    def kills(self) -> int:
        """Number of processes that the kernel has killed because of the limit."""
        lines = (self.path / self._events).read_text().splitlines()
        return sum(int(each.split()[1]) for each in lines if each.startswith("oom_kill "))


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[MemoryCgroup]:
    """Yield a control group whose processes must end before the block does.

    Skip the calling test if no control group can be made.

    Args:
        limit: Memory limit in bytes.
    """
    try:
        group = MemoryCgroup(limit)
    except OSError as error:
        pytest.skip(f"cannot make a control group: {error}")
    try:
        yield group
    finally:
        group.path.rmdir()
