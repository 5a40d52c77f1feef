# SPDX-License-Identifier: Apache-2.0
"""The sender with a relay that is missing, starts, stops and starts again."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relay import records
from notif_relay.refusal import MAX_ANSWER, RefusalLog, sentence_in
from notif_relay.sender import Sender
from support.other_user import as_nobody
from support.private_socket import PrivateSocket
from support.records import numbered_text
from support.scripts import Scripts


class Clock:
    """A clock that stands still unless the test sets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(directory: Path) -> Path:
    return directory / "ingest.sock"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sender(path: Path, clock: Clock) -> Iterator[Sender]:
    sender = Sender(path, max_wait=0, clock=clock)
    yield sender
    sender.close()


def test_gap_record_counts_records_dropped_without_relay(
    path: Path, clock: Clock, sender: Sender
) -> None:
    for number in range(5):
        sender.send(numbered_text(number))
    with PrivateSocket(path) as private:
        clock.now = 0.05  # before the next attempt to connect
        sender.send(numbered_text(5))
        assert not private.has_pending()
        clock.now = 0.125
        sender.send(numbered_text(6))
        with private.accept() as incoming:
            gap = json.loads(incoming.line())
            assert gap["payload"] == {"dropped": 6, "reason": "relay_restarted"}
            assert json.loads(incoming.line())["number"] == 6
    assert (sender.sent, sender.dropped, sender.connects) == (1, 6, 1)


def test_close_reports_a_gap_without_waiting_for_the_backoff(path: Path, sender: Sender) -> None:
    for number in range(3):
        sender.send(numbered_text(number))
    with PrivateSocket(path) as private:
        sender.flush()
        assert not private.has_pending()
        sender.close()
        with private.accept() as incoming:
            (gap,) = incoming.read_to_end().splitlines()
    assert json.loads(gap)["payload"] == {"dropped": 3, "reason": "relay_restarted"}


def test_relay_that_had_read_everything_misses_nothing(
    path: Path, clock: Clock, sender: Sender
) -> None:
    for number in range(3):
        clock.now += 1
        with PrivateSocket(path) as private:
            sender.send(numbered_text(number))
            with private.accept() as incoming:
                assert json.loads(incoming.line())["number"] == number
                assert incoming.read_available() == b""
    assert (sender.sent, sender.dropped, sender.connects) == (3, 0, 3)


def test_gap_has_no_count_if_the_relay_left_records_unread(
    path: Path, clock: Clock, sender: Sender
) -> None:
    with PrivateSocket(path) as private:
        sender.send(numbered_text(0))
        sender.send(numbered_text(1))
        private.accept().close()
        clock.now += 1
        sender.send(numbered_text(2))
        with private.accept() as incoming:
            gap = json.loads(incoming.line())
            assert gap["payload"] == {"dropped": None, "reason": "relay_restarted"}
            assert json.loads(incoming.line())["number"] == 2
            # The gap is reported once.
            sender.send(numbered_text(3))
            assert json.loads(incoming.line())["number"] == 3
    assert (sender.sent, sender.dropped) == (4, 0)


def test_gap_has_no_count_if_the_relay_never_accepted(
    path: Path, clock: Clock, sender: Sender
) -> None:
    with PrivateSocket(path):
        sender.send(numbered_text(0))  # connected, but never accepted
    clock.now += 1
    with PrivateSocket(path) as private:
        sender.send(numbered_text(1))
        with private.accept() as incoming:
            assert json.loads(incoming.line())["payload"]["dropped"] is None
            assert json.loads(incoming.line())["number"] == 1


def test_gap_after_a_denied_connection_has_its_own_reason(
    path: Path, clock: Clock, sender: Sender
) -> None:
    path.parent.chmod(0o755)
    with PrivateSocket(path) as private:
        path.chmod(0)
        with as_nobody():
            sender.send(numbered_text(0))
        path.chmod(0o666)
        clock.now = 1
        with as_nobody():
            sender.send(numbered_text(1))
        with private.accept() as incoming:
            gap = json.loads(incoming.line())
            assert gap["payload"] == {"dropped": 1, "reason": "permission_denied"}
            assert json.loads(incoming.line())["number"] == 1
    # The next gap has its own reason again.
    clock.now = 2
    sender.send(numbered_text(2))
    with PrivateSocket(path) as private:
        clock.now = 3
        sender.send(numbered_text(3))
        with private.accept() as incoming:
            gap = json.loads(incoming.line())
            assert gap["payload"] == {"dropped": 1, "reason": "relay_restarted"}
    assert (sender.sent, sender.dropped, sender.connects) == (2, 2, 2)


