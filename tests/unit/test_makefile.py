# SPDX-License-Identifier: Apache-2.0
"""The Makefile: which versions of Python it accepts and finds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory in which `make venv` has not run yet."""
    for name in ("Makefile", "pyproject.toml", "setup.py"):
        shutil.copy(CHECKOUT / name, tmp_path)
    (tmp_path / "relayd/notif_relayd").mkdir(parents=True)
    for source in (CHECKOUT / "relayd/notif_relayd").glob("*.cpp"):
        shutil.copy(source, tmp_path / "relayd/notif_relayd")
    return tmp_path


def make(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Without the variables of the make that runs the tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--silent", *arguments],
        cwd=directory,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def python_of_version(path: Path, *version: int) -> Path:
    """Write a program that reports this version of Python and can do nothing else."""
    code = f"import sys; sys.version_info = {version!r}; exec(sys.argv[2])"
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{code}' \"$@\"\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 25)])
def test_old_python_is_refused_in_one_line(directory: Path, version: tuple[int, ...]) -> None:
    python = python_of_version(directory / "python", *version)
    made = make(directory, "venv", f"PYTHON={python}", "DEB_PACKAGES=none-of-this-name")
    assert made.returncode != 0
    (line,) = (line for line in made.stderr.splitlines() if not line.startswith("make:"))
    number = ".".join(map(str, version[:2]))
    assert line == f"{python} is Python {number}: set PYTHON= to Python 3.10 or newer"
    assert not (directory / ".venv").exists()


def test_newer_python_is_accepted(directory: Path) -> None:
    python = python_of_version(directory / "python", 3, 100, 0)
    assert make(directory, "supported", f"PYTHON={python}").returncode == 0


def test_newer_pythons_are_found(directory: Path) -> None:
    programs = directory / "bin"
    programs.mkdir()
    for minor in (9, 10, 14, 21):
        python_of_version(programs / f"python3.{minor}", 3, minor, 0)
    path = f"{programs}:/usr/bin:/bin"
    shown = make(
        directory, "--eval=found: ; echo $(FOUND)", "found", PATH=path, HOME="/nonexistent"
    )
    found = shown.stdout.split()
    assert {"3.10", "3.14", "3.21"} <= set(found)
    assert "3.9" not in found
    assert found == sorted(found, key=lambda version: int(version.partition(".")[2]))
