# SPDX-License-Identifier: Apache-2.0
"""Paths of the packages under test, and apt-get to install them."""

import os
import subprocess
from pathlib import Path

OLD, NEW = (Path(os.environ["NOTIF_RELAYD_PACKAGES"], version) for version in ("old", "new"))


def package(directory: Path, name: str) -> str:
    (found,) = directory.glob(f"{name}_*.deb")
    return str(found)


def apt(*arguments: str) -> str:
    """Run apt-get; there is no network, so dependencies must be installed or given."""
    environment = {"PATH": os.environ["PATH"], "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        ["apt-get", "-y", "--no-install-recommends", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
