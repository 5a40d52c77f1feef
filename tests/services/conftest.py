# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests with real services: a directory and a relay."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.relay import RunningRelay, running_relay


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a temporary directory with a short path: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="relay-") as path:
        yield Path(path)


@pytest.fixture
def relay(directory: Path) -> Iterator[RunningRelay]:
    with running_relay(directory) as relay:
        yield relay
