# SPDX-License-Identifier: Apache-2.0
"""The tests of ``inside/``, run under a real systemd as PID 1, each reported as a test of its own.

All selected tests run in one container, which is booted once. Its root is the host's own /usr,
read-only, under an empty /etc and /var: no image is needed, and nothing of the host can change.
Nothing of the caller's environment reaches it. This checkout is in its /opt, because the units
hide /root and /home, where it may well be; what is tested is what ``make install`` makes of it
there. A oneshot unit runs pytest and turns the container off. Each test has a deadline and is
reported at once, so that one that fails or hangs leaves the others alone, and one that ends pytest
leaves the verdicts before it.
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
"""Seconds that the container may take, which is more than test-run.service gives pytest."""

REQUIRED = os.environ.get("NOTIF_RELAYD_SYSTEMD_TESTS") == "required"
"""Whether a test that cannot be run fails."""

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # The default of Debian and Ubuntu. In a container with the older hierarchies, systemd-nspawn
    # of Debian 12 cannot start another container with them.
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "yes",
}
"""All that systemd-nspawn sees of the environment: it hands some on, and obeys more of it."""

LEAK = "leaked-from-the-caller"
"""The value of the caller's variables that the container must not see."""

CALLERS = dict.fromkeys(
    (
        *("PIP_CERT", "PIP_INDEX_URL", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
        *("http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "PYTHONSTARTUP", "PYTHONHOME"),
        *("TERM", "LANG", "MAKEFLAGS", "SYSTEMD_NSPAWN_CONTAINER_SERVICE", "CREDENTIALS_DIRECTORY"),
    ),
    LEAK,
)
"""What the caller's environment has while the container is started."""

WRONG = {
    "wrong.py::test_failure": "failed",
    "wrong.py::test_failing_set_up": "failed",
    "wrong.py::test_failing_tear_down": "failed",
    "wrong.py::test_endless_wait": "failed",
    "wrong.py::test_exit": "unfinished",
}
"""Verdicts on tests that go wrong. All but the last, which ends pytest, run before the others."""

Report = dict[str, str]
"""What inside/conftest.py writes of one phase of a test."""


@dataclass(frozen=True, slots=True)
class Booted:
    """The outcome of a run in the container."""

    reports: dict[str, list[Report]]
    """What was reported of each test, by the test's name."""
    console: Path
    """All that the container said: its journal, pytest's own output included."""

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
        """Why it failed or was skipped."""
        return "\n".join(filter(None, (report["reason"] for report in self.reports[test])))

    def output(self, test: str) -> str:
        """What it printed, and the journal. A phase repeats what the ones before it printed."""
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
    """The others are looked at above: the failing ones run before them."""
    assert booted.verdict(wrong) == WRONG[wrong], booted.reason(wrong)


@pytest.fixture(scope="module")
def booted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Booted:
    """The outcome of the tests in the container."""
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
    # The last of the wrong ones ends pytest.
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
        # Shown once, with the first test that it failed.
        sys.stdout.write(console.read_text(errors="replace"))
    return Booted(reports, console)


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
        # Debian's pip loads the system's certificates when it starts, though it never connects.
        *(f"--bind-ro={path}" for path in (CERTIFICATES,) if path.exists()),
        f"--bind-ro={HERE}/inside/test-run.service:/etc/systemd/system/test-run.service",
        # Not a first boot: that would enable every unit.
        *("systemd.unit=test-run.service", "systemd.condition-first-boot=no"),
        *("systemd.show_status=no", "systemd.journald.forward_to_console=yes"),
        # For the daemon too: an editable install points to the checkout's place outside.
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
            console.write(f"Not finished in {DEADLINE} seconds.\n".encode())
        finally:
            kill(container)
