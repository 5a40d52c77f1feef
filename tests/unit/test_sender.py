# SPDX-License-Identifier: Apache-2.0
"""The sender without a relay: refused arguments, dropped records, and connection attempts."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relay.connection import MAX_PATH_SIZE
from notif_relay.errors import RecordTooLarge, RelayError
from notif_relay.escaping import shown
from notif_relay.sender import MIN_RECORD_SIZE, Sender


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Attempts:
    """Records the times at which this process tries to connect.

    The audit hook cannot be removed; `listening` turns it off.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.times: list[float] = []
        self.listening = True
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _arguments: object) -> None:
        if self.listening and event == "socket.connect":
            self.times.append(self.clock.now)


@pytest.fixture
def attempts() -> Iterator[Attempts]:
    attempts = Attempts()
    yield attempts
    attempts.listening = False


@pytest.mark.parametrize("path", [b"/run/ingest.sock", 3, None])
def test_wrong_type_of_path_is_refused(path: str) -> None:
    with pytest.raises(TypeError, match="path must be"):
        Sender(path)


@pytest.mark.parametrize("path", ["", "\0abstract", "/run/a\0b", "\ud800"])
def test_path_without_file_name_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path must be"):
        Sender(path)


def test_path_length_is_limited_by_the_kernel(tmp_path: Path) -> None:
    assert Sender("/" + "x" * (MAX_PATH_SIZE - 1)).path.endswith("x")
    with pytest.raises(ValueError, match="path must be at most 107 bytes"):
        Sender("/" + "x" * MAX_PATH_SIZE)
    # The limit is in bytes, not in characters.
    with pytest.raises(ValueError, match="path must be at most 107 bytes"):
        Sender("/" + "ä" * (MAX_PATH_SIZE // 2 + 1))


def test_relative_path_is_resolved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Sender(Path("ingest.sock")).path == os.fspath(tmp_path / "ingest.sock")


@pytest.mark.parametrize("max_wait", [-0.001, math.nan, math.inf, 1e300, 10**5000], ids=shown)
def test_invalid_max_wait_is_refused(max_wait: float) -> None:
    with pytest.raises(ValueError, match="max_wait must be"):
        Sender(max_wait=max_wait)


def test_wrong_type_of_max_wait_is_refused() -> None:
    with pytest.raises(TypeError, match="max_wait must be"):
        Sender(max_wait="0.01")  # type: ignore[arg-type]


def test_too_small_max_record_size_is_refused() -> None:
    Sender(max_record_size=MIN_RECORD_SIZE)
    with pytest.raises(ValueError, match="max_record_size must be at least 32 bytes"):
        Sender(max_record_size=MIN_RECORD_SIZE - 1)


@pytest.mark.parametrize("max_record_size", [1e6, "1048576", None])
def test_wrong_type_of_max_record_size_is_refused(max_record_size: int) -> None:
    with pytest.raises(TypeError, match="max_record_size must be"):
        Sender(max_record_size=max_record_size)


def test_oversized_record_is_refused_and_counted(tmp_path: Path) -> None:
    sender = Sender(tmp_path / "none", max_record_size=100)
    with pytest.raises(RecordTooLarge, match=r"101 bytes.*100 bytes") as caught:
        sender.send("x" * 100)
    assert isinstance(caught.value, RelayError)
    assert (caught.value.size, caught.value.limit) == (101, 100)
    assert (sender.sent, sender.dropped) == (0, 1)


def test_size_limit_counts_bytes_and_one_newline(tmp_path: Path) -> None:
    clock = Clock()
    sender = Sender(tmp_path / "none", max_record_size=100, clock=clock)
    for fitting in ("x" * 99, "x" * 99 + "\n", "ä" * 49):
        sender.send(fitting)
        clock.now += 10
    with pytest.raises(RecordTooLarge):
        sender.send("ä" * 50)
    assert sender.dropped == 4


def test_invalid_utf8_is_refused_and_counted(tmp_path: Path) -> None:
    sender = Sender(tmp_path / "none")
    with pytest.raises(UnicodeEncodeError):
        sender.send('{"half": "\ud83d"}')
    assert sender.dropped == 1


def test_records_without_a_relay_are_counted_as_dropped(tmp_path: Path) -> None:
    sender = Sender(tmp_path / "none")
    for _ in range(10):
        sender.send("{}")
    assert (sender.sent, sender.dropped, sender.connects) == (0, 10, 0)
    assert not sender.connected


def test_connect_backoff_grows_to_one_second(tmp_path: Path, attempts: Attempts) -> None:
    sender = Sender(tmp_path / "none", clock=attempts.clock)
    tick = 1 / 64
    for _ in range(300):
        sender.send("{}")
        attempts.clock.now += tick
    # The first ticks after pauses of 0.1, 0.2, 0.4 and 0.8 seconds, and then of 1 second each.
    assert [time / tick for time in attempts.times] == [0, 7, 20, 46, 98, 162, 226, 290]
    assert sender.dropped == 300


def test_backoff_resets_after_a_long_silence(tmp_path: Path, attempts: Attempts) -> None:
    sender = Sender(tmp_path / "none", clock=attempts.clock)
    for moment in (0.0, 0.15, 0.4, 60.0, 60.15):
        attempts.clock.now = moment
        sender.send("{}")
    assert attempts.times == [0.0, 0.15, 0.4, 60.0, 60.15]


def test_close_does_not_reset_the_backoff(tmp_path: Path, attempts: Attempts) -> None:
    sender = Sender(tmp_path / "none", clock=attempts.clock)
    sender.send("{}")
    sender.flush()
    sender.close()  # one more attempt, because the process may end
    sender.send("{}")
    assert attempts.times == [0.0, 0.0]


def test_no_connect_before_the_first_record(tmp_path: Path, attempts: Attempts) -> None:
    sender = Sender(tmp_path / "none", clock=attempts.clock)
    sender.flush()
    sender.close()
    assert attempts.times == []
