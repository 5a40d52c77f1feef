# SPDX-License-Identifier: Apache-2.0
"""The results of ``make dist``: a wheel for any service's environment, and an sdist for packagers.

The wheel contains a compiled module if there is a compiler, and works without it.
"""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from notif_relay.version import __version__
from support.records import record
from support.relay import Subscriber, connect
from support.waiting import wait_until

CHECKOUT = Path(__file__).parents[2]
INFO = f"notif_relayd-{__version__}.dist-info"
PACKAGERS_DIRECTORIES = (
    *("debian", "devstack", "docs", "etc", "packaging"),
    *("systemd", "tests"),
)
COMPILED = f"notif_relayd/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
PACKAGES = {
    "notif_relay": CHECKOUT / "handler",
    "notif_relayctl": CHECKOUT / "relayd",
    "notif_relayd": CHECKOUT / "relayd",
    "notif_relayd_bridge": CHECKOUT / "relayd",
}


def make_dist(directory: Path, **variables: str) -> None:
    command = ["make", "--silent", "dist", f"DIST={directory}", f"BUILD_PYTHON={sys.executable}"]
    environment = {**os.environ, **variables}
    made = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the wheel and the sdist."""
    directory = tmp_path_factory.mktemp("dist")
    make_dist(directory)
    return directory


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    [wheel] = dist.glob("*.whl")
    return wheel


def sources(package: str) -> set[str]:
    """Return the names of the package's files in a wheel."""
    root = PACKAGES[package]
    return {
        str(path.relative_to(root))
        for pattern in ("*.py", "*.pyi", "py.typed", "completions/*")
        for path in (root / package).rglob(pattern)
    }


def test_dist_makes_sdist_and_wheel_only(dist: Path, wheel: Path) -> None:
    assert set(dist.iterdir()) == {wheel, dist / f"notif_relayd-{__version__}.tar.gz"}
    # The compiled module makes the wheel specific to this Python and this machine.
    assert sysconfig.get_config_var("SOABI").split("-")[1] in wheel.name
    assert os.uname().machine in wheel.name


def test_wheel_has_the_packages_and_nothing_else(wheel: Path) -> None:
    metadata = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    # Its directory within the metadata depends on the version of setuptools.
    licenses = {f"{INFO}/LICENSE", f"{INFO}/licenses/LICENSE"} & names
    assert len(licenses) == 1
    assert names - licenses == (
        sources("notif_relay")
        | sources("notif_relayctl")
        | sources("notif_relayd")
        | sources("notif_relayd_bridge")
        | {COMPILED}
        | {f"{INFO}/{name}" for name in metadata}
    )


def test_wheel_declares_all_entry_points(wheel: Path) -> None:
    entry_points = configparser.ConfigParser(delimiters=["="])
    with zipfile.ZipFile(wheel) as archive:
        entry_points.read_string(archive.read(f"{INFO}/entry_points.txt").decode())
    assert {section: set(entry_points[section]) for section in entry_points.sections()} == {
        "console_scripts": {"notif-relayd", "notif-relayd-bridge", "relayctl"},
        "oslo.config.opts": {"notif_relay", "notif_relayd", "notif_relayd_bridge"},
        "oslo.messaging.drivers": {"unix"},
        "oslo.messaging.notify.drivers": {"unix"},
    }


def test_wheel_imports_without_other_packages(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        python,
    ]
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
    assert "pip install '.[daemon]'" in daemon.stderr


def test_relay_works_without_the_compiled_module(tmp_path: Path) -> None:
    make_dist(tmp_path, CC="/bin/false", CXX="/bin/false")
    [wheel] = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        assert COMPILED not in archive.namelist()
        archive.extractall(unpacked)
    log = tmp_path / "log"
    # -S ignores the *.pth file through which the compiled module of the checkout is found.
    command = [sys.executable, "-S", "-m", "notif_relayd", "--runtime-dir", os.fspath(tmp_path)]
    search_path = os.pathsep.join((os.fspath(unpacked), sysconfig.get_path("purelib")))
    environment = {**os.environ, "PYTHONPATH": search_path}
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, env=environment, stderr=stderr) as relay,
    ):
        try:
            wait_until(lambda: "fast path is missing" in log.read_text(), "the relay logs it")
            with (
                Subscriber(tmp_path / "notifications.sock") as subscriber,
                connect(tmp_path / "ingest.sock") as producer,
            ):
                producer.sendall(record())
                assert subscriber.line() == record()
        finally:
            relay.terminate()


def test_sdist_has_all_sources_and_nothing_built(dist: Path) -> None:
    top = f"notif_relayd-{__version__}/"
    with tarfile.open(dist / f"notif_relayd-{__version__}.tar.gz") as archive:
        names = {each.name.removeprefix(top) for each in archive if each.isfile()}
    needed = {"LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.py"}
    needed.add("relayd/notif_relayd/_native.cpp")
    for directory in PACKAGERS_DIRECTORIES:
        needed |= {
            str(path.relative_to(CHECKOUT))
            for path in (CHECKOUT / directory).rglob("*")
            if path.is_file() and path.suffix != ".pyc" and "docs/build" not in str(path)
        }
    assert needed - names == set()
    assert {name for name in names if name.endswith((".pyc", ".so")) or "build/" in name} == set()
    assert {name for name in names if name.startswith(".")} == set()
