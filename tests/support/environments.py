# SPDX-License-Identifier: Apache-2.0
"""Python environments in the container, which has no network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.container import run, systemctl

CHECKOUT = Path("/opt/notif-relayd")
SITE_PACKAGES = next(CHECKOUT.glob(".venv/lib/python3.*/site-packages"))
REQUIREMENTS = Path("/opt/requirements")
"""The packages of the development environment without the project, which tests install."""

VARIABLES = {
    "PYTHONPATH": str(REQUIREMENTS),
    "PIP_NO_INDEX": "yes",
    "PIP_NO_BUILD_ISOLATION": "no",  # for an option that begins with "no", this means yes
    "PIP_ROOT_USER_ACTION": "ignore",
}
"""Environment variables for pip and for the programs that it installs."""


@contextmanager
def requirements_at_hand(installed: Path = SITE_PACKAGES) -> Iterator[None]:
    """Make the requirements in this directory available to programs that systemd starts."""
    REQUIREMENTS.mkdir()
    for entry in installed.iterdir():
        if "notif_relay" not in entry.name:
            (REQUIREMENTS / entry.name).symlink_to(entry)
    systemctl("set-environment", f"PYTHONPATH={REQUIREMENTS}")
    try:
        yield
    finally:
        systemctl("unset-environment", "PYTHONPATH")  # restores the value from the boot
        shutil.rmtree(REQUIREMENTS)


def copy_checkout(to: Path) -> None:
    """Copy the sources, so that pip can build in the copy."""
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "bench", "docs")
    shutil.copytree(CHECKOUT, to, ignore=ignored)


def make_environment(directory: Path) -> None:
    """Create an environment that uses the host's pip, because installing pip takes long."""
    made = run("python3", "-m", "venv", "--without-pip", str(directory))
    assert made.returncode == 0, made.stderr
    pip = directory / "bin/pip"
    pip.write_text(f'#!/bin/sh\nexec {directory}/bin/python -m pip "$@"\n')
    pip.chmod(0o755)
