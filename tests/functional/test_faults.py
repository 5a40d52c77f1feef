# SPDX-License-Identifier: Apache-2.0
"""A real relay whose system calls fail, for real, as strace has them fail: nothing is lost.

What a call may do that strace cannot cause, such as to take a part, is simulated in tests/unit.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayd.fanout.shared_pages import MIN_SHARED_SOCKETS
from support.records import numbered_record
from support.relay import RunningRelay, connect
from support.waiting import TIMEOUT, wait_until

NUMBER = 3000

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@contextlib.contextmanager
def failing(relay: RunningRelay, call: str, error: str, when: str) -> Iterator[None]:
    """Have some of the relay's calls fail."""
    log = relay.directory / "strace.log"
    strace = subprocess.Popen(
        [
            *("strace", "-f", "-p", str(relay.process.pid), "-o", str(log)),
            *("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "Operation not permitted" in said:
            pytest.skip("strace may not attach to another process here")
        assert "attached" in said
        yield
        assert f"{error} " in log.read_text()
        assert "(INJECTED)" in log.read_text()
        # Let go in the middle of a call that is made to fail, it would fail for good (ENOSYS).
        stat = Path(f"/proc/{relay.process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", "it sleeps")
    finally:
        strace.terminate()
        strace.communicate(timeout=TIMEOUT)


@pytest.mark.parametrize(
    ("call", "error", "when"),
    [
        ("sendto", "EINTR", "1+2"),
        ("sendto", "EAGAIN", "1+2"),
        ("sendto", "ENOBUFS", "1+3"),
        ("sendto", "ENOMEM", "2+3"),
        ("sendmsg", "EAGAIN", "1+2"),
        ("sendmsg", "ENOBUFS", "1+2"),
        ("recvfrom", "EINTR", "1+2"),
        ("recvfrom", "EAGAIN", "1+2"),
        ("recvfrom", "ENOMEM", "1+3"),
        # Not every other: that would be each of those that do not sleep, which no signal can end.
        ("epoll_wait", "EINTR", "1+3"),
    ],
)
def test_temporary_call_failure_loses_no_record(
    relay: RunningRelay, call: str, error: str, when: str
) -> None:
    with relay.subscribe() as one, relay.subscribe() as other, relay.produce() as producer:
        relay.wait_status(producers=1)
        with failing(relay, call, error, when):
            expected = [numbered_record(number) for number in range(NUMBER)]
            # Read only when everything is sent, so that they fall behind and catch up, too.
            sending = threading.Thread(target=producer.sendall, args=(b"".join(expected),))
            sending.start()
            sending.join(TIMEOUT)
            assert one.lines(NUMBER) == expected
            assert other.lines(NUMBER) == expected
        status = relay.status()
        assert status["records_received"] == NUMBER
        assert status["records_delivered"] == 2 * NUMBER
        assert status["records_dropped"] == status["records_rejected"] == 0


@pytest.mark.parametrize(("error", "when"), [("EAGAIN", "1+2"), ("ENOMEM", "2+3")])
def test_sendfile_failure_loses_no_record(relay: RunningRelay, error: str, when: str) -> None:
    """What many subscribers get at once goes by a call of its own."""
    expected = [numbered_record(number, size=8192) for number in range(200)]
    with contextlib.ExitStack() as stack:
        subscribers = [stack.enter_context(relay.subscribe()) for _ in range(MIN_SHARED_SOCKETS)]
        producer = stack.enter_context(relay.produce())
        with failing(relay, "sendfile", error, when):
            sending = threading.Thread(target=producer.sendall, args=(b"".join(expected),))
            sending.start()
            for subscriber in subscribers:
                assert subscriber.lines(len(expected)) == expected
            sending.join(TIMEOUT)
        assert relay.status()["records_dropped"] == 0


def test_records_are_copied_where_sendfile_is_forbidden(tmp_path: Path) -> None:
    """As in a sandbox that does not know the call."""
    program = (
        "import logging; logging.basicConfig(level=logging.INFO);"
        "from notif_relayd.fanout.shared_pages import SharedPages; SharedPages()"
    )
    command = [
        *("strace", "-f", "-o", str(tmp_path / "strace.log")),
        *("-e", "trace=sendfile", "-e", "inject=sendfile:error=EPERM"),
        *(sys.executable, "-c", program),
    ]
    said = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert "records are copied for each subscriber: [Errno 1]" in said.stderr


@pytest.mark.parametrize(
    ("call", "error"),
    [
        *((each, error) for each in ("accept4",) for error in ("EMFILE", "ENFILE", "ENOBUFS")),
        ("accept4", "ECONNABORTED"),
        ("epoll_ctl", "ENOSPC"),
    ],
)
def test_accept_failure_does_not_disturb_other_peers(
    relay: RunningRelay, call: str, error: str
) -> None:
    """The first one fails; the door opens again by itself."""
    with relay.subscribe() as subscriber, relay.produce() as producer:
        relay.wait_status(producers=1)
        with failing(relay, call, error, "1"):
            with contextlib.suppress(OSError), relay.produce() as another:
                another.sendall(numbered_record(0))
            producer.sendall(numbered_record(1))
            lines = [subscriber.line()]
            if lines == [numbered_record(0)]:
                lines.append(subscriber.line())
            assert lines[-1] == numbered_record(1)
        wait_until(lambda: relay.status()["producers"] == 1, "the door is open")
        assert relay.stop() == 0


def test_unexpected_error_is_logged_and_ends_the_relay(
    relay: RunningRelay,
) -> None:
    with contextlib.suppress(OSError), failing(relay, "epoll_wait", "ENOSYS", "1"):
        connect(relay.public).close()
        assert relay.process.wait(TIMEOUT) == 1
        log = relay.log.read_text()
        assert "ended by an error that should not have happened" in log
        assert "Function not implemented" in log
