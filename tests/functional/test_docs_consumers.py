# SPDX-License-Identifier: Apache-2.0
"""The consumers that the documentation shows, one in each language, with a real relay."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.records import record
from support.relay import RunningRelay
from support.waiting import TIMEOUT, wait_until

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def compiled(compiler: list[str], source: str, into: Path) -> list[str]:
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    program = into / "consumer"
    subprocess.run([*compiler, "-o", program, EXAMPLES / source], check=True, timeout=TIMEOUT)
    return [str(program)]


def command(language: str, into: Path) -> list[str]:
    match language:
        case "python":
            return [sys.executable, str(EXAMPLES / "consumer.py")]
        case "sh":
            return ["sh", str(EXAMPLES / "consumer.sh")]
        case "c":
            return compiled(["gcc", "-Wall", "-Wextra", "-Werror", "-O2"], "consumer.c", into)
        case _:
            return compiled(["go", "build"], "consumer.go", into)


@pytest.mark.parametrize("language", ["python", "sh", "c", "go"])
def test_example_prints_only_errors(relay: RunningRelay, tmp_path: Path, language: str) -> None:
    consumer = subprocess.Popen(
        [*command(language, tmp_path), str(relay.public)], stdout=subprocess.PIPE, text=True
    )
    with consumer, relay.produce() as producer:
        wait_until(lambda: relay.status()["bytes_delivered"], "the filter is in force")
        producer.sendall(record("compute.fine", payload={}))
        producer.sendall(record("compute.broken", "ERROR", payload={"fault": "no host"}))
        assert consumer.stdout is not None
        said = consumer.stdout.readline()
        assert "compute.broken" in said
        assert "no host" in said
        consumer.terminate()


def test_c_consumer_names_the_missing_socket(tmp_path: Path) -> None:
    program = compiled(["gcc"], "consumer.c", tmp_path)
    done = subprocess.run(
        [*program, str(tmp_path / "none.sock")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/none.sock: No such file or directory\n"
