# SPDX-License-Identifier: Apache-2.0
"""What ``make dist`` makes: a wheel for any service's environment, sources for packagers."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from notif_relay.version import __version__

CHECKOUT = Path(__file__).parents[2]
INFO = f"notif_relayd-{__version__}.dist-info"
PACKAGERS_DIRECTORIES = (
    *("ansible", "debian", "devstack", "docs", "etc", "packaging", "releasenotes"),
    *("systemd", "tests"),
)
PACKAGES = {"notif_relay": CHECKOUT / "handler", "notif_relayd": CHECKOUT / "relayd"}


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both of them."""
    directory = tmp_path_factory.mktemp("dist")
    command = ["make", "--silent", "dist", f"DIST={directory}", f"BUILD_PYTHON={sys.executable}"]
    made = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return directory


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    return dist / f"notif_relayd-{__version__}-py3-none-any.whl"


def sources(package: str) -> set[str]:
    """The package's files, as they are named in a wheel."""
    root = PACKAGES[package]
    modules = {str(path.relative_to(root)) for path in (root / package).rglob("*.py")}
    return modules | {f"{package}/py.typed"}


def test_both_are_made_and_nothing_else(dist: Path, wheel: Path) -> None:
    assert set(dist.iterdir()) == {wheel, dist / f"notif_relayd-{__version__}.tar.gz"}


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    about = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    # Where it stands within the metadata depends on the version of setuptools.
    licenses = {f"{INFO}/LICENSE", f"{INFO}/licenses/LICENSE"} & names
    assert len(licenses) == 1
    assert names - licenses == (
        sources("notif_relay") | sources("notif_relayd") | {f"{INFO}/{name}" for name in about}
    )


def test_the_wheel_tells_its_programs_its_drivers_and_its_options(wheel: Path) -> None:
    told = configparser.ConfigParser(delimiters=["="])
    with zipfile.ZipFile(wheel) as archive:
        told.read_string(archive.read(f"{INFO}/entry_points.txt").decode())
    assert {section: set(told[section]) for section in told.sections()} == {
        "console_scripts": {"notif-relayd", "relayctl"},
        "oslo.config.opts": {"notif_relay", "notif_relayd"},
        "oslo.messaging.drivers": {"unix"},
        "oslo.messaging.notify.drivers": {"unix"},
    }


def test_the_wheel_alone_can_be_installed_and_imported_without_anything_else(
    wheel: Path, tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-index", wheel], check=True)
    listed = subprocess.run(
        [*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    assert listed.stdout == f"notif-relayd=={__version__}\n"
    subprocess.run([python, "-I", "-c", "import notif_relay, notif_relay.aio"], check=True)
    daemon = subprocess.run(
        [environment / "bin/notif-relayd"], capture_output=True, text=True, check=False
    )
    assert daemon.returncode == 1
    assert "pip install 'notif-relayd[daemon]'" in daemon.stderr


def test_the_sources_hold_all_that_a_packager_needs_and_nothing_that_was_built(dist: Path) -> None:
    top = f"notif_relayd-{__version__}/"
    with tarfile.open(dist / f"notif_relayd-{__version__}.tar.gz") as archive:
        names = {each.name.removeprefix(top) for each in archive if each.isfile()}
    needed = {"LICENSE", "Makefile", "README.md", "pyproject.toml"}
    for directory in PACKAGERS_DIRECTORIES:
        needed |= {
            str(path.relative_to(CHECKOUT))
            for path in (CHECKOUT / directory).rglob("*")
            if path.is_file() and path.suffix != ".pyc" and "docs/build" not in str(path)
        }
    assert needed - names == set()
    assert {name for name in names if name.endswith(".pyc") or "build/" in name} == set()
    assert {name for name in names if name.startswith(".")} == set()
