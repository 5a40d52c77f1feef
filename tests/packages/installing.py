# SPDX-License-Identifier: Apache-2.0
"""The packages that are tested, and apt to install them with."""

import os
import subprocess
from pathlib import Path

OLD, NEW = (Path(os.environ["NOTIF_RELAYD_PACKAGES"], version) for version in ("old", "new"))


def package(directory: Path, name: str) -> str:
    (found,) = directory.glob(f"{name}_*.deb")
    return str(found)


def apt(*arguments: str) -> str:
    """Run apt-get, which has no network here and must find everything installed or given."""
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
