# SPDX-License-Identifier: Apache-2.0
"""The limit of open files: raised for the tests, and as low as anywhere for what they start.

A shell and a service have a soft limit of 1024 on Debian and Ubuntu. Some tests hold more
descriptors than that, so pytest raises its own soft limit. A relay is started with the usual limit
and has to raise it by itself.
"""

from __future__ import annotations

import resource

import pytest

USUAL = 1024
"""Soft limit of a process on Debian and Ubuntu."""

ENOUGH = 20_000
"""More descriptors than any test opens."""


def raise_limit() -> None:
    """Raise this process's soft limit to ENOUGH, or to the hard limit if that is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(ENOUGH, hard)), hard))


def require(number: int) -> None:
    """Skip the calling test if this process may not open `number` files."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < number:
        pytest.skip(f"the process may open {allowed} files, and this test needs {number}")


def with_usual_limit(*command: str) -> list[str]:
    """The command with the usual soft limit, or with the hard limit if that is lower."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ["prlimit", f"--nofile={min(USUAL, hard)}:", *command]
