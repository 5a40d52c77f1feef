# SPDX-License-Identifier: Apache-2.0
"""A relay or a socket in its place, for each test that wants one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.private_socket import PrivateSocket
from support.relay import RunningRelay, running_relay
from support.scripts import Scripts


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, because a socket's path may have 107 bytes only."""
    with tempfile.TemporaryDirectory(prefix="relay-") as path:
        yield Path(path)


@pytest.fixture
def relay(directory: Path) -> Iterator[RunningRelay]:
    with running_relay(directory) as relay:
        yield relay


@pytest.fixture
def private(directory: Path) -> Iterator[PrivateSocket]:
    """A private socket that the test itself reads."""
    with PrivateSocket(directory / "ingest.sock") as private:
        yield private


@pytest.fixture
def scripts() -> Iterator[Scripts]:
    """Starts programs, and ends those that are left."""
    with Scripts() as scripts:
        yield scripts