def test_refusal_of_the_relay_is_reported_once(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sender = Sender(path, clock=clock, on_refusal=RefusalLog("PATH"))
    sentence = f"{records.PRODUCER_NOT_ADMITTED}: \x1b[1m."
    with PrivateSocket(path) as private:
        for number in range(3):
            clock.now += 3
            sender.send(numbered_text(number))
            with private.accept() as incoming:
                incoming.socket.send(records.error(sentence))
        clock.now += 3
        sender.send(numbered_text(3))
        with private.accept() as incoming:
            gap = json.loads(incoming.line())
            assert gap["payload"] == {"dropped": None, "reason": "permission_denied"}
    assert caplog.messages == [
        "Notifications are dropped, the relay at PATH refuses them: This relay does not admit this"
        " producer: \\x1b[1m."
    ]
    sender.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n",
        b"\xff\n",
        b'{"event_type": "notif_relayd.error", "payload": "x"}\n',
        b'{"event_type": "notif_relayd.error", "publisher_id": "notif-relayd.h", "payload": 1}\n',
        b'{"event_type": "notif_relayd.error", "publisher_id": "notif-relayd.h", "payload": ',
        b"[" * MAX_ANSWER,
        numbered_text(1).encode(),
    ],
)
def test_other_answer_is_no_refusal(answer: bytes) -> None:
    assert sentence_in(answer) == ""


def test_partial_record_is_dropped_when_the_connection_ends(
    path: Path, clock: Clock, sender: Sender
) -> None:
    with PrivateSocket(path) as private:
        number = 0
        while sender.sent == number:
            sender.send(numbered_text(number, 1048576))
            number += 1
        with private.accept() as incoming:
            assert not incoming.read_available().endswith(b"\n")
        clock.now += 1
        sender.send(numbered_text(number))
        with private.accept() as incoming:
            gap = json.loads(incoming.line())
            assert gap["payload"] == {"dropped": 1, "reason": "relay_restarted"}
            assert json.loads(incoming.line())["number"] == number
    assert (sender.sent, sender.dropped) == (number, 1)


def test_backoff_applies_to_a_relay_that_disconnects(
    path: Path, clock: Clock, sender: Sender
) -> None:
    connected_at = []
    with PrivateSocket(path) as private:
        for _ in range(300):
            connects = sender.connects
            sender.send("{}")
            assert sender.connects <= connects + 1
            if sender.connects > connects:
                connected_at.append(clock.now * 64)
                private.accept().close()
            clock.now += 1 / 64
    # The sender notices the disconnection one or two records later. The intervals are the backoff
    # between failed attempts.
    assert connected_at == [0, 7, 20, 46, 98, 162, 226, 290]


def test_full_backlog_is_a_failed_attempt(path: Path, clock: Clock, sender: Sender) -> None:
    with PrivateSocket(path, backlog=0) as private:
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(os.fspath(path))
            sender.send(numbered_text(0))
            assert (sender.connected, sender.dropped) == (False, 1)
            private.accept().close()
        clock.now += 1
        sender.send(numbered_text(1))
        assert (sender.connected, sender.sent) == (True, 1)


def test_close_sends_the_gap_record_to_a_new_relay(
    path: Path, clock: Clock, sender: Sender
) -> None:
    sender.send("{}")
    with PrivateSocket(path) as private:
        clock.now += 1
        sender.close()
        with private.accept() as incoming:
            assert json.loads(incoming.line())["payload"]["dropped"] == 1
            assert incoming.read_to_end() == b""


def test_regular_file_in_place_of_the_socket_is_untouched(
    path: Path, clock: Clock, sender: Sender
) -> None:
    path.write_text("untouched")
    sender.send("{}")
    assert sender.dropped == 1
    assert path.read_text() == "untouched"


CLOSED_BY_THE_PROCESS = """
import os, sys
from notif_relay.sender import Sender

path, other = sys.argv[1:]
now = 0
sender = Sender(path, clock=lambda: now)
descriptor = os.open("/", os.O_RDONLY)  # the number that the sender's socket will get
os.close(descriptor)
sender.send("0")
# A process that becomes a daemon closes its descriptors; the next file gets the number.
os.closerange(3, 100)
assert os.open(other, os.O_RDWR | os.O_CREAT) == descriptor
now = 10
sender.send("1")
os.write(descriptor, b"still open")
print(sender.sent, sender.dropped, sender.connects)
sender.close()
"""


def test_reused_descriptor_is_left_alone(path: Path, directory: Path) -> None:
    with PrivateSocket(path) as private, Scripts() as scripts:
        script = scripts.run("-c", CLOSED_BY_THE_PROCESS, path, directory / "other")
        for record in (b"0\n", b"1\n"):
            with private.accept() as incoming:
                assert incoming.read_to_end() == record
        assert script.finish() == "2 0 2\n"
    assert (directory / "other").read_text() == "still open"
