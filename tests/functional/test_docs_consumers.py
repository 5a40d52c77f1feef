# SPDX-License-Identifier: Apache-2.0
"""Run the example consumers of the documentation, one for each language, with a real relay."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from notif_relay import records
from support.records import record
from support.relay import RunningRelay
from support.waiting import TIMEOUT, wait_until

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def compile_example(compiler: list[str], source: str, directory: Path) -> list[str]:
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    program = directory / "consumer"
    subprocess.run([*compiler, "-o", program, EXAMPLES / source], check=True, timeout=TIMEOUT)
    return [str(program)]


def command(language: str, directory: Path) -> list[str]:
    match language:
        case "python":
            return [sys.executable, str(EXAMPLES / "consumer.py")]
        case "sh":
            return ["sh", str(EXAMPLES / "consumer.sh")]
        case "c":
            return compile_example(
                ["gcc", "-Wall", "-Wextra", "-Werror", "-O2"], "consumer.c", directory
            )
        case _:
            return compile_example(["go", "build"], "consumer.go", directory)


@pytest.mark.parametrize("language", ["python", "sh", "c", "go"])
def test_example_prints_only_errors(relay: RunningRelay, tmp_path: Path, language: str) -> None:
    consumer = subprocess.Popen(
        [*command(language, tmp_path), str(relay.public)], stdout=subprocess.PIPE, text=True
    )
    with consumer, relay.produce() as producer:
        wait_until(lambda: relay.status()["bytes_delivered"], "the filter is applied")
        producer.sendall(record("compute.fine", payload={}))
        producer.sendall(record("compute.broken", "ERROR", payload={"fault": "no host"}))
        assert consumer.stdout is not None
        line = consumer.stdout.readline()
        assert "compute.broken" in line
        assert "no host" in line
        consumer.terminate()


def test_workers_share_the_errors(relay: RunningRelay) -> None:
    command = [sys.executable, str(EXAMPLES / "worker.py"), str(relay.public)]
    with contextlib.ExitStack() as stack:
        producer = stack.enter_context(relay.produce())
        workers = []
        for count in (1, 2):
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            workers.append(stack.enter_context(worker))
            stack.callback(worker.kill)
            wait_members(relay, count)
        producer.sendall(record("fine") + record("one", "ERROR", payload=1))
        assert read_line(workers[0]) == "one 1\n"
        producer.sendall(record("two", "ERROR", payload=2))
        assert read_line(workers[1]) == "two 2\n"
        wait_until(lambda: not relay.request("groups")[0]["unfinished"], "both are finished")
        workers[0].send_signal(signal.SIGSTOP)
        producer.sendall(record("three", "ERROR", payload=3))
        wait_until(lambda: relay.request("groups")[0]["unfinished"], "the record is handed out")
        workers[0].kill()
        assert read_line(workers[1]) == "possibly handled before: 1\n"
        assert read_line(workers[1]) == "three 3\n"
        producer.sendall(records.gap(4, "producer_congested"))
        assert read_line(workers[1]) == "4 are missing: producer_congested\n"
        wait_until(lambda: not relay.request("groups")[0]["unfinished"], "both are finished")


def wait_members(relay: RunningRelay, count: int) -> None:
    wait_until(
        lambda: sum(each["members"] for each in relay.request("groups")) == count,
        f"{count} workers are members",
    )


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_c_consumer_names_the_missing_socket(tmp_path: Path) -> None:
    program = compile_example(["gcc"], "consumer.c", tmp_path)
    done = subprocess.run(
        [*program, str(tmp_path / "none.sock")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/none.sock: No such file or directory\n"
