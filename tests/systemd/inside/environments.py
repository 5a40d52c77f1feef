# SPDX-License-Identifier: Apache-2.0
"""Python environments in the container, which has no network to install anything from."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from machine import run, systemctl

CHECKOUT = Path("/opt/notif-relayd")
SITE_PACKAGES = next(CHECKOUT.glob(".venv/lib/python3.*/site-packages"))
REQUIREMENTS = Path("/opt/requirements")
"""All that is there for development, but for the project itself, which is yet to be installed."""

VARIABLES = {
    "PYTHONPATH": str(REQUIREMENTS),
    "PIP_NO_INDEX": "yes",
    "PIP_NO_BUILD_ISOLATION": "no",  # which, of an option that begins with no, means yes
    "PIP_ROOT_USER_ACTION": "ignore",
}
"""For pip, and for what is installed by it."""


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
        systemctl("unset-environment", "PYTHONPATH")  # What the machine was booted with is back.
        shutil.rmtree(REQUIREMENTS)


def copy_checkout(to: Path) -> None:
    """Sources that pip may build in."""
    ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "bench", "docs")
    shutil.copytree(CHECKOUT, to, ignore=ignored)


def make_environment(directory: Path) -> None:
    """An environment without a pip of its own, which would take the most of the time."""
    made = run("python3", "-m", "venv", "--without-pip", str(directory))
    assert made.returncode == 0, made.stderr
    pip = directory / "bin/pip"
    pip.write_text(f'#!/bin/sh\nexec {directory}/bin/python -m pip "$@"\n')
    pip.chmod(0o755)
