# SPDX-License-Identifier: Apache-2.0
"""The comparison of latencies record by record, with relays that are there without any peer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def compare(*arguments: str, place: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "bench" / "latency.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, cwd=place
    )


def test_ratios_refer_to_the_first_relay() -> None:
    done = compare("notif-relayd", f"other={ROOT}", "asyncio", "--seconds", "0.3")
    assert done.returncode == 0, done.stderr
    _, *lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["notif-relayd", "other", "asyncio"]
    figures = [re.findall(r"([\d.]+) \(([\d.]+)\)", line) for line in lines]
    for line in figures:
        p50, p90, p99 = (float(figure) for figure, _ in line)
        assert 0 < p50 <= p90 <= p99
        for (figure, ratio), (first, _) in zip(line, figures[0], strict=True):
            assert float(ratio) == pytest.approx(float(figure) / float(first), rel=0.01, abs=0.01)


@pytest.mark.parametrize("path", ["{}", "."])
def test_relay_of_the_named_checkout_is_started(path: str, tmp_path: Path) -> None:
    (tmp_path / "handler").mkdir()
    package = tmp_path / "relayd" / "notif_relayd"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('another one')")
    done = compare(f"other={path.format(tmp_path)}", place=tmp_path)
    assert done.returncode != 0
    assert "does not listen: another one" in done.stderr


def test_checkout_without_compiled_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "handler").mkdir()
    package = tmp_path / "relayd" / "notif_relayd"
    package.mkdir(parents=True)
    (package / "_native.cpp").touch()
    done = compare(f"other={tmp_path}")
    assert done.returncode != 0
    assert "other: the compiled module is missing" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Kafka",), "Unknown relay Kafka: use notif-relayd, C limit,"),
        (("other=/nowhere",), "other: /nowhere/handler is not a directory."),
        (("notif-relayd", "--rate", "0"), "--rate and --seconds must be positive and finite"),
        (("notif-relayd", "--seconds", "inf"), "--rate and --seconds must be positive"),
        (("notif-relayd", "--seconds", "nan"), "--rate and --seconds must be positive"),
        ((), "the following arguments are required: RELAY"),
    ],
)
def test_invalid_argument_is_reported(arguments: tuple[str, ...], said: str) -> None:
    done = compare(*arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
