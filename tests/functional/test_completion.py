# SPDX-License-Identifier: Apache-2.0
"""The installed completions in real shells, which complete commands, options and values."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.terminal import Terminal
from support.waiting import TIMEOUT

CHECKOUT = Path(__file__).parents[2]

PROGRAMS = ("notif-relayd", "notif-relayd-bridge", "relayctl")

COMPLETED = {
    "relayctl stat": "status",
    "relayctl --runtime-dir /x send --ing": "--ingest-path",
    "relayctl disconnect --runtime-dir {}/chos": "{}/chosen",
    "relayctl tail --priority wa": "WARN",
    "relayctl tail --priority=wa": "WARN",
    "relayctl tail --for 3 -o json-": "json-pretty",
    "relayctl watch --out": "--output",
    "relayctl status -f ya": "yaml",
    "relayctl status -c pid -c ring_b": "ring_bytes",
    "relayctl producers --sort-column=com": "command",
    "relayctl doctor --needs sub": "subscribe",
    "relayctl doctor --user nob": "nobody",
    "relayctl doctor --service-config {}/chos": "{}/chosen",
    "relayctl help sub": "subscribers",
    "relayctl complete --shell f": "fish",
    "notif-relayd --relayd-ring": "--relayd-ring_size",
    "notif-relayd --pidfile {}/chos": "{}/chosen",
    "notif-relayd-bridge --onc": "--once",
    "notif-relayd-bridge --config-file {}/chos": "{}/chosen",
    "notif-relayd --config-dir={}/chos": "{}/chosen",
    "notif-relayd --relayd-control_user nob": "nobody",
}
"""Command lines and the last word after completion; {} is a directory."""


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the completions, and return the directory for data of all programs."""
    directory = tmp_path_factory.mktemp("installed")
    (directory / "chosen").mkdir()
    make = ["make", "--silent", "install", f"DESTDIR={directory}"]
    subprocess.run(make, cwd=CHECKOUT, check=True)
    return directory / "usr/local/share"


def last_words(share: Path, *shell: str, setup: str) -> dict[str, str]:
    """Return the last word of each line after Tab has been pressed in an interactive shell."""
    number = 0

    def run(line: str) -> str:
        nonlocal number
        number += 1
        terminal.press(f"{line}\n".encode())
        words = terminal.wait_for(rf"(?<=\nRAN {number}:)[^\r\n]*(?=\r?\n)")
        return words.rstrip().rstrip("/").rpartition(" ")[2].rpartition("=")[2]

    directory = os.fspath(share.parents[2])
    with Terminal(*shell, columns=500, environment={"TERM": "dumb"}) as terminal:
        terminal.press(
            f"{setup}\nran() {{ printf 'RAN %s:%s\\n' $((number += 1)) \"$*\"; }}\n".encode()
        )
        for program in PROGRAMS:
            terminal.press(f"{program}() {{ ran $*; }}\n".encode())
        run("ran")
        return {line: run(f"{line.format(directory)}\t") for line in COMPLETED}


def expected(share: Path) -> dict[str, str]:
    return {line: last.format(share.parents[2]) for line, last in COMPLETED.items()}


def test_bash_completes_commands_options_and_values(share: Path) -> None:
    setup = "\n".join(f"source {share}/bash-completion/completions/{each}" for each in PROGRAMS)
    assert last_words(share, "bash", "--norc", "--noprofile", "-i", setup=setup) == expected(share)


def test_zsh_completes_commands_options_and_values(share: Path) -> None:
    setup = f"fpath=({share}/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D"
    assert last_words(share, "zsh", "-f", "-i", setup=setup) == expected(share)


def test_fish_completes_commands_options_and_values(share: Path, tmp_path: Path) -> None:
    script = "for line in $argv; echo (complete -C $line); end"
    lines = [line.format(share.parents[2]) for line in COMPLETED]
    environment = {
        "HOME": os.fspath(tmp_path),
        # fish completes only programs that exist.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_DATA_DIRS": f"{share}:/usr/share",
    }
    done = subprocess.run(
        ["fish", "-c", script, *lines],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    words = (line.partition("\t")[0].rstrip("/") for line in done.stdout.splitlines())
    found = dict(zip(COMPLETED, (word.rpartition("=")[2] for word in words), strict=True))
    assert found == expected(share)
