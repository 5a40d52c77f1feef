# SPDX-License-Identifier: Apache-2.0
"""What README.md tells a reader to type works as it stands, but for the socket's path."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from notif_relay.paths import RUNTIME_DIR
from running import DEADLINE, RunningRelay, record, wait_until

README = (Path(__file__).parents[2] / "README.md").read_text()


def examples(language: str, containing: str) -> str:
    """The one block of README in this language that has this text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    (block,) = (each for each in blocks if containing in each)
    return str(block)


READERS = [
    (["sh", "-c", line], "jq" if "jq" in line else "nc")
    for line in examples("sh", "nc -U").splitlines()
] + [([sys.executable, "-c", examples("python", "connect")], sys.executable)]


@pytest.mark.parametrize(("command", "needs"), READERS)
def test_readers_from_the_readme_print_what_is_sent(
    relay: RunningRelay, command: list[str], needs: str
) -> None:
    if shutil.which(needs) is None:
        pytest.skip(f"{needs} is not installed")
    command = [word.replace(RUNTIME_DIR, str(relay.directory)) for word in command]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(reader.kill)
        relay.wait_status(subscribers=1)
        if "filter" in command[-1]:
            wait_until(lambda: relay.status()["bytes_delivered"], "the filter is in force")
        with relay.produce() as producer:
            producer.sendall(record("compute.fine", payload={}))
            producer.sendall(record("compute.broken", "ERROR", payload={}))
            relay.wait_status(records_received=2)
        assert relay.stop() == 0
        output, _ = reader.communicate(timeout=DEADLINE)
    assert "compute.broken" in output
    assert ("compute.fine" in output) is ("ERROR" not in command[-1])
    assert reader.returncode == 0


def test_commands_from_the_readme_run(relay: RunningRelay) -> None:
    lines = examples("sh", "relayctl producers").splitlines()
    assert len(lines) == 4
    for line in lines:
        if "jq" in line and shutil.which("jq") is None:
            continue
        program, arguments = line.split(maxsplit=1)
        relayctl = Path(sys.executable).with_name(program)
        done = subprocess.run(
            ["sh", "-c", f"{relayctl} --runtime-dir {relay.directory} {arguments}"],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0
        assert done.stderr == ""
