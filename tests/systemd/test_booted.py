# SPDX-License-Identifier: Apache-2.0
"""The tests of ``inside/``, run under a real systemd as PID 1, each reported as a test of its own.

All that are selected run in one container, booted once. Its root is the host's own /usr,
read-only, under an empty /etc and /var: no image is needed, and nothing of the host can change.
This checkout is in its /opt, because the units hide /root and /home, where it may well be; what
is tested is what ``make install`` makes of it there. A oneshot unit runs pytest and turns the
container off. Its verdicts come back as a JUnit file and are repeated here.
"""

import ast
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]

DEADLINE = 630
"""Seconds that the container may take, which is more than test-run.service gives pytest."""


@dataclass(frozen=True, slots=True)
class Booted:
    """What became of a run in the container."""

    verdicts: dict[str, ET.Element]
    """The JUnit element of each test that was run, by the test's name."""
    console: Path
    """All that the container said: its journal, pytest's own output included."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [
        f"{path.name}::{statement.name}"
        for path in sorted(HERE.glob("inside/test_*.py"))
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test_")
    ]
    metafunc.parametrize("inside", names, ids=names)


def test_under_a_real_systemd(inside: str, booted: Booted) -> None:
    verdict = booted.verdicts.get(inside)
    if verdict is None:
        pytest.fail(f"it was not run; the container's console: {booted.console}", pytrace=False)
    if any(part.tag in ("failure", "error", "skipped") for part in verdict):
        said = "\n".join(part.text or part.get("message", "") for part in verdict)
        pytest.fail(f"{said}\nThe container's console: {booted.console}", pytrace=False)


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Booted:
    """The outcome of the tests in the container."""
    obstacle = _obstacle()
    if obstacle and os.environ.get("NOTIF_RELAYD_SYSTEMD_TESTS") == "required":
        pytest.fail(f"no container can be booted: {obstacle}", pytrace=False)
    if obstacle:
        pytest.skip(f"no container can be booted: {obstacle}")
    work = tmp_path_factory.mktemp("container")
    selected = [
        f"tests/systemd/inside/{item.callspec.params['inside']}"
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.parent is request.node
    ]
    (work / "selected").write_text(f"SELECTED={' '.join(selected)}\n")
    _write_programs(work / "bin")
    _boot(work)
    console, results = work / "console", work / "results.xml"
    verdicts = {}
    if results.exists():
        for case in ET.parse(results).iter("testcase"):
            module = case.attrib["classname"].rpartition(".")[2]
            verdicts[f"{module}.py::{case.attrib['name']}"] = case
    if not verdicts:
        # Shown once, with the first test that it failed.
        sys.stdout.write(console.read_text(errors="replace"))
    return Booted(verdicts, console)


def _obstacle() -> str | None:
    if os.geteuid() != 0:
        return "that takes root"
    if shutil.which("systemd-nspawn") is None:
        return "there is no systemd-nspawn (Debian's package is systemd-container)"
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        return f"it would share the host's /usr, and this Python is in {sys.base_prefix}"
    namespaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true"]
    if subprocess.run(namespaces, capture_output=True, check=False).returncode != 0:
        return "this root may not create namespaces"
    return None


def _write_programs(directory: Path) -> None:
    """The console scripts, as pip would have written them in the container."""
    directory.mkdir()
    for name in ("notif-relayd", "relayctl"):
        _, _, body = Path(sys.prefix, "bin", name).read_text().partition("\n")
        script = directory / name
        script.write_text(f"#!/opt/notif-relayd/.venv/bin/python\n{body}")
        script.chmod(0o755)


def _boot(work: Path) -> None:
    command = [
        # In a process namespace of its own, so that whatever ends pytest ends all that is in it.
        *("setpriv", "--pdeathsig=KILL"),
        *("unshare", "--pid", "--mount-proc", "--fork", "--kill-child"),
        *("systemd-nspawn", "--quiet"),
        *("--directory=/", "--volatile=yes", "--private-network", "--boot"),
        *("--register=no", "--keep-unit", f"--machine=notif-relayd-{os.getpid()}"),
        f"--bind={work}:/opt/test",
        f"--bind-ro={CHECKOUT}:/opt/notif-relayd",
        f"--bind-ro={sys.prefix}:/opt/notif-relayd/.venv",
        f"--bind-ro={work}/bin:/usr/local/bin",
        *("--tmpfs=/usr/local/lib", "--tmpfs=/usr/local/share"),
        f"--bind-ro={HERE}/inside/test-run.service:/etc/systemd/system/test-run.service",
        # Not a first boot: that would enable every unit.
        *("systemd.unit=test-run.service", "systemd.condition-first-boot=no"),
        *("systemd.show_status=no", "systemd.journald.forward_to_console=yes"),
        # For the daemon too: an editable install points to the checkout's place outside.
        "systemd.setenv=PYTHONPATH=/opt/notif-relayd/handler:/opt/notif-relayd/relayd",
    ]
    with (work / "console").open("wb") as console:
        container = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
        )
        try:
            container.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            console.write(f"Not finished in {DEADLINE} seconds.\n".encode())
        finally:
            container.kill()
            container.wait()
