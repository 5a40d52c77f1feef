# SPDX-License-Identifier: Apache-2.0
"""The service of the page about log pipelines, which writes notifications to a file."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import doc_blocks
from support.container import (
    DEADLINE,
    INGEST,
    SERVICE,
    access,
    connect,
    record,
    run,
    systemctl,
)

UNIT = "notif-pipeline.service"
DIRECTORY = Path("/var/log/notif-pipeline")
FILE = DIRECTORY / "notifications.json"

BLOCKS = [each for each in doc_blocks.rst("howto/log-pipelines.rst") if each.section == "File"]


def text(place: str) -> str:
    [block] = [each for each in BLOCKS if each.where.endswith(place)]
    return block.text


def shell(commands: str) -> None:
    done = run("sh", "-ec", commands)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def service() -> Iterator[None]:
    """Start the service, with a shorter pause before it starts again."""
    [users] = [each.text for each in BLOCKS if each.language == "sh"]
    shell(users)
    unit = Path("/run/systemd/system") / UNIT
    unit.write_text(text(UNIT).replace("RestartSec=10", "RestartSec=2"))
    systemctl("daemon-reload")
    systemctl("start", UNIT)
    yield
    systemctl("stop", UNIT)
    unit.unlink()
    systemctl("daemon-reload")
    shutil.rmtree(DIRECTORY)
    shell("userdel notif-pipeline")


def send(*records: bytes) -> None:
    with connect(INGEST) as producer:
        producer.sendall(b"".join(records))


def wait_content(path: Path, expected: list[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while (content := path.read_bytes() if path.exists() else b"") != b"".join(expected):
        assert time.monotonic() < end, content
        time.sleep(0.01)


def wait_group(column: str, value: int) -> None:
    """Wait for a figure of the group of the service."""
    end = time.monotonic() + DEADLINE
    command = ("relayctl", "groups", "-f", "value", "-c", column)
    while (shown := run(*command).stdout) != f"{value}\n":
        assert time.monotonic() < end, shown
        time.sleep(0.01)


def rotate(directory: Path) -> None:
    """Run logrotate, or if it is not installed, what it does here."""
    configuration = directory / "logrotate"
    configuration.write_text(text("logrotate.d/notif-pipeline"))
    if shutil.which("logrotate"):
        shell(f"logrotate --force --state {directory}/state {configuration}")
    else:
        _, _, script = configuration.read_text().partition("prerotate")
        shell(script.partition("endscript")[0])
        FILE.rename(f"{FILE}.1")


def test_service_writes_across_a_restart_and_a_rotation(service: None, tmp_path: Path) -> None:
    wait_group("members", 1)
    before = [record() for _ in range(10)]
    send(*before[:5])
    wait_content(FILE, before[:5])
    assert access(os.fspath(FILE)) == ("0640", "notif-pipeline", "notif-pipeline")
    assert access(os.fspath(DIRECTORY)) == ("0750", "notif-pipeline", "notif-pipeline")
    systemctl("restart", SERVICE)
    send(*before[5:])
    wait_content(FILE, before)

    wait_group("unfinished", 0)  # relayctl gets the others again.
    rotate(tmp_path)
    after = [record() for _ in range(10)]
    send(*after)
    wait_content(FILE, after)
    assert (DIRECTORY / "notifications.json.1").read_bytes() == b"".join(before)
