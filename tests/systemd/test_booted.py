# SPDX-License-Identifier: Apache-2.0
"""Run the tests of ``inside/`` under systemd as PID 1 and report each as a separate test.

All selected tests run in one container, which is booted once. Its /usr is the host's, read-only,
and its /etc and /var are empty. No image is needed, and the container cannot change the host. The
environment of the calling process does not reach it.

The checkout is mounted in /opt, because the units hide /root and /home. The tests use the result of
``make install`` in the container. A oneshot unit runs pytest and powers the container off. Each
test has a deadline and is reported at once. A test that fails or hangs therefore does not affect
the others, and the verdicts before a test that ends pytest are kept.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.waiting import kill

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
CERTIFICATES = Path("/etc/ssl/certs")

DEADLINE = 630
"""Maximum time of the container in seconds; more than TimeoutStartSec= in test-run.service."""

REQUIRED = os.environ.get("NOTIF_RELAYD_SYSTEMD_TESTS") == "required"
"""Whether a test that cannot run fails instead of being skipped."""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # The default of Debian and Ubuntu. With the legacy hierarchies, systemd-nspawn of Debian 12
    # cannot start a nested container.
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "yes",
}
"""The environment of systemd-nspawn, which uses some variables and passes some on."""

LEAK = "leaked-from-the-caller"
"""Value of the calling process's variables, which must not appear in the container."""

CALLERS = dict.fromkeys(
    (
        *("PIP_CERT", "PIP_INDEX_URL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
        *("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "PYTHONSTARTUP", "PYTHONHOME"),
        *("TERM", "LANG", "MAKEFLAGS", "SYSTEMD_NSPAWN_CONTAINER_SERVICE", "CREDENTIALS_DIRECTORY"),
    ),
    LEAK,
)
"""Variables of the calling process while the container starts."""

WRONG = {
    "wrong.py::test_failure": "failed",
    "wrong.py::test_failing_set_up": "failed",
    "wrong.py::test_failing_tear_down": "failed",
    "wrong.py::test_endless_wait": "failed",
    "wrong.py::test_exit": "unfinished",
}
"""Expected verdicts on failing tests. All but the last, which ends pytest, run first."""

Report = dict[str, str]
"""The report of inside/conftest.py on one phase of a test."""


@dataclass(frozen=True, slots=True)
class Booted:
    """The outcome of a run in the container."""

    reports: dict[str, list[Report]]
    """The reports of each test, by its name."""
    console: Path
    """The container's console output, which includes the journal and pytest's output."""

    def verdict(self, test: str) -> str:
        """Return passed, failed, skipped, unfinished or not run."""
        outcomes = {report["phase"]: report["outcome"] for report in self.reports[test]}
        wrong = set(outcomes.values()) - {"passed"}
        if wrong:
            return "failed" if "failed" in wrong else wrong.pop()
        if "teardown" in outcomes:
            return "passed"
        return "unfinished" if outcomes else "not run"

    def reason(self, test: str) -> str:
        """Return why the test failed or was skipped."""
        return "\n".join(filter(None, (report["reason"] for report in self.reports[test])))

    def output(self, test: str) -> str:
        """Return the test's output and journal; each phase includes those of the previous ones."""
        return self.reports[test][-1]["output"] if self.reports[test] else ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "inside" not in metafunc.fixturenames:
        return
    names = [
        f"{path.name}::{statement.name}"
        for path in sorted(HERE.glob("inside/test_*.py"))
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test_")
    ]
    metafunc.parametrize("inside", names, ids=names)


@pytest.mark.phase_deadline(DEADLINE + 30)
def test_under_a_real_systemd(inside: str, booted: Booted) -> None:
    verdict = booted.verdict(inside)
    if verdict == "skipped" and not REQUIRED:
        pytest.skip(booted.reason(inside))
    if verdict != "passed":
        pytest.fail(
            f"{booted.reason(inside)}\n{booted.output(inside)}\n"
            f"{verdict}; the container's console: {booted.console}",
            pytrace=False,
        )


@pytest.mark.phase_deadline(DEADLINE + 30)
@pytest.mark.parametrize("wrong", WRONG)
def test_failing_test_does_not_affect_the_others(wrong: str, booted: Booted) -> None:
    """test_under_a_real_systemd checks the others, which run after the failing ones."""
    assert booted.verdict(wrong) == WRONG[wrong], booted.reason(wrong)


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Booted:
    """Run the selected tests in the container; return their outcomes."""
    obstacle = _obstacle()
    if obstacle and REQUIRED:
        pytest.fail(f"no container can be booted: {obstacle}", pytrace=False)
    if obstacle:
        pytest.skip(f"no container can be booted: {obstacle}")
    work = tmp_path_factory.mktemp("container")
    selected = [
        item.callspec.params["inside"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.parent is request.node
        and "inside" in item.callspec.params
    ]
    # The last failing test ends pytest.
    *first, last = WRONG
    paths = [f"tests/systemd/inside/{name}" for name in (*first, *selected, last)]
    (work / "selected").write_text(f"SELECTED={' '.join(paths)}\n")
    _write_programs(work / "bin")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CALLERS.items():
            patch.setenv(name, value)
        _boot(work)
    reports = defaultdict(list)
    if (work / "reports").exists():
        for line in (work / "reports").read_text().splitlines():
            report = json.loads(line)
            reports[report["test"]].append(report)
    console = work / "console"
    if not reports:
        # Printed once, with the first test that fails because of it.
        sys.stdout.write(console.read_text(errors="replace"))
    return Booted(reports, console)


def _obstacle() -> str | None:
    if os.geteuid() != 0:
        return "root privileges are required"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed (Debian package systemd-container)"
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        return f"the container shares only /usr, and this Python is in {sys.base_prefix}"
    namespaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true"]
    if subprocess.run(namespaces, capture_output=True, check=False).returncode != 0:
        return "namespaces cannot be created"
    return None


def _write_programs(directory: Path) -> None:
    """Write the console scripts as pip would write them in the container."""
    directory.mkdir()
    for name in ("notif-relayd", "notif-relayd-bridge", "relayctl"):
        _, _, body = Path(sys.prefix, "bin", name).read_text().partition("\n")
        script = directory / name
        script.write_text(f"#!/opt/notif-relayd/.venv/bin/python\n{body}")
        script.chmod(0o755)


def _boot(work: Path) -> None:
    command = [
        # A separate PID namespace: when pytest ends in any way, all processes in it end.
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
        # Debian's pip loads the system's certificates at start, even without connecting.
        *(f"--bind-ro={path}" for path in (CERTIFICATES,) if path.exists()),
        f"--bind-ro={HERE}/inside/test-run.service:/etc/systemd/system/test-run.service",
        # A first boot would enable every unit.
        *("systemd.unit=test-run.service", "systemd.condition-first-boot=no"),
        *("systemd.show_status=no", "systemd.journald.forward_to_console=yes"),
        # Also for the daemon: an editable install refers to the checkout's path on the host.
        "systemd.setenv=PYTHONPATH=/opt/notif-relayd/handler:/opt/notif-relayd/relayd",
    ]
    with (work / "console").open("wb") as console:
        container = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
        )
        try:
            container.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            console.write(f"Not finished within {DEADLINE} seconds.\n".encode())
        finally:
            kill(container)
