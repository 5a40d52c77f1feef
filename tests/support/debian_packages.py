# SPDX-License-Identifier: Apache-2.0
"""Paths of the packages under test, and apt-get to install them."""

import os
import shlex
import subprocess
from pathlib import Path

from support import doc_blocks

OLD, NEW = (Path(os.environ["NOTIF_RELAYD_PACKAGES"], version) for version in ("old", "new"))


def package(directory: Path, name: str) -> str:
    (found,) = directory.glob(f"{name}_*.deb")
    return str(found)


def apt(*arguments: str) -> str:
    """Run apt-get; there is no network, so dependencies must be installed or given."""
    return shell(shlex.join(["apt-get", "-y", "--no-install-recommends", *arguments]))


def documented(command: str, packages: Path = NEW) -> str:
    """Run the command in the documentation that begins so; `dist` is the directory `packages`."""
    blocks = [*doc_blocks.readme(), *doc_blocks.upgrading("Debian packages")]
    lines = {line for block in blocks for line in block.lines if line.startswith(command)}
    (line,) = lines
    return shell(line.replace("./dist", str(packages)))


def shell(commands: str) -> str:
    """Run commands in a shell and check that they succeed; return their output."""
    done = subprocess.run(
        commands,
        shell=True,
        env={"PATH": os.environ["PATH"], "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
