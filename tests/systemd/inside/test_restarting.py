# SPDX-License-Identifier: Apache-2.0
"""Restarts and crashes under systemd, which stores the connections."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from support.container import (
    DEADLINE,
    INGEST,
    PUBLIC,
    PUBLIC_UNIT,
    SERVICE,
    Journal,
    configure,
    connect,
    drop_in,
    record,
    show,
    states,
    systemctl,
)
from support.load import Load, ProducerTotals, load

PRODUCERS, SUBSCRIBERS = 4, 20
RATE = 10_000
"""Records per second of all producers together."""
TIMES = 20
BETWEEN = 1000
"""Number of records that are relayed between two interruptions."""


def wait_for_stored(number: int) -> None:
    """Wait until the service manager stores this number of descriptors."""
    end = time.monotonic() + DEADLINE
    while (stored := show("NFileDescriptorStore")) != str(number):
        assert time.monotonic() < end, stored


def run_interrupted(interrupt: Callable[[], object]) -> tuple[Load, list[ProducerTotals]]:
    """Run a load and call `interrupt` TIMES times; return the load and the producers' totals."""
    with load(PUBLIC, INGEST, subscribers=SUBSCRIBERS) as running:
        running.produce(PRODUCERS, rate=RATE // PRODUCERS)
        for _ in range(TIMES):
            running.wait_received(BETWEEN)
            interrupt()
        produced = running.finish()
    return running, produced


def kill() -> None:
    restarts = show("NRestarts")
    os.kill(int(show("MainPID")), signal.SIGKILL)
    end = time.monotonic() + DEADLINE
    while show("NRestarts") == restarts or show("ActiveState") != "active":
        assert time.monotonic() < end


def test_twenty_restarts_under_load_lose_no_record() -> None:
    # On a busy machine the subscribers may be behind by more than the default ring holds.
    configure("[relayd]", f"ring_size = {128 * 1024 * 1024}")
    running, produced = run_interrupted(lambda: systemctl("restart", SERVICE))
    for checker in running.checkers:
        assert checker.errors == []
        assert checker.crash_gaps == 0
        assert checker.received == sum(each.sent for each in produced)
        assert checker.missing == checker.announced == sum(each.dropped for each in produced)


def test_twenty_crashes_under_load_lose_no_record_silently() -> None:
    drop_in("RestartSec=100ms")
    running, produced = run_interrupted(kill)
    attempts = sum(each.attempts for each in produced)
    for checker in running.checkers:
        assert checker.errors == []
        assert checker.crash_gaps == TIMES
        assert checker.received + checker.missing == attempts


def test_stop_and_start_leave_nothing_in_the_store() -> None:
    with connect(PUBLIC) as subscriber, connect(INGEST) as producer:
        wait_for_stored(3)
        systemctl("stop", SERVICE)
        assert subscriber.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            producer.sendall(record())
        assert show("NFileDescriptorStore") == "0"
        systemctl("start", SERVICE)
        assert show("NFileDescriptorStore") == "0"


def test_crash_loop_does_not_fill_the_store(journal: Journal) -> None:
    drop_in("RestartSec=100ms")
    for _ in range(5):
        with connect(PUBLIC) as subscriber, connect(INGEST):
            subscriber.sendall(b'{"filter": {"priority": ["ERROR"]}}\n')
            assert b"subscribed" in subscriber.makefile("rb").readline()
            wait_for_stored(3)
            kill()
            assert show("NFileDescriptorStore") == "3"
        wait_for_stored(0)


def test_connection_not_stored_lasts_until_the_next_restart() -> None:
    drop_in("FileDescriptorStoreMax=2", "Environment=RELAYD_FDSTORE=2")
    with connect(INGEST) as producer:
        wait_for_stored(1)
        with connect(PUBLIC) as subscriber:
            producer.sendall(record())
            systemctl("restart", SERVICE)
            lines = subscriber.makefile("rb")
            assert b"compute" in lines.readline()
            assert lines.readline() == b""
            wait_for_stored(1)


def test_daemon_reload_and_reexec_lose_no_connection() -> None:
    with connect(PUBLIC) as subscriber, connect(INGEST) as producer:
        wait_for_stored(3)
        systemctl("daemon-reexec")
        systemctl("daemon-reload")
        systemctl("restart", SERVICE)
        sent = record()
        producer.sendall(sent)
        assert subscriber.makefile("rb").readline() == sent


def test_sockets_stay_active_over_a_restart() -> None:
    with connect(PUBLIC):
        systemctl("restart", SERVICE)
        assert states() == ("active", "active", "active")
        assert show("ActiveState", PUBLIC_UNIT) == "active"
