# SPDX-License-Identifier: Apache-2.0
"""The journal, the status text, restarts after a crash, and the watchdog."""

import os
import signal

import pytest

from support.container import (
    INGEST,
    PUBLIC,
    SERVICE,
    Journal,
    connect,
    drop_in,
    relays,
    show,
    systemctl,
    wait_for_status_text,
)

WARNING = 4
INFO = 6


def test_start_and_stop_are_in_the_journal(journal: Journal) -> None:
    assert relays()
    pid = int(show("MainPID"))
    systemctl("stop", SERVICE)
    for message in (f"relaying from {INGEST} to {PUBLIC}", "stopped"):
        entry = journal.entry(SYSLOG_IDENTIFIER="notif-relayd", MESSAGE=message)
        assert (entry["PRIORITY"], entry["_PID"]) == (INFO, pid)
        # The journal adds time and process; the message has neither.
        assert entry["MESSAGE"] == message


def test_rejected_record_warning_names_the_producer(journal: Journal) -> None:
    with connect(INGEST) as producer:
        producer.sendall(b"no record\n")
        entry = journal.entry(SYSLOG_IDENTIFIER="notif-relayd", MESSAGE="rejected")
    assert entry["PRIORITY"] == WARNING
    assert f"pid {os.getpid()} " in str(entry["MESSAGE"])


def test_status_text_counts_connections() -> None:
    with connect(PUBLIC), connect(PUBLIC), connect(INGEST):
        wait_for_status_text("1 producers, 2 subscribers")
    wait_for_status_text("0 producers, 0 subscribers")


def test_sendfile_is_used_unless_the_unit_forbids_it(journal: Journal) -> None:
    assert relays()
    assert "cannot share memory between sockets" not in journal.text()
    systemctl("stop", SERVICE)
    drop_in("SystemCallFilter=~sendfile")
    assert relays()
    entry = journal.entry(
        SYSLOG_IDENTIFIER="notif-relayd", MESSAGE="cannot share memory between sockets"
    )
    assert entry["PRIORITY"] == INFO


def test_killed_daemon_is_restarted(journal: Journal) -> None:
    assert relays()
    os.kill(int(show("MainPID")), signal.SIGKILL)
    journal.entry(MESSAGE="Started notif-relayd.service")
    assert relays()
    assert show("NRestarts") == "1"


def test_watchdog_restarts_a_hanging_daemon(journal: Journal) -> None:
    drop_in("WatchdogSec=2")
    with connect(PUBLIC):
        journal.entry(MESSAGE="Started notif-relayd.service")
        os.kill(int(show("MainPID")), signal.SIGSTOP)
        journal.entry(MESSAGE="Watchdog timeout")
        journal.entry(MESSAGE="Started notif-relayd.service")
    assert relays()
    assert show("NRestarts") == "1"


def test_watchdog_does_not_kill_an_idle_daemon() -> None:
    drop_in("WatchdogSec=2")
    assert relays()
    pid = show("MainPID")
    with connect(PUBLIC) as subscriber:
        subscriber.settimeout(5)
        with pytest.raises(TimeoutError):
            subscriber.recv(1)
    assert show("MainPID") == pid
