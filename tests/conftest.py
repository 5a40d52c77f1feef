# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures for all tests.

Each phase of a test has a deadline (support/deadlines.py) far above its duration on a busy machine.
Hypothesis sets no deadline of its own. Started processes buffer their output, as services do.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from oslo_context import context

from support import descriptors
from support.deadlines import (  # noqa: F401 - hooks and a fixture of pytest
    no_thread_is_left,
    pytest_addoption,
    pytest_configure,
    pytest_runtest_call,
    pytest_runtest_setup,
    pytest_runtest_teardown,
    pytest_sessionfinish,
    pytest_unconfigure,
)
from support.relay import RunningRelay, running_relay

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

os.environ.pop("PYTHONUNBUFFERED", None)

descriptors.raise_limit()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a temporary directory with a short path: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="relay-") as path:
        yield Path(path)


@pytest.fixture
def relay(directory: Path) -> Iterator[RunningRelay]:
    with running_relay(directory) as relay:
        yield relay


@pytest.fixture
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo at the end what oslo.log changes in this process.

    With the request context of another test, oslo.log would use another format.
    """
    monkeypatch.setattr(context, "_request_store", threading.local())
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
