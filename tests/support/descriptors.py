# SPDX-License-Identifier: Apache-2.0
"""The open files of the test process, and their limit.

A shell and a service have a soft limit of 1024 open files on Debian and Ubuntu. Some tests hold
more descriptors, so pytest raises its own soft limit. A relay is started with the usual limit and
has to raise it by itself.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import pytest

USUAL_LIMIT = 1024
"""Soft limit of a process on Debian and Ubuntu."""

RAISED_LIMIT = 20_000
"""More descriptors than any test opens."""


def raise_limit() -> None:
    """Raise this process's soft limit to RAISED_LIMIT, or to the hard limit if that is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(RAISED_LIMIT, hard)), hard))


def require(number: int) -> None:
    """Skip the calling test if this process may not open `number` files."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < number:
        pytest.skip(f"the process may open {allowed} files, and this test needs {number}")


def with_usual_limit(*command: str) -> list[str]:
    """Return the command with the usual soft limit, or with the hard limit if that is lower."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ["prlimit", f"--nofile={min(USUAL_LIMIT, hard)}:", *command]


@contextlib.contextmanager
def no_free_descriptor() -> Iterator[None]:
    """Let this process open nothing until the end of the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_sockets() -> list[str]:
    """Return the names of this process's open sockets, which contain their inode numbers."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the directory itself
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(name for name in found if name.startswith("socket:"))
