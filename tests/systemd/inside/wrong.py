# SPDX-License-Identifier: Apache-2.0
"""Tests that fail in different ways. test_booted.py checks that the other tests still run."""

import os
import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def failing_set_up() -> None:
    raise RuntimeError("by the test")


@pytest.fixture
def failing_tear_down() -> Iterator[None]:
    yield
    raise RuntimeError("by the test")


def test_failure() -> None:
    pytest.fail("by the test")


def test_failing_set_up(failing_set_up: None) -> None:
    """The fixture fails, so this body does not run."""


def test_failing_tear_down(failing_tear_down: None) -> None:
    """The body passes, and the fixture fails afterwards."""


@pytest.mark.phase_deadline(1)
def test_endless_wait() -> None:
    threading.Event().wait()


def test_exit() -> None:
    os._exit(1)
