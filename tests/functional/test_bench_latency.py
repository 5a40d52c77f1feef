# SPDX-License-Identifier: Apache-2.0
"""The comparison of latencies record by record, with relays that are there without any peer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "latency.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_relays_of_two_checkouts_are_compared() -> None:
    done = compare("notif-relayd", f"other={ROOT}", "asyncio", "--seconds", "0.3")
    assert done.returncode == 0, done.stderr
    _, *lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["notif-relayd", "other", "asyncio"]
    for line in lines:
        p50, p90, p99 = map(float, re.findall(r"([\d.]+) \(", line))
        assert 0 < p50 <= p90 <= p99
    assert lines[0].count("(1.00)") == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Kafka",), "There is no Kafka; there are notif-relayd, C limit,"),
        (("other=/nowhere",), "other: /nowhere/handler is no directory."),
        (("notif-relayd", "--rate", "0"), "--rate and --seconds must be more than nothing"),
        (("notif-relayd", "--seconds", "-1"), "--rate and --seconds must be more than nothing"),
        ((), "the following arguments are required: RELAY"),
    ],
)
def test_what_cannot_be_compared_is_said(arguments: tuple[str, ...], said: str) -> None:
    done = compare(*arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
