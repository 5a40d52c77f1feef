# SPDX-License-Identifier: Apache-2.0
"""relayctl as an operator runs it: a process, its output, its exit status."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from running import DEADLINE

RELAYCTL = os.fspath(Path(sys.executable).with_name("relayctl"))

AS_NOBODY = """
import contextlib, io, os, sys
from notif_relayd.ctl.app import main
# First as root, to import what only root may be able to read.
with contextlib.redirect_stdout(io.StringIO()):
    main(["help", "status"])
    if {"top", "doctor"} & set(sys.argv):
        main(sys.argv[1:])
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
sys.exit(main(sys.argv[1:]))
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def relayctl(
    directory: Path, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    return run(RELAYCTL, "--runtime-dir", os.fspath(directory), *arguments, stdin=stdin)


def relayctl_as_nobody(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(
        *(sys.executable, "-c", AS_NOBODY, "--runtime-dir", os.fspath(directory)), *arguments
    )


def run(*command: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def assert_refused(
    done: subprocess.CompletedProcess[str], exit_status: int, *sentence: str
) -> None:
    """It ended with this status, and with one line that has these parts."""
    assert done.returncode == exit_status, done.stderr
    assert re.fullmatch(r"relayctl: [^\n]+\n", done.stderr)
    for part in sentence:
        assert part in done.stderr
