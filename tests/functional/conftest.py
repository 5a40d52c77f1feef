# SPDX-License-Identifier: Apache-2.0
"""A running relay for each test that wants one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from running import RunningRelay, running_relay


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, because a socket's path may have 107 bytes only."""
    with tempfile.TemporaryDirectory(prefix="relay-") as path:
        yield Path(path)


@pytest.fixture
def relay(directory: Path) -> Iterator[RunningRelay]:
    with running_relay(directory) as relay:
        yield relay
