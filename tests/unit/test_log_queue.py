# SPDX-License-Identifier: Apache-2.0
"""A failing log handler does not stop the log, and control characters are escaped in it."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayd.daemon.log_queue import LogQueue


class Lines(logging.Handler):
    """Stores the messages; raises `error` for those that contain "bad"."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._error = error

    def emit(self, record: logging.LogRecord) -> None:
        if self._error is not None and "bad" in record.getMessage():
            raise self._error
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def log_through(handler: logging.Handler) -> Iterator[logging.Logger]:
    """Yield a logger whose queue writes to `handler`; the queue is empty after the block."""
    log = logging.getLogger("test_log_queue")
    log.propagate = False
    log.handlers[:] = [handler]
    before = logging.getLogger().handlers[:]
    writer = LogQueue()
    writer.take_over()
    try:
        yield log
        assert writer.close()
    finally:
        log.handlers.clear()
        logging.getLogger().handlers[:] = before


@pytest.mark.parametrize(
    "error", [OSError(105, "no buffer"), ValueError("\x1b[31m"), SystemExit(1)]
)
def test_failing_handler_does_not_stop_the_log(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = Lines(error)
    with log_through(handler) as log:
        for text in ("one", "bad", "bad", "three", "four"):
            log.warning(text)
    assert handler.lines[:2] == ["one", "three"]
    assert handler.lines[2].startswith("2 log lines were dropped")
    assert handler.lines[3:] == ["four"]
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert type(error).__name__ in stderr
    assert "\x1b" not in stderr


def test_standard_handler_fails_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    closed = io.StringIO()
    closed.close()
    with log_through(logging.StreamHandler(closed)) as log:
        log.warning("one")
        log.warning("two")
    stderr = capsys.readouterr().err
    assert stderr.startswith("cannot write a log line: StreamHandler raised ValueError(")
    assert stderr.count("\n") == 1


def test_failing_handler_without_a_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = Lines(OSError())
    monkeypatch.setattr(sys, "stderr", None)
    with log_through(handler) as log:
        log.warning("bad")
        log.warning("good")
    assert handler.lines[0] == "good"


@pytest.mark.parametrize("text", ["\x1b[31m", "a\nb", "\r", "\x9b1m", "\u202e", "\udcff"])
def test_control_characters_are_escaped(text: str) -> None:
    handler = Lines()
    with log_through(handler) as log:
        log.warning("%s", text)
        log.warning(text)
    assert all(line.isprintable() for line in handler.lines)
    assert handler.lines[0] == handler.lines[1] != text


def test_argument_without_text_is_reported() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("odd")

    handler = Lines()
    with log_through(handler) as log:
        log.warning("this is %s", Odd())
    assert handler.lines == ["this is %s (cannot format its arguments: RuntimeError('odd'))"]


def test_characters_that_the_encoding_lacks_are_escaped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = logging.FileHandler(path, encoding="latin-1")
    with contextlib.closing(handler), log_through(handler) as log:
        log.warning("from %s", "日é")
    assert path.read_text("latin-1") == "from \\u65e5é\n"
