# SPDX-License-Identifier: Apache-2.0
"""The handler as the logging module uses it, without a relay."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import notif_relay
from notif_relay import HandlerStats, RelayHandler

MODULES = """
import sys
before = set(sys.modules)
from notif_relay import *
for name in set(sys.modules) - before:
    top = name.partition(".")[0]
    if top not in sys.stdlib_module_names and top != "notif_relay":
        print(name)
"""


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[RelayHandler]:
    handler = RelayHandler(tmp_path / "none")
    yield handler
    handler.close()


@pytest.fixture
def logger(handler: RelayHandler) -> logging.Logger:
    """Return a logger without any other handler."""
    logger = logging.Logger("oslo.messaging.notification")
    logger.addHandler(handler)
    return logger


def test_library_imports_only_the_standard_library() -> None:
    package = Path(notif_relay.__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-S", "-c", MODULES],
        env={**os.environ, "PYTHONPATH": os.fspath(package)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == ""


def test_library_imports_a_module_when_it_is_used() -> None:
    code = "import sys, notif_relay; print(*(m for m in sys.modules if 'notif_relay.' in m))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["notif_relay.version"]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'notif_relay' has no attribute 'RelayHandle'"):
        vars(notif_relay)["__getattr__"]("RelayHandle")
    assert set(notif_relay.__all__) <= set(dir(notif_relay))


def test_library_exports_its_public_names() -> None:
    assert {"RelayHandler", "HandlerStats", "__version__"} <= set(notif_relay.__all__)
    assert all(hasattr(notif_relay, name) for name in notif_relay.__all__)


def test_bad_argument_is_named_and_leaves_no_handler() -> None:
    logging.shutdown()
    with pytest.raises(ValueError, match="max_wait"):
        RelayHandler(max_wait=-1)
    # Fails or prints if logging still has a partly initialised handler.
    logging.shutdown()


def test_statistics_start_at_zero(handler: RelayHandler) -> None:
    assert handler.stats() == HandlerStats(sent=0, dropped=0, reconnects=0, connected=False)


def test_statistics_are_read_only(handler: RelayHandler) -> None:
    with pytest.raises(AttributeError):
        handler.stats().sent = 1  # type: ignore[misc]


def test_missing_relay_causes_no_error(
    handler: RelayHandler, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.warning("{}")
    assert handler.stats().dropped == 1
    assert capsys.readouterr().err == ""


def test_oversized_record_is_one_warning(
    handler: RelayHandler, logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    logger.warning("x" * 1048576)
    assert handler.stats().dropped == 1
    (warning,) = caplog.messages
    assert "a record of 1048577 bytes was dropped" in warning
    assert len(warning) < 300


@pytest.mark.parametrize("message", ["%d", "{} %s %s"])
def test_formatting_error_is_reported_not_raised(
    message: str, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.warning(message, "x")
    assert "--- Logging error ---" in capsys.readouterr().err


def test_errors_are_silent_without_raise_exceptions(
    handler: RelayHandler,
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.warning("x" * 1048576)
    assert capsys.readouterr().err == ""
    assert handler.stats().dropped == 1


def test_filtered_record_is_not_counted_as_dropped(
    handler: RelayHandler, logger: logging.Logger
) -> None:
    handler.setLevel(logging.ERROR)
    logger.warning("{}")
    handler.setLevel(logging.NOTSET)
    handler.addFilter(lambda record: record.levelno > logging.WARNING)
    logger.warning("{}")
    assert handler.stats().dropped == 0
    logger.error("{}")
    assert handler.stats().dropped == 1


def test_repr_shows_the_path(handler: RelayHandler, tmp_path: Path) -> None:
    assert repr(handler) == f"<RelayHandler {tmp_path}/none (NOTSET)>"
