# SPDX-License-Identifier: Apache-2.0
"""README.md: its order, and the commands that need no root.

tests/systemd, tests/packages and tests/bare run the other commands.
"""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from notif_relayctl.formats import as_line
from support import doc_blocks
from support.doc_blocks import ROOT
from support.relay import Relay
from support.waiting import wait_until

SAMPLE = re.compile(
    r"(?P<timestamp>\S+ \S+) (?P<priority>\w+) +(?P<publisher_id>\S+) (?P<event_type>\S+) "
    r"(?P<payload>.+)"
)
"""A line of `relayctl tail`."""


@pytest.fixture
def checkout(directory: Path) -> Iterator[Path]:
    """Copy the sources; end a relay that still runs in the copy after the test."""
    copy = directory / "checkout"
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "docs", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    yield copy
    subprocess.run(["pkill", "--pidfile", copy / "try/pid"], capture_output=True, check=False)


def environment() -> dict[str, str]:
    """Return an environment without a compiler, an index, or another `python3` than this one."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CC": "/bin/false",
        "CXX": "/bin/false",
        "PIP_NO_INDEX": "yes",
        "PIP_NO_BUILD_ISOLATION": "no",  # for an option that begins with "no", this means yes
        "PYTHONPATH": sysconfig.get_path("purelib"),
    }


def test_try_without_root_and_compiler_works(checkout: Path) -> None:
    def shell(commands: str) -> None:
        command = ["bash", "-ec", commands]
        subprocess.run(command, cwd=checkout, env=environment(), check=True)

    blocks = [block for block in doc_blocks.readme() if block.section == doc_blocks.TRY]
    install, send, shown, remove = blocks
    assert [block.language for block in blocks] == ["sh", "sh", "text", "sh"]
    *commands, tail = install.lines
    shell("\n".join(commands))
    with subprocess.Popen(
        ["bash", "-c", f"exec {tail}"],
        cwd=checkout,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        Relay(checkout / "try").wait_subscribed()
        shell(send.text)
        assert reader.stdout is not None
        line = reader.stdout.readline()
        reader.terminate()
    shown_fields, expected = fields(line), fields(shown.text)
    assert shown_fields["publisher_id"].startswith("relayctl.")
    for name in ("priority", "event_type", "payload"):
        assert shown_fields[name] == expected[name]
    stop, remove_files = remove.lines
    shell(stop)
    wait_until(lambda: not (checkout / "try/pid").exists(), "the relay has stopped")
    shell(remove_files)
    assert not (checkout / "try").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/index.rst"])
def test_sample_output_is_in_the_format_of_tail(page: str) -> None:
    samples = re.findall(r"^ *(\d+-\d+-\d+ .+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert samples
    for sample in samples:
        assert as_line(fields(sample)) == sample


def test_readme_leads_a_new_user_from_a_try_to_a_service() -> None:
    page = (ROOT / "README.md").read_text()
    headings = re.findall(r"^## (.+)", page, re.MULTILINE)
    expected = [doc_blocks.TRY, "Reading notifications", "Guarantees", doc_blocks.INSTALLING]
    assert headings[:5] == [*expected, "Connecting a service"]
    assert len(re.findall(r"^\| \*\*", page, re.MULTILINE)) == 5  # rows of the guarantees
    ways = re.findall(r"^### (\w+),", page, re.MULTILINE)
    assert ways == ["Packages", "pip"]


def test_no_block_mixes_commands_and_their_output() -> None:
    """Only blocks of commands have a button that copies them, so they contain nothing else."""
    pages = [path for path in (ROOT / "docs").rglob("*.rst") if "build" not in path.parts]
    assert len(pages) > 20
    mixed = re.compile(r"^ *(?:\.\. code-block:: console|\$ \w.*)$", re.MULTILINE)
    assert [path for path in pages if mixed.search(path.read_text())] == []


def fields(line: str) -> dict[str, str]:
    """Return the fields of a line of `relayctl tail`."""
    match = SAMPLE.fullmatch(line.strip())
    assert match, line
    moment = dt.datetime.fromisoformat(match["timestamp"]).astimezone()  # shown as local time
    return match.groupdict() | {"timestamp": moment.isoformat()}
