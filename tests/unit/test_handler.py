# SPDX-License-Identifier: Apache-2.0
"""The handler as logging sees it, without a relay."""

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
import notif_relay
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
    """A logger that no other handler hears."""
    logger = logging.Logger("oslo.messaging.notification")
    logger.addHandler(handler)
    return logger


def test_the_library_imports_nothing_but_the_standard_library() -> None:
    package = Path(notif_relay.__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-S", "-c", MODULES],
        env={**os.environ, "PYTHONPATH": os.fspath(package)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == ""


def test_the_library_exports_what_it_promises() -> None:
    assert {"RelayHandler", "HandlerStats", "__version__"} <= set(notif_relay.__all__)
    assert all(hasattr(notif_relay, name) for name in notif_relay.__all__)


def test_a_bad_argument_is_an_error_that_names_it_and_leaves_no_handler_behind() -> None:
    logging.shutdown()
    with pytest.raises(ValueError, match="max_wait"):
        RelayHandler(max_wait=-1)
    # It would fail, or print, if half a handler were in logging's list.
    logging.shutdown()


def test_a_new_handler_has_done_nothing(handler: RelayHandler) -> None:
    assert handler.stats() == HandlerStats(sent=0, dropped=0, reconnects=0, connected=False)


def test_stats_cannot_be_changed(handler: RelayHandler) -> None:
    with pytest.raises(AttributeError):
        handler.stats().sent = 1  # type: ignore[misc]


def test_a_missing_relay_is_silent(
    handler: RelayHandler, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.warning("{}")
    assert handler.stats().dropped == 1
    assert capsys.readouterr().err == ""


def test_a_record_too_large_is_reported_as_logging_reports_errors(
    handler: RelayHandler, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logger.warning("x" * 1048576)
    assert handler.stats().dropped == 1
    assert "a record of 1048577 bytes was dropped" in capsys.readouterr().err


@pytest.mark.parametrize("message", ["%d", "\ud83d", "{} %s %s"])
def test_a_message_that_cannot_be_made_is_reported_and_not_raised(
    message: str, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("x",) if "%" in message else ()
    logger.warning(message, *arguments)
    assert "--- Logging error ---" in capsys.readouterr().err


def test_errors_are_silent_when_logging_is_told_so(
    handler: RelayHandler,
    logger: logging.Logger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.warning("x" * 1048576)
    assert capsys.readouterr().err == ""
    assert handler.stats().dropped == 1


def test_a_handler_below_its_level_or_filtered_drops_nothing(
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


def test_its_representation_says_where_it_sends(handler: RelayHandler, tmp_path: Path) -> None:
    assert repr(handler) == f"<RelayHandler {tmp_path}/none (NOTSET)>"
