# SPDX-License-Identifier: Apache-2.0
"""The host as each test finds it: installed, the sockets there, and no connection yet.

The outcome of each phase of each test is a line of JSON in REPORTS, written at once: whatever
becomes of pytest, the verdicts so far are there.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import PUBLIC_UNIT, Journal, reset, run, systemctl

REPORTS = Path("/opt/test/reports")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    entry = {
        "test": report.nodeid.rpartition("/")[2],
        "phase": report.when,
        "outcome": report.outcome,
        "reason": report.longrepr[2] if report.skipped else report.longreprtext,
        "output": "\n".join(text for _, text in report.sections),
    }
    with REPORTS.open("a") as reports:
        reports.write(json.dumps(entry) + "\n")


@pytest.fixture(scope="session")
def installed() -> None:
    """What an operator does."""
    made = run("make", "-C", "/opt/notif-relayd", "install")
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="session")
def users(installed: None) -> None:
    """One for each group that may do something, and one who is in none."""
    groups = {"reader": "notif-subscribers", "writer": "notif-producers", "admin": "notif-relayd"}
    lines = [f"u {user} -" for user in (*groups, "outsider")]
    lines += [f"m {user} {group}" for user, group in groups.items()]
    made = run("systemd-sysusers", "--inline", *lines)
    assert made.returncode == 0, made.stderr


@pytest.fixture(autouse=True)
def journal(users: None) -> Iterator[Journal]:
    """The journal of this test, which is shown when it fails."""
    reset()
    journal = Journal()
    systemctl("start", PUBLIC_UNIT)
    yield journal
    sys.stdout.write(journal.text())
