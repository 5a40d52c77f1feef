# SPDX-License-Identifier: Apache-2.0
"""Fixtures in the container: before each test, the relay is installed and its sockets listen.

The outcome of each phase of each test is written to REPORTS at once, as a line of JSON. The
outcomes therefore survive an end of pytest.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.container import PUBLIC_UNIT, Journal, create_users, reset, run, systemctl

REPORTS = Path("/opt/test/reports")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    entry = {
        "test": report.nodeid.rpartition("/")[2],
        "phase": report.when,
        "outcome": report.outcome,
        "reason": report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext,
        "output": "\n".join(text for _, text in report.sections),
    }
    with REPORTS.open("a") as reports:
        reports.write(json.dumps(entry) + "\n")


@pytest.fixture(scope="session")
def installed() -> None:
    """Install the relay as an operator does."""
    made = run("make", "-C", "/opt/notif-relayd", "install")
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="session")
def users(installed: None) -> None:
    create_users()


@pytest.fixture(autouse=True)
def journal(users: None) -> Iterator[Journal]:
    """Return the journal from the start of the test; it is printed when the test fails."""
    reset()
    journal = Journal()
    systemctl("start", PUBLIC_UNIT)
    yield journal
    sys.stdout.write(journal.text())
