# SPDX-License-Identifier: Apache-2.0
"""A real relay loses nothing when system calls fail; strace injects the errors.

Effects that strace cannot cause, such as a partial send, are tested in tests/simulation.
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
    """Make calls of the relay fail.

    Args:
        relay: the relay to attach strace to.
        call: name of the system call.
        error: name of the error.
        when: which calls fail; see `inject` in strace(1).
    """
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
        done = strace.stderr.readline()
        if "Operation not permitted" in done:
            pytest.skip("strace may not attach to another process here")
        assert "attached" in done
        yield
        assert f"{error} " in log.read_text()
        assert "(INJECTED)" in log.read_text()
        # If strace detached during a call that it makes fail, the call would end with ENOSYS.
        stat = Path(f"/proc/{relay.process.pid}/stat")
        wait_until(
            lambda: stat.read_text().rpartition(")")[2].split()[0] == "S", "the relay sleeps"
        )
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
        # Not 1+2: the failing calls would be those that do not sleep, which no signal interrupts.
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
            # The subscribers read only after all records are sent, so they fall behind first.
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
    """Records for many subscribers at once are sent with sendfile()."""
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
    """A sandbox may forbid the call."""
    program = (
        "import logging; logging.basicConfig(level=logging.INFO);"
        "from notif_relayd.fanout.shared_pages import SharedPages; SharedPages()"
    )
    command = [
        *("strace", "-f", "-o", str(tmp_path / "strace.log")),
        *("-e", "trace=sendfile", "-e", "inject=sendfile:error=EPERM"),
        *(sys.executable, "-c", program),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    assert "records are copied for each subscriber: [Errno 1]" in done.stderr


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
    """The first call fails; the relay accepts connections again after a pause."""
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
        wait_until(lambda: relay.status()["producers"] == 1, "connections are accepted")
        assert relay.stop() == 0


def test_unexpected_error_is_logged_and_ends_the_relay(
    relay: RunningRelay,
) -> None:
    with contextlib.suppress(OSError), failing(relay, "epoll_wait", "ENOSYS", "1"):
        connect(relay.public).close()
        assert relay.process.wait(TIMEOUT) == 1
        log = relay.log.read_text()
        assert "unhandled exception, exiting" in log
        assert "Function not implemented" in log
